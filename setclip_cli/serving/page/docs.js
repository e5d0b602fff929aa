// The description of the requests, made from /openapi.json. Text is put in as text alone.

const at = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const nameOf = (reference) => reference.split("/").at(-1);

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function limits(schema) {
  const told = [];
  const parts = [schema, ...(schema.anyOf ?? [])];
  for (const part of parts) {
    if (part.maxLength) told.push(`at most ${part.maxLength.toLocaleString("en")} letters`);
    if (part.maxItems) told.push(`at most ${part.maxItems.toLocaleString("en")} of them`);
    if (part.maximum !== undefined) told.push(`${part.minimum ?? ""} to ${part.maximum}`);
  }
  if (schema.default !== undefined && schema.default !== null) told.push(`default ${JSON.stringify(schema.default)}`);
  return told.join("; ");
}

const row = (...cells) => make("tr", {}, ...cells.map((textContent) => make("td", { textContent })));

function schemaOf(name, schema) {
  const needed = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([field, own]) =>
    row(field, typeOf(own) + (needed.has(field) ? "" : ", may be left out"), [own.description, limits(own)].filter(Boolean).join(" ")));
  const told = schema.description ? [make("p", { textContent: schema.description })] : [];
  return make("section", { id: name }, make("h3", { textContent: name }), ...told, make("table", {}, make("tbody", {}, ...rows)));
}

function requestOf(path, method, request) {
  const body = request.requestBody?.content["application/json"].schema;
  const rows = Object.entries(request.responses).map(([code, answer]) => {
    const schema = answer.content?.["application/json"]?.schema;
    return row(code, schema ? typeOf(schema) : Object.keys(answer.content ?? {}).join(", "), answer.description);
  });
  const sent = body ? [make("p", { textContent: `Send: ${typeOf(body)}` })] : [];
  return make("section", {}, make("h2", { textContent: `${method.toUpperCase()} ${path}` }),
    make("p", { textContent: request.description ?? "" }), ...sent, make("table", {}, make("tbody", {}, ...rows)));
}

async function start() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(await answer.text());
  const found = await answer.json();
  at("title").textContent = `${found.info.title} ${found.info.version}`;
  at("description").textContent = found.info.description;
  at("requests").replaceChildren(...Object.entries(found.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, request]) => requestOf(path, method, request))));
  at("schemas").replaceChildren(...Object.entries(found.components.schemas).map(([name, schema]) => schemaOf(name, schema)));
  document.body.dataset.page = "ready";
}

start().catch((error) => {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
});
