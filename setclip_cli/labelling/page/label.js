// The label page. Text from data is put in as text alone (textContent); nothing here makes mark-up of a string.

const at = (id) => document.getElementById(id);
let state = null; // what the server said last
let choices = []; // the rows that the keys 1 to 9 choose
let busy = false; // an answer is on its way

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// ---- talking to setclip

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    });
  } catch {
    throw new Error("setclip does not answer. If it was stopped, run the same command again and open its new address: "
      + "every answer that was saved is kept.");
  }
  const text = await answer.text();
  let content;
  try { content = JSON.parse(text); } catch { content = { error: text }; }
  if (answer.ok) return content;
  if (content.state) show(content.state);
  throw new Error(content.error + (content.fix ? ` (${content.fix})` : ""));
}

function tell(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

async function change(path, body) {
  if (busy) return;
  busy = true;
  tell("");
  const started = performance.now();
  try {
    const next = await ask(path, { revision: state.revision, ...body });
    document.body.dataset.answerMs = Math.round(performance.now() - started);
    at("saved").textContent = "saved";
    show(next);
  } catch (error) {
    at("saved").textContent = "";
    tell(error.message);
  } finally {
    busy = false;
  }
}

const choose = (row) => change("/api/answer", { answer: "partner", row });
const say = (answer) => change("/api/answer", { answer });
const undo = () => { if (state.undo !== null) change("/api/undo", {}); };

// ---- one row

function words(row, withId = true) {
  const lines = [];
  if (row.kind === "text") lines.push(make("span", { className: "text", textContent: row.text }));
  if (row.kind === "protein") {
    lines.push(make("span", { className: "text", textContent: row.name || row.id }));
    const facts = [row.organism, row.enzyme, row.length].filter(Boolean).join(" · ");
    lines.push(make("div", { className: "small", textContent: facts }));
    lines.push(make("span", { className: "residues", textContent: row.residues }));
  }
  const id = row.size ? `${row.id} · ${row.size}` : row.id;
  if (withId) lines.push(make("div", { className: "id", textContent: id }));
  return lines;
}

function picture(row, size) {
  return row.kind === "image" || row.kind === "video"
    ? make("img", { className: "picture", src: `/picture/${row.side}/${row.row}/${size}`, alt: row.id })
    : null;
}

const card = (row) => make("div", { className: "card" }, picture(row, "large"), make("div", { className: "words" }, ...words(row)));

// ---- a question

function show(next) {
  state = next;
  const asked = state.question;
  at("count").textContent = `${Math.min(state.done + (asked ? 1 : 0), state.total)} of ${state.total}`;
  at("progress").max = Math.max(1, state.total);
  at("progress").value = state.done;
  at("asking").hidden = !asked;
  at("end").hidden = Boolean(asked);
  closeSearch();
  if (asked) showQuestion(asked); else showEnd();
  document.body.dataset.revision = state.revision;
  document.body.dataset.page = asked ? asked.kind : "end";
  if (asked) window.scrollTo(0, 0);
}

function showQuestion(asked) {
  const here = state.sides[asked.item.side].singular;
  const there = state.sides[1 - asked.item.side].singular;
  const check = asked.kind === "check";
  at("ask").textContent = check ? `Do this ${here} and this ${there} belong together?`
    : `Which ${there} belongs to this ${here}?`;
  const reason = asked.reason ? make("p", { className: "reason", textContent: `Why this one: ${asked.reason}` }) : null;
  at("item").replaceChildren(card(asked.item), ...(reason ? [reason] : []));
  if (check) {
    choices = [];
    at("candidates").className = "";
    at("candidates").replaceChildren(make("li", {}, card(asked.partner)));
  } else showCandidates(asked.candidates, 0);
  showActions(check);
}

// The keys 1 to 9 choose the rows from place `first` on.
function showCandidates(rows, first) {
  choices = rows.slice(first, first + 9);
  at("candidates").className = rows.length && ["image", "video"].includes(rows[0].kind) ? "pictures" : "";
  at("candidates").replaceChildren(...rows.map((row, place) => {
    const key = place - first + 1;
    const button = make("button", { type: "button", className: "candidate", onclick: () => choose(row.row) },
      key >= 1 && key <= 9 ? make("kbd", { textContent: key }) : null,
      picture(row, "small"), make("span", {}, ...words(row)));
    button.dataset.row = row.row;
    return make("li", {}, button);
  }));
}

async function showMore() {
  if (busy || !state.question || state.question.kind === "check") return;
  busy = true;
  try {
    const { rows } = await ask("/api/more");
    if (!rows.length) return tell("There are no further candidates. Search for a word (/).");
    const before = state.question.candidates.length;
    state.question.candidates.push(...rows);
    showCandidates(state.question.candidates, before);
    at("candidates").children[before].scrollIntoView({ block: "center" });
  } catch (error) {
    tell(error.message);
  } finally {
    busy = false;
  }
}

function showActions(check) {
  const last = state.undo === null ? "Nothing to take back yet" : `Take back the answer about ${state.undo}`;
  const buttons = check
    ? [["y", "Yes, they do", () => say("right")], ["n", "No", () => say("wrong")]]
    : [["0", "None of these", () => say("none")], ["m", "More", showMore], ["/", "Search", openSearch]];
  buttons.push(["s", "Skip", () => say("skip")], ["u", "Undo", undo, last, state.undo === null]);
  at("actions").replaceChildren(...buttons.map(([key, label, onclick, title = "", disabled = false]) =>
    make("button", { type: "button", onclick, title, disabled }, make("kbd", { textContent: key }), label)));
}

// ---- search

let asking = 0; // number of the search that was sent last
let waiting = 0;

function openSearch() {
  if (!state.question || state.question.kind === "check") return;
  const there = state.sides[1 - state.question.item.side].plural;
  at("words").placeholder = `Search all ${there} for words`;
  at("words").setAttribute("aria-label", at("words").placeholder);
  at("search-box").hidden = false;
  at("words").focus();
}

function closeSearch() {
  clearTimeout(waiting);
  asking += 1;
  at("search-box").hidden = true;
  at("words").value = "";
  at("found").textContent = "";
}

async function search() {
  const typed = at("words").value.trim();
  const number = ++asking;
  if (!typed) {
    at("found").textContent = "";
    return showCandidates(state.question.candidates, Math.max(0, state.question.candidates.length - 9));
  }
  at("found").textContent = "searching …";
  try {
    const { rows, holding, problem } = await ask(`/api/search?words=${encodeURIComponent(typed)}`);
    if (number !== asking) return;
    const many = holding > rows.length ? `the first ${rows.length} of ${holding.toLocaleString("en")}` : rows.length;
    at("found").textContent = rows.length ? `${many} found; Enter, then choose by key; Esc goes back`
      : "nothing found; Esc goes back";
    if (problem) at("found").textContent += ` (by words alone: ${problem})`;
    showCandidates(rows, 0);
    document.body.dataset.searched = typed;
  } catch (error) {
    tell(error.message);
  }
}

at("words").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(search, 250);
});
at("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    clearTimeout(waiting);
    search().then(() => at("words").blur());
  }
});

