// Looks for faces on this device: decodes a picture, and hands its pixels to the worker that holds the model.

import { Refusal } from "./api.js";
import { decode } from "./picture.js";

const MOST_PIXELS = 40e6; // of a photo; as the server's limit

/** Answers as the server does (see api.js), without one. onProgress(share): how much of the model is loaded, 0 to 1. */
export class OnDevice {
  #worker = null;
  #asked = new Map(); // questions without an answer, by number
  #count = 0;
  #onProgress;

  constructor(onProgress = () => {}) {
    this.#onProgress = onProgress;
  }

  /** The metadata of the model, once it is loaded. */
  model() {
    return this.#ask({ job: "load", address: new URL("device/", document.baseURI).href });
  }

  /** The faces of a picture; arguments as of Api.detect. */
  async detect(blob, { name = null, minScore, minFace = "", signal = null }) {
    const bitmap = await decode(blob);
    if (!bitmap) throw new Refusal("unknownFormat");
    if (bitmap.width * bitmap.height > MOST_PIXELS) {
      bitmap.close();
      throw new Refusal("tooLarge", "", { most: MOST_PIXELS / 1e6 });
    }
    const result = await this.#ask({ job: "detect", bitmap, minScore, minFace: Number(minFace) }, [bitmap], signal);
    return { file: name ?? "", ...result };
  }

  #ask(question, transferred = [], signal = null) {
    return new Promise((done, fail) => {
      if (signal?.aborted) return fail(signal.reason);
      signal?.addEventListener("abort", () => fail(signal.reason), { once: true });
      this.#worker ??= this.#start();
      this.#asked.set(++this.#count, { done, fail });
      this.#worker.postMessage({ number: this.#count, ...question }, transferred);
    });
  }

  /** Starts the worker from a blob: only such a worker has the page's Content-Security-Policy, on any static host. */
  #start() {
    const code = `import ${JSON.stringify(new URL("device-worker.js", import.meta.url).href)};`;
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const worker = new Worker(address, { type: "module" });
    worker.addEventListener("message", ({ data }) => this.#take(data));
    worker.addEventListener("error", (event) => {
      console.error(event.message);
      this.#end(new Refusal("noModel"));
    });
    return worker;
  }

  #take({ number, progress, answer, failure }) {
    if (progress !== undefined) return this.#onProgress(progress);
    const asked = this.#asked.get(number);
    this.#asked.delete(number);
    if (!failure) return asked.done(answer);
    console.error(failure.message);
    return asked.fail(new Refusal(failure.kind));
  }

  /** Fails every question; the next one starts another worker. */
  #end(refusal) {
    for (const { fail } of this.#asked.values()) fail(refusal);
    this.#asked.clear();
    this.#worker?.terminate();
    this.#worker = null;
  }
}
