// Sends requests to the server: waits while it is busy, asks for the token, throws Refusal when it refuses.

const WAITS = [500, 1000, 2000, 4000, 8000]; // ms between tries while the server is busy
const LONGEST_WAIT = 30_000;
const LARGE = 10e6; // bytes
const TIMEOUT = 120_000; // longer than any server of ours takes

/** Why there is no result. kind: a key of words.js, filled with `values`; line: the server's error message, if any. */
export class Refusal extends Error {
  constructor(kind, line = "", values = {}) {
    super(line || kind);
    Object.assign(this, { kind, line, values: { ...values, line } });
  }
}

/** Requests with one token, kept in memory only. askToken(wrong): the user's token, or null when they cancel. */
export class Api {
  #token = "";
  #asking = null;
  #askToken;

  constructor(askToken) {
    this.#askToken = askToken;
  }

  /** The metadata of the server's bundle. */
  model() {
    return this.#ask("v1/model", {}, {});
  }

  /** The faces of a picture. name: sends it as an upload of that name. onWait: called when the server is busy. */
  detect(blob, { name = null, minScore, minFace = "", signal = null, onWait = () => {} }) {
    const query = new URLSearchParams({ min_score: minScore });
    if (minFace) query.set("min_face", minFace);
    let body = blob;
    if (name !== null) {
      body = new FormData();
      body.append("image", blob, name);
    }
    return this.#ask(`v1/detect?${query}`, { method: "POST", body }, { signal, onWait });
  }

  async #ask(path, options, { signal = null, onWait = () => {} }) {
    for (let tries = 0; ; ) {
      const token = this.#token;
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const response = await send(path, { ...options, headers, cache: "no-store" }, signal);
      if (response.status === 401) {
        await this.#renewToken(token);
      } else if (isBusy(response) && tries < WAITS.length) {
        onWait();
        const asked = 1000 * Number(response.headers.get("Retry-After") ?? 0) || 0;
        await pause(Math.min(Math.max(asked, WAITS[tries]), LONGEST_WAIT), signal);
        tries += 1;
      } else {
        return read(response);
      }
    }
  }

  /** Asks the user once, also when several requests need a token at the same time. */
  async #renewToken(refused) {
    if (this.#token !== refused) return; // another request has asked meanwhile
    this.#asking ??= this.#askToken(refused !== "").finally(() => (this.#asking = null));
    const token = await this.#asking;
    if (token === null) throw new Refusal("noToken");
    this.#token = token;
  }
}

const uploadSize = (body) => (body instanceof FormData ? body.get("image").size : body?.size) ?? 0;

const isBusy = ({ status, headers }) => status === 429 || (status === 503 && headers.has("Retry-After"));

async function send(path, options, signal) {
  const own = new AbortController();
  const abort = () => own.abort(signal.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  const timer = setTimeout(() => own.abort(new Refusal("slow")), TIMEOUT);
  try {
    return await fetch(path, { ...options, signal: own.signal });
  } catch (error) {
    if (own.signal.aborted) throw own.signal.reason;
    // A server may close the connection during an upload that it refuses.
    const size = uploadSize(options.body);
    throw size > LARGE ? new Refusal("offlineLarge", "", { size: Math.ceil(size / 1e6) }) : new Refusal("offline");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

async function read(response) {
  let answer;
  try {
    answer = await response.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refusal("strange");
  }
  if (response.ok) return answer;
  if (typeof answer?.error !== "string") throw new Refusal("strange");
  throw new Refusal("refused", answer.error);
}

function pause(ms, signal) {
  return new Promise((done, fail) => {
    const stop = () => {
      clearTimeout(timer);
      fail(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      done();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
