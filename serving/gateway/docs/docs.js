// Shows /openapi.json: each request with its messages, a line for curl, and a form that sends it.

const REFERENCE = "#/components/schemas/";

/** An element with text, or with other elements in it. */
function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

/** A text whose parts in backticks are code. */
function coded(text = "") {
  return text.split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));
}

/** The type of a schema in words, with links to messages. */
function type(schema) {
  if (schema.$ref) {
    const name = schema.$ref.slice(REFERENCE.length);
    return element("a", { href: `#${name}` }, name);
  }
  if (schema.anyOf) return element("span", {}, ...schema.anyOf.flatMap((each, n) => (n ? [" or ", type(each)] : [type(each)])));
  if (schema.type === "array") return element("span", {}, "list of ", type(schema.items));
  if (schema.additionalProperties) return element("span", {}, "map of string to ", type(schema.additionalProperties));
  if (schema.enum) return element("span", {}, schema.enum.join(", "));
  return element("span", {}, [schema.type].flat().join(" or "), schema.format ? ` (${schema.format})` : "");
}

/** The fields of a message. */
function message(name, schema) {
  const table = element("table", {}, element("tr", {}, element("th", {}, "field"), element("th", {}, "type"), element("th", {}, "meaning")));
  for (const [field, value] of Object.entries(schema.properties ?? {})) {
    table.append(element("tr", {}, element("td", {}, element("code", {}, field)), element("td", {}, type(value)), element("td", {}, ...coded(value.description))));
  }
  const details = element("details", { id: name }, element("summary", {}, element("code", {}, name)));
  if (schema.description) details.append(element("p", {}, ...coded(schema.description)));
  details.append(table);
  return details;
}

/** The first content of a body: its type, its schema and its example. */
function content(body) {
  const [media, value] = Object.entries(body?.content ?? {})[0] ?? [];
  return { media, ...value };
}

/** The URL of a path, also where the gateway stands under a prefix. */
const address = (path) => new URL(path.slice(1), document.baseURI).href;

function curl(verb, path, media, text) {
  const body = media ? ` \\\n  -H 'Content-Type: ${media}' --data-binary '${text.replaceAll("'", "'\\''")}'` : "";
  return `curl ${verb === "get" ? "" : `-X ${verb.toUpperCase()} `}${address(path)}${body}`;
}

async function send(verb, path, media, text, output) {
  const headers = media ? { "Content-Type": media } : {};
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  output.textContent = "…";
  try {
    const response = await fetch(address(path), { method: verb.toUpperCase(), headers, body: media ? text : undefined });
    const answer = await response.text();
    let shown = answer;
    try { shown = JSON.stringify(JSON.parse(answer), null, 2); } catch { /* lines of JSON */ }
    output.textContent = `${response.status}\n${shown}`;
  } catch (error) {
    output.textContent = `The gateway cannot be reached: ${error.message}`;
  }
}

function operation(verb, path, said) {
  const request = content(said.requestBody), response = content(said.responses["200"]);
  const line = element("pre");
  const output = element("pre", { "aria-live": "polite" }, "Not sent yet.");
  const button = element("button", { type: "button" }, "Send");
  const details = element(
    "details", {},
    element("summary", {}, element("span", { class: "verb" }, verb.toUpperCase()), element("span", { class: "path" }, path), element("span", { class: "says" }, ...coded(said.summary))),
  );
  let text = "";
  if (request.media) {
    text = JSON.stringify(request.example ?? {}, null, request.media === "application/json" ? 2 : 0);
    const box = element("textarea", { "aria-label": `body of ${path}`, spellcheck: "false" });
    box.value = text;
    box.addEventListener("input", () => { text = box.value; line.textContent = curl(verb, path, request.media, text); });
    details.append(element("p", {}, `Body (${request.media}): `, type(request.schema)), box);
  }
  details.append(
    element("p", {}, `Answer (${response.media}): `, type(response.schema)),
    element("p", {}, "Headers: ", said.parameters.map((each) => each.name).concat("Authorization").join(", ")),
    line, button, output,
  );
  line.textContent = curl(verb, path, request.media, text);
  button.addEventListener("click", () => send(verb, path, request.media, text, output));
  return details;
}

document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
const described = await (await fetch("openapi.json")).json();
const about = document.getElementById("about");
about.replaceChildren(...coded(described.info.description.replaceAll("\n", " ")), " ", element("a", { href: "openapi.json" }, "/openapi.json"));
const operations = document.getElementById("operations");
let tag = "";
for (const [path, verbs] of Object.entries(described.paths)) {
  for (const [verb, said] of Object.entries(verbs)) {
    if (said.tags[0] !== tag) {
      tag = said.tags[0];
      operations.append(element("h2", {}, tag));
    }
    operations.append(operation(verb, path, said));
  }
}
const schemas = document.getElementById("schemas");
for (const [name, schema] of Object.entries(described.components.schemas)) schemas.append(message(name, schema));
addEventListener("hashchange", () => { const target = document.getElementById(location.hash.slice(1)); if (target) target.open = true; });