// ---- the end

function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

function showEnd() {
  const { partner, none, skip, right, wrong } = state.counts;
  const told = [counted(partner, "pair", "pairs"), `${none} without a partner`, `${skip} skipped`];
  if (right + wrong) told.push(`${right} known pairs right`, `${wrong} wrong`);
  const move = (path) => () => change(path, {});
  const parts = [
    make("h2", { textContent: state.total ? "That was the last question." : "There is nothing to ask." }),
    make("p", { textContent: `${told.join(", ")}. All answers are on disk.` }),
  ];
  const button = (id, textContent, onclick, className = "") =>
    make("button", { type: "button", id, textContent, onclick, className });
  const next = state.commands.length > 0;
  if (next) {
    parts.push(make("p", { textContent: "Bring the answers into the DATASET, and train on its pairs:" }));
    parts.push(...state.commands.map(command));
  }
  parts.push(make("div", { className: "row" },
    next ? button("run", "Run both now", run, "main") : null,
    skip ? button("again", "Show the skipped ones again", move("/api/again")) : null,
    state.undo !== null ? make("button", { type: "button", onclick: undo }, make("kbd", { textContent: "u" }), " Undo") : null,
    button("close", "Close setclip label", close)));
  parts.push(make("pre", { id: "output", hidden: true }));
  at("end").replaceChildren(...parts);
  poll();
}

function command(line) {
  const copy = make("button", { type: "button", textContent: "Copy" });
  copy.onclick = async () => {
    try {
      await navigator.clipboard.writeText(line);
      copy.textContent = "Copied";
    } catch { getSelection().selectAllChildren(copy.previousSibling); }
  };
  return make("div", { className: "command" }, make("pre", { textContent: line }), copy);
}

async function run() {
  at("run").disabled = true;
  try {
    await ask("/api/run", { revision: state.revision });
    poll();
  } catch (error) {
    tell(error.message);
  }
}

let polling = 0;
async function poll() {
  clearTimeout(polling);
  const output = at("output");
  if (!output || at("end").hidden) return;
  try {
    const { status, lines } = await ask("/api/run");
    output.hidden = status === "not started";
    output.textContent = lines.join("\n");
    output.scrollTop = output.scrollHeight;
    if (!at("run")) return;
    at("run").disabled = status === "running" || status === "done";
    at("run").textContent = { running: "Running …", done: "Done", failed: "Run both again" }[status] || "Run both now";
    document.body.dataset.run = status;
    if (status === "running") polling = setTimeout(poll, 1000);
  } catch (error) {
    tell(error.message);
  }
}

async function close() {
  try {
    await ask("/api/stop", { revision: state.revision });
    document.body.dataset.page = "closed";
    at("end").replaceChildren(make("h2", { textContent: "setclip label is closed." }),
      make("p", { textContent: "All answers are on disk. The same command goes on with them. You may close this page." }));
  } catch (error) {
    tell(error.message);
  }
}

// ---- keys

document.addEventListener("keydown", (event) => {
  if (!state || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "Escape" && !at("search-box").hidden) {
    closeSearch();
    showCandidates(state.question.candidates, Math.max(0, state.question.candidates.length - 9));
    return;
  }
  if (event.target instanceof HTMLInputElement) return;
  const asked = state.question;
  const key = event.key.toLowerCase();
  if (key === "u") undo();
  else if (!asked) return;
  else if (key === "s") say("skip");
  else if (asked.kind === "check" && key === "y") say("right");
  else if (asked.kind === "check" && key === "n") say("wrong");
  else if (asked.kind === "check") return;
  else if (key === "0") say("none");
  else if (key === "m") showMore();
  else if (key === "/") { event.preventDefault(); openSearch(); }
  else if (key >= "1" && key <= "9" && choices[key - 1]) {
    const button = document.querySelector(`.candidate[data-row="${choices[key - 1].row}"]`);
    if (button) button.classList.add("chosen");
    choose(choices[key - 1].row);
  }
});

ask("/api/state").then(show, (error) => tell(error.message));
