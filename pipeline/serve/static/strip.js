// The strip of photos to switch between, each with a small picture and its counts.

import { countByClass } from "./faces.js";
import { kindOf } from "./kinds.js";
import { inWords, make } from "./results.js";
import { say } from "./words.js";

export class Strip {
  #list;
  #onChoose;
  #items = new Map();

  constructor(list, onChoose) {
    this.#list = list;
    this.#onChoose = onChoose;
  }

  /** Shows `photos`; faces(photo): its shown faces, or null while it has no result. */
  show(photos, current, faces, classNames) {
    for (const [photo, { item }] of this.#items) {
      if (photos.includes(photo)) continue;
      item.remove();
      this.#items.delete(photo);
    }
    for (const photo of photos) {
      if (!this.#items.has(photo)) this.#add(photo);
      const { button, text } = this.#items.get(photo);
      const found = faces(photo);
      const what = found ? inWords(found, classNames) : say(photo.state);
      button.ariaLabel = say("inPhoto", { file: photo.name, what });
      if (photo === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.dataset.state = photo.state;
      if (found) text.replaceChildren(...marks(found, classNames));
      else text.textContent = what;
    }
  }

  /** Inserts the small picture (a canvas) of `photo`. */
  picture(photo, canvas) {
    this.#items.get(photo)?.place.replaceChildren(canvas);
  }

  #add(photo) {
    const place = make("span", "thumb");
    const text = make("span", "marks");
    const button = make("button", "", [place, make("span", "file", photo.name), text]);
    button.type = "button";
    button.addEventListener("click", () => this.#onChoose(photo));
    const item = make("li", "", button);
    this.#items.set(photo, { item, button, place, text });
    this.#list.append(item);
  }
}

function marks(faces, classNames) {
  const counts = countByClass(faces, classNames).filter(([, count]) => count);
  if (!counts.length) return [say("facesFound", { count: 0 })];
  return counts.map(([name, count]) => {
    const kind = kindOf(name, classNames);
    return make("span", `pill kind-${kind.index}`, `${kind.mark} ${count}`);
  });
}
