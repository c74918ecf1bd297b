// Shows where photos are looked at, lets the user choose another place, and shows how much of a model is loaded.

import { say } from "./words.js";

export class Places {
  #parts;

  /** parts: label, select, privacy, loading, share. places: "server", "device" or both. onMove(place): the choice. */
  constructor(parts, places, onMove) {
    this.#parts = parts;
    parts.label.hidden = places.length < 2;
    parts.select.addEventListener("change", () => onMove(parts.select.value));
  }

  /** Says in the page's language where photos go. */
  show(place) {
    const { select, privacy } = this.#parts;
    select.value = place;
    privacy.dataset.words = place === "device" ? "privacyDevice" : "privacy";
    privacy.textContent = say(privacy.dataset.words);
  }

  /** Shows how much of the model is loaded, 0 to 1. */
  progress(loaded) {
    const { loading, share } = this.#parts;
    loading.hidden = loaded >= 1;
    share.value = loaded;
  }
}
