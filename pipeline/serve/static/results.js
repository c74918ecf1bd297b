// The numbers next to the picture: counts, the share of correct masks, the table of faces, one face close up.

import { countByClass, rightShare } from "./faces.js";
import { kindOf } from "./kinds.js";
import { decode } from "./picture.js";
import { className, say } from "./words.js";

const AROUND = 0.35; // of a face's size, shown around it close up

/** An element with a class and text, or children. */
export function make(tag, name = "", content = []) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...(Array.isArray(content) ? content : [content]));
  return element;
}

const swatch = (kind) => {
  const element = make("span", `swatch kind-${kind.index}`, kind.mark);
  element.ariaHidden = "true";
  return element;
};

/** "3 faces: With mask 1, Without mask 2", for users who do not see the picture. */
export function inWords(faces, classNames) {
  const what = say("facesFound", { count: faces.length });
  const parts = countByClass(faces, classNames).filter(([, count]) => count);
  return parts.length ? `${what}: ${parts.map(([name, count]) => `${className(name)} ${count}`).join(", ")}` : what;
}

/** Shows the number of `faces` of each class; null while there is no result. */
export function showCounts({ share, bar, counts }, faces, classNames) {
  const rows = countByClass(faces ?? [], classNames).map(([name, count]) => [kindOf(name, classNames), count]);
  counts.replaceChildren(
    ...rows.map(([kind, count]) => {
      const number = make("b", "", faces ? `${count}` : "–");
      const row = make("li", "", [swatch(kind), make("span", "", className(kind.name)), number]);
      row.dataset.class = kind.name;
      return row;
    }),
  );
  bar.replaceChildren(
    ...rows.map(([kind, count]) => {
      const part = make("span", `kind-${kind.index}`);
      part.style.flexGrow = count;
      return part;
    }),
  );
  const right = rightShare(faces ?? [], classNames);
  share.hidden = !faces || (faces.length > 0 && right === null);
  const figure = right && [make("strong", "", say("share", right)), " ", make("span", "", say("shareOf", right))];
  share.replaceChildren(...(figure ?? [say("noFaces")]));
}

/** The table of a photo's faces; a row's button marks its face in the picture. */
export class FaceTable {
  #rows;
  #hint;
  #onPick;
  #result = null;

  /** onPick(index): a face was chosen. */
  constructor(rows, hint, onPick) {
    this.#rows = rows;
    this.#hint = hint;
    this.#onPick = onPick;
    rows.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) this.#onPick(Number(row.dataset.index));
    });
  }

  /** Shows the faces of `result` that are in `faces`. anew: also when the result is the same, in another language. */
  show(result, faces, classNames, selected, anew) {
    if (result !== this.#result || anew) {
      this.#result = result;
      this.#rows.replaceChildren(...(result?.faces ?? []).map((face, i) => this.#row(face, i, classNames)));
    }
    const shown = new Set(faces);
    [...this.#rows.children].forEach((row, i) => {
      const face = result.faces[i];
      row.hidden = !shown.has(face);
      row.classList.toggle("chosen", face === selected);
      row.querySelector("button").ariaPressed = `${face === selected}`;
    });
    this.#hint.textContent = shown.size ? say("facesHint") : say("facesFound", { count: 0 });
  }

  #row(face, i, classNames) {
    const button = make("button", "plain", `${i + 1}`);
    button.type = "button";
    button.ariaLabel = say("faceNumber", { number: i + 1 });
    const name = make("span", "", className(face.label));
    if (face.unsure) name.append(make("span", "unsure", ` (${say("unsure")})`));
    const row = make("tr", "", [
      make("td", "", button),
      make("td", "", make("span", "what", [swatch(kindOf(face.label, classNames)), name])),
      make("td", "number", face.score.toFixed(2)),
    ]);
    row.dataset.index = i;
    return row;
  }
}

/** One face close up, with the probability of each class. */
export class CloseUp {
  #parts;
  #photo = null;
  #face = null;

  /** parts: the elements area, picture (a canvas), figures (a dl). */
  constructor(parts) {
    this.#parts = parts;
  }

  /** Shows `face` of `photo`; null hides it. */
  async show(photo, face) {
    const { area, picture, figures } = this.#parts;
    area.hidden = !face;
    const before = this.#face;
    [this.#photo, this.#face] = [photo, face];
    if (!face) return;
    const rows = Object.entries(face.probs).map(([name, p]) => [className(name), p]);
    rows.push([say("faceScore"), face.face_score]);
    figures.replaceChildren(...rows.flatMap(([name, p]) => [make("dt", "", name), make("dd", "", p.toFixed(2))]));
    if (face === before) return;
    picture.getContext("2d").clearRect(0, 0, picture.width, picture.height);
    const bitmap = await decode(photo.file);
    if (bitmap && this.#face === face) drawCloseUp(picture, bitmap, photo.result, face);
    picture.hidden = !bitmap;
    bitmap?.close();
  }
}

function drawCloseUp(canvas, bitmap, { width, height }, { box: [left, top, right, bottom] }) {
  const side = Math.max(right - left, bottom - top) * (1 + 2 * AROUND);
  const scale = canvas.width / side;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.save();
  pen.translate(canvas.width / 2, canvas.height / 2);
  pen.scale(scale, scale);
  pen.drawImage(bitmap, -(left + right) / 2, -(top + bottom) / 2, width, height);
  pen.restore();
}
