// The chosen photos, and the queue that sends them to the server one by one.

import { Refusal } from "./api.js";

/**
 * A photo and its result. state: "waiting", "working", "done" or "failed"; busy: the server makes it wait;
 * result: the server's answer; error: a Refusal; selected: a face of the result.
 */
function photoOf(file) {
  return { file, name: file.name || "photo", state: "waiting", busy: false, result: null, error: null, selected: null };
}

export class Photos {
  list = [];
  current = null;
  #detect;
  #changed;
  #stop = null; // stops the photo in progress

  /** detect(photo, signal): its result, or throws Refusal. changed(photo): called after each change of a photo. */
  constructor(detect, changed) {
    this.#detect = detect;
    this.#changed = changed;
  }

  /** Adds files and makes the first of them the current photo. */
  add(files) {
    const added = [...files].map(photoOf);
    this.list.push(...added);
    if (added.length) this.current = added[0];
    this.#next();
  }

  choose(photo) {
    this.current = photo;
  }

  /** Removes a photo; a neighbour becomes the current one. */
  remove(photo) {
    const at = this.list.indexOf(photo);
    this.list.splice(at, 1);
    if (this.current === photo) this.current = this.list[Math.min(at, this.list.length - 1)] ?? null;
    if (photo.state === "working") this.#stop.abort(new DOMException("removed", "AbortError"));
  }

  clear() {
    for (const photo of [...this.list]) this.remove(photo);
  }

  /** Sends `photos` again, for instance after another smallest face was chosen. */
  again(photos) {
    for (const photo of photos) {
      if (photo.state === "working") this.#stop.abort(new DOMException("again", "AbortError"));
      Object.assign(photo, { state: "waiting", error: null });
      this.#changed(photo);
    }
    this.#next();
  }

  async #next() {
    if (this.#stop) return;
    const waiting = (photo) => photo.state === "waiting";
    const photo = this.current && waiting(this.current) ? this.current : this.list.find(waiting);
    if (!photo) return;
    const stop = (this.#stop = new AbortController());
    Object.assign(photo, { state: "working", busy: false });
    this.#changed(photo);
    let outcome;
    try {
      outcome = { state: "done", result: await this.#detect(photo, stop.signal), error: null };
    } catch (error) {
      outcome = { state: "failed", result: null, error: error instanceof Refusal ? error : new Refusal("strange") };
      if (!(error instanceof Refusal) && !stop.signal.aborted) console.error(error);
    }
    this.#stop = null;
    if (!stop.signal.aborted) {
      Object.assign(photo, outcome, { busy: false, selected: null });
      this.#changed(photo);
    }
    this.#next();
  }
}
