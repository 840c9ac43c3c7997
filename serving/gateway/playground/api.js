// What the page asks of the gateway, and its errors. The token is kept here, in memory alone.

const TIMEOUT_SECONDS = 20;

let token = "";

/** A refusal or failure, with what can be said about it. */
export class Failure extends Error {
  /**
   * @param {string} code gRPC's name of the status, or `GATEWAY_DOWN` where the gateway itself gives no answer.
   * @param {string} message of the service or the browser.
   * @param {number|null} retryAfter seconds to wait, where the service says so.
   */
  constructor(code, message, retryAfter = null) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

export function setToken(given) {
  token = given.trim();
}

export function hasToken() {
  return token !== "";
}

/** GET /v1/gateway: `{compare, version}`. */
export const gateway = () => call("v1/gateway");

/** GET /v1/info: InfoResponse, and its manifest as an object under `manifest`. */
export async function info() {
  const { body } = await call("v1/info");
  let manifest = {};
  try {
    manifest = JSON.parse(body.manifest_json || "{}");
  } catch {
    // A service that sends none can be asked all the same.
  }
  return { ...body, manifest };
}

/** POST /v1/search. Gives `{body, milliseconds}`, the latter from sending to having read the answer. */
export const search = (request, signal) => call("v1/search", request, signal);

/** POST /v1/compare: the same question to champion and challenger. */
export const compare = (request, signal) => call("v1/compare", request, signal);

async function call(path, request, signal) {
  const headers = { Accept: "application/json", "Request-Timeout": String(TIMEOUT_SECONDS) };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (request) headers["Content-Type"] = "application/json";
  const options = {
    headers,
    signal,
    method: request ? "POST" : "GET",
    credentials: "same-origin",
    cache: "no-store",
  };
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
  if (!response.ok) throw failure(response, body, text);
  if (body === undefined) throw new Failure("INTERNAL", `${path} gave no JSON: ${text.slice(0, 200)}`);
  return { body, milliseconds };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function failure(response, body, text) {
  const error = body?.error ?? {};
  const wait = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return new Failure(
    error.code || `HTTP_${response.status}`,
    error.message || text.slice(0, 300) || response.statusText,
    Number.isFinite(wait) ? wait : null,
  );
}
