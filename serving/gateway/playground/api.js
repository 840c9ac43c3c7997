// Calls of the gateway, and their errors. The token is kept here, in memory alone.

const TIMEOUT_SECONDS = 20;

const MAY_WRITE = { INVALID_ARGUMENT: true, PERMISSION_DENIED: false, UNAUTHENTICATED: false };

let token = "";
let rights = {}; // of the token, once known
let written = 0; // sequence of the last write: later searches wait until it is searched

/** An error of the service, the gateway (`GATEWAY_DOWN` if it does not answer) or a write. */
export class Failure extends Error {
  /** `code` is gRPC's name of the status; `retryAfter` is in seconds, if the service says it. */
  constructor(code, message, retryAfter = null) {
    super(message);
    Object.assign(this, { code, retryAfter });
  }
}

export const hasToken = () => token !== "";

export function setToken(given) {
  token = given.trim();
  rights = {};
}

/** GET /v1/gateway: `{compare, version, image_field}`. */
export const gateway = async () => (await call("v1/gateway")).body;

/** GET /v1/info: InfoResponse, with the bundle's manifest as an object. */
export const info = async () => (await call("v1/info")).body;

/** POST /v1/search, or /v1/compare: `{body, milliseconds}`, from sending until the answer has been read. */
export const search = (request, signal, path = "v1/search") =>
  call(path, written && path === "v1/search" ? { ...request, min_sequence: written } : request, signal);

/** The `ItemState` of an item. */
export const item = async (id) => (await call("v1/items:get", { ids: [id] })).body.items[0];

/** The latest events of a user, the newest first. */
export const events = async (user, limit) => (await call("v1/events:list", { user, limit })).body.events;

/** Record an event. */
export const record = (event) => call("v1/events:record", { events: [event] });

/** Write (`upsert`, with its `mode`) or withdraw (`delete`) an item; gives the sequence of the write. */
export async function write(verb, change, mode = {}) {
  const { body } = await call(`v1/items:${verb}`, { items: [change], ...mode });
  const [{ error, error_text, sequence }] = body.results;
  if (error && error !== "WRITE_OK") throw new Failure(error, error_text);
  written = Math.max(written, Number(sequence));
  return written;
}

/** Whether the token allows writes: a request without items is invalid, but only for those who may write. */
export async function mayWrite() {
  const asked = rights;
  asked.write ??= await call("v1/items:delete", { items: [] }).catch(({ code }) => MAY_WRITE[code]);
  return Boolean(asked.write);
}

async function call(path, request, signal) {
  const headers = { Accept: "application/json", "Request-Timeout": String(TIMEOUT_SECONDS) };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (request) headers["Content-Type"] = "application/json";
  const options = { headers, signal, method: request ? "POST" : "GET", cache: "no-store" };
  if (request) options.body = JSON.stringify(request);
  const began = performance.now();
  let response, text;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("GATEWAY_DOWN", error.message);
  }
  const milliseconds = performance.now() - began;
  const body = parsed(text);
  if (response.ok && body) return { body, milliseconds };
  const { code, message } = body?.error ?? {};
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  throw new Failure(code || `HTTP_${response.status}`, message || text.slice(0, 300), wait || null);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
