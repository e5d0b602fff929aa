// The search page. Text from data is put in as text alone (textContent); nothing here makes mark-up of a string.

const at = (id) => document.getElementById(id);
// What this page can send, by the kind of tower.
const KINDS = { text: "text", protein: "sequence", image: "image", video: "video" };
const FILES = ["image", "video"]; // kinds that are files
const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|m2ts|ts|wmv|flv|ogv|3gp)$/i; // where the browser does not know the type
const SEQUENCE = /^[A-Z*\s]{12,}$/; // capitals alone; fewer may be a word
let about = null;
let files = []; // that were dropped: a picture, a video, or the frames of one as pictures
let asking = 0; // number of the search that was sent last

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Error("setclip does not answer. If it was stopped, start it again and open its new address.");
  }
  const text = await answer.text();
  let content;
  try { content = JSON.parse(text); } catch { content = { error: text }; }
  if (answer.ok) return content;
  throw new Error(content.error + (content.fix ? ` (${content.fix})` : ""));
}

function tell(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

// ---- the query

const towers = (kind) => about.towers.filter((tower) => tower.kind === kind);
const searchable = () => about.towers.filter((tower) => tower.searched > 0);
const option = (value, textContent) => make("option", { value, textContent });

async function start() {
  try {
    about = await ask("/about");
  } catch (error) {
    return tell(error.message);
  }
  const rows = searchable().map((tower) => `${tower.searched.toLocaleString("en")} ${tower.modality} rows`);
  at("about").textContent = `${rows.join(", ")}${about.split ? ` of split ${about.split}` : ""} · ${about.method}`;
  const typed = about.towers.filter((tower) => KINDS[tower.kind] && !FILES.includes(tower.kind));
  at("as").replaceChildren(option("", "detect"), ...about.towers.filter((tower) => KINDS[tower.kind])
    .map((tower) => option(tower.modality, tower.modality)));
  at("in").replaceChildren(option("", "another modality"), ...searchable().map((tower) => option(tower.modality, tower.modality)));
  const can = [];
  if (towers("text").length) can.push("type words");
  if (towers("protein").length) can.push("paste a sequence");
  const image = towers("image").length > 0, video = towers("video").length > 0;
  if (image) can.push("drop or paste a picture");
  if (video) can.push("drop a video, or its frames as pictures");
  at("choose-box").hidden = !image && !video;
  at("choose-what").textContent = [image && "picture", video && "video or frames"].filter(Boolean).join(", ");
  at("choose").accept = `image/*,.tif,.tiff${video ? ",video/*,.mkv,.ts,.m2ts" : ""}`;
  at("choose").multiple = video;
  at("words").placeholder = can.join(", or ") || "programs can search here; this page cannot send vectors";
  at("words").disabled = !typed.length && !image && !video;
  at("words").focus();
  document.body.dataset.page = "ready";
}

const chosenKind = () => about.towers.find((tower) => tower.modality === at("as").value)?.kind;

function kindOf(words) {
  if (chosenKind()) return chosenKind();
  const protein = towers("protein").length, text = towers("text").length;
  return protein && (!text || SEQUENCE.test(words)) ? "protein" : "text";
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let letters = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    letters += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(letters);
}

const isVideo = (file) => file.type.startsWith("video/") || VIDEO.test(file.name);

async function query() {
  if (files.length) {
    const frames = files.length > 1 || !towers("image").length || chosenKind() === "video";
    if (isVideo(files[0]) || (files[0].type === "image/gif" && files.length === 1 && frames)) {
      return { video: await base64(files[0]) };
    }
    if (!towers("video").length || !frames) return { image: await base64(files[0]) };
    return { frames: await Promise.all(files.map(base64)) };
  }
  const words = at("words").value.trim();
  return words ? { [KINDS[kindOf(words)] ?? "text"]: words } : null;
}

async function take(given) {
  if (!given.length) return;
  const video = given.find(isVideo);
  files = video ? [video] : towers("video").length ? given : given.slice(0, 1);
  files.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true })); // frames, 2 before 10
  const [file] = files;
  at("dropped-name").textContent = files.length > 1 ? `${files.length} frames: ${file.name} …` : file.name;
  at("words").hidden = true;
  at("dropped").hidden = false;
  const canvas = at("preview");
  canvas.width = canvas.height = 0;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, 288 / Math.max(bitmap.width, bitmap.height));
    canvas.width = Math.max(1, bitmap.width * scale);
    canvas.height = Math.max(1, bitmap.height * scale);
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  } catch { /* the browser cannot show it; setclip may read it */ }
  await search();
}

