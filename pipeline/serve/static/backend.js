// Where photos are looked at: on the server, or on this device.

import { Api } from "./api.js";
import { OnDevice } from "./device.js";

/** Answers at one of the page's places, "server" or "device"; the first of `places` until `place` is set. */
export class Backend {
  places;
  place;
  #makers;
  #made = {};

  /** askToken(wrong): see Api. onProgress(share): see OnDevice. */
  constructor(places, { askToken, onProgress }) {
    this.places = places;
    this.place = places[0];
    this.#makers = { server: () => new Api(askToken), device: () => new OnDevice(onProgress) };
  }

  model() {
    return this.#answering.model();
  }

  detect(blob, options) {
    return this.#answering.detect(blob, options);
  }

  get #answering() {
    return (this.#made[this.place] ??= this.#makers[this.place]());
  }
}
