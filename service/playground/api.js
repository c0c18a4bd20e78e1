// Calls of the service: one place for the address, the key, and errors as sentences.
import { askKey, key } from "./key.js";
import { t } from "./words.js";

/** Where the service is: the page's own folder, so that a prefix set by a proxy is kept. */
export const BASE = new URL("..", import.meta.url);
export const urlOf = (path) => new URL(path.replace(/^\//, ""), BASE);

/** An answer that is no success, or no answer at all (`status` 0). */
export class Problem extends Error {
  constructor(status, detail, { code = "", errors = [], retryAfter = null } = {}) {
    super(detail);
    Object.assign(this, { status, code, errors, retryAfter });
  }
}

/** What `fetch` is asked for a request {method, path, json | body, type, headers}. */
function initOf(request, signal) {
  const headers = { ...request.headers };
  const body = request.json === undefined ? request.body : JSON.stringify(request.json);
  if (request.json !== undefined) headers["Content-Type"] = "application/json";
  else if (request.type) headers["Content-Type"] = request.type;
  if (key()) headers.Authorization = `Bearer ${key()}`;
  return { method: request.method ?? "GET", headers, body, signal, cache: "no-store" };
}

/** The response of a request, once its key is right; throws Problem, or AbortError when it was called off. */
export async function send(request, signal) {
  for (;;) {
    const used = key();
    const response = await reach(request, signal);
    if (response.ok) return response;
    const problem = await problemOf(response);
    const elsewhere = problem.code === "host_not_allowed" || problem.code === "origin_not_allowed"; // no key helps
    const refused = problem.status === 401 || (problem.status === 403 && !elsewhere);
    if (!refused || request.silent || !(await askKey(problem, used))) throw problem;
  }
}

async function reach(request, signal) {
  try {
    return await fetch(urlOf(request.path), initOf(request, signal));
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, t("The service cannot be reached. Is it running?"), { code: "unreachable", retryAfter: 2 });
  }
}

/** The JSON of the answer, and its headers. */
export async function call(request, signal) {
  const response = await send(request, signal);
  const data = response.status === 204 ? null : await response.json();
  return { data, headers: response.headers, status: response.status };
}

async function problemOf(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  try {
    const { detail, code, errors } = await response.json();
    return new Problem(response.status, detail, { code, errors, retryAfter });
  } catch {
    const detail = t("The service answered {status} without saying why.", { status: response.status });
    return new Problem(response.status, detail, { retryAfter });
  }
}

/** Answers to the newest question only: an older one is called off, and if it answers all the same it is dropped. */
export class Newest {
  #controller = null;

  /** Run `ask(signal)`; undefined when a newer question came meanwhile. */
  async run(ask) {
    this.stop();
    const mine = (this.#controller = new AbortController());
    try {
      const answer = await ask(mine.signal);
      return this.#controller === mine ? answer : undefined;
    } catch (error) {
      if (mine.signal.aborted || this.#controller !== mine) return undefined;
      throw error;
    }
  }

  stop() {
    this.#controller?.abort();
    this.#controller = null;
  }
}

/** Calls `work(false)` at most once in `ms`, and at the end of a row of calls for sure; `now()` calls `work(true)`. */
export function paced(work, ms) {
  let timer = 0;
  const stop = () => {
    clearTimeout(timer);
    timer = 0;
  };
  const fire = (final) => {
    stop();
    work(final);
  };
  const later = () => (timer ||= setTimeout(fire, ms, false));
  return Object.assign(later, { now: () => fire(true), stop });
}

/** Calls `work` when `ms` have passed without a call. */
export function settled(work, ms) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), ms);
  };
}