function removeFiles() {
  files = [];
  at("choose").value = "";
  at("words").hidden = false;
  at("dropped").hidden = true;
  at("words").focus();
}

// ---- the answers

async function search(given = null) {
  const number = ++asking;
  const asked = given ?? await query();
  if (!asked) return;
  tell("");
  at("status").textContent = "searching …";
  const body = { top: 20, ...asked };
  if (!given && at("as").value) body.as = at("as").value;
  if (at("in").value) body.in = at("in").value;
  const started = performance.now();
  try {
    const answer = await ask("/search", body);
    if (number === asking) show(answer, Math.round(performance.now() - started));
  } catch (error) {
    if (number !== asking) return;
    at("status").textContent = "";
    at("why").hidden = true;
    at("hits").replaceChildren(); // they are of an earlier query
    tell(error.message);
  }
  if (number === asking) document.body.dataset.searched = number;
}

function show(answer, ms) {
  const told = [`${answer.hits.length} of ${answer.searched.toLocaleString("en")} ${answer.modality} rows, `
    + `nearest to the ${answer.query_modality} first, in ${ms} ms`];
  if (answer.hits.some((hit) => hit.probability !== null)) told.push("in percent: how likely a row is right, if the query has a partner here");
  at("status").textContent = [...told, ...answer.notes].join(" · ");
  at("why-text").textContent = answer.why_no_probability;
  at("why").hidden = !answer.why_no_probability;
  at("hits").className = answer.hits.some((hit) => hit.shown.picture) ? "pictures" : "";
  at("hits").replaceChildren(...answer.hits.map((hit) => make("li", {}, card(hit, answer.modality))));
}

function card(hit, modality) {
  const { shown } = hit;
  const lines = [];
  const sure = hit.probability === null ? null
    : make("b", { textContent: `${(100 * hit.probability).toFixed(1)} %`, title: "how likely it is right" });
  const more = make("button", { type: "button", textContent: "more like this", title: "search with this row" });
  more.onclick = () => { window.scrollTo(0, 0); search({ id: hit.id, as: modality }); };
  lines.push(make("div", { className: "scores" }, make("span", { textContent: hit.rank }), sure,
    make("span", { textContent: hit.score.toFixed(3), title: "cosine" }), more));
  if (shown.text) lines.push(make("div", { className: "text", textContent: shown.text }));
  if (shown.kind === "protein") {
    lines.push(make("div", { className: "text", textContent: shown.name || shown.id }));
    const facts = [shown.organism, shown.enzyme, shown.length].filter(Boolean).join(" · ");
    lines.push(make("div", { className: "small", textContent: facts }));
    lines.push(make("div", { className: "residues", textContent: shown.residues }));
  }
  const facts = [shown.id, hit.label, shown.size?.replaceAll(" ", "\u00a0")].filter(Boolean).join(" · ");
  lines.push(make("div", { className: "id", textContent: facts }));
  const image = shown.picture ? make("img", { src: `${shown.picture}/small`, alt: shown.id, loading: "lazy" }) : null;
  return make("div", { className: "hit" }, image, make("div", { className: "words" }, ...lines));
}

// ---- events

at("form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); search(); }
});
at("choose").addEventListener("change", () => take([...at("choose").files]));
at("clear").addEventListener("click", removeFiles);
at("in").addEventListener("change", () => search());
at("as").addEventListener("change", () => search());
for (const name of ["dragover", "dragenter"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); at("query").classList.add("over"); });
}
document.addEventListener("dragleave", () => at("query").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("query").classList.remove("over");
  take([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => {
  const found = [...event.clipboardData.files].filter((one) => one.type.startsWith("image/") || isVideo(one));
  if (found.length) { event.preventDefault(); take(found); }
});
start();
