// Draws boxes, labels, scores and landmarks, crisp and legible at any size.

import { kindOf } from "./kinds.js";
import { placeKey, placeText } from "./place.js";
import { className } from "./words.js";

const FONT = 'system-ui, "Apple SD Gothic Neo", "Malgun Gothic", "Noto Sans KR", "Noto Sans CJK KR", sans-serif';
const CROWD = 30; // faces; in a larger crowd class names would cover the picture, so marks and scores have to do
const MAX_TEXTS = 300; // best first; more would not be read
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * Draws `faces`, best first, over what `canvas` holds.
 *
 * photo: the size that the boxes refer to. unit: canvas pixels per CSS pixel.
 * selected: a face to highlight; then only this face has a text. key: also draw which mark is which class, when
 * a name has no room.
 */
export function drawFaces(canvas, faces, photo, { classNames, unit, selected = null, key = false }) {
  const pen = canvas.getContext("2d");
  const room = { width: canvas.width, height: canvas.height };
  const across = room.width / photo.width;
  const down = room.height / photo.height;
  const seen = faces.map((face) => ({
    face,
    kind: kindOf(face.label, classNames),
    box: face.box.map((v, i) => v * (i % 2 ? down : across)),
    points: face.landmarks.map(([x, y]) => [x * across, y * down]),
  }));
  pen.save();
  pen.textBaseline = "middle";
  for (const one of [...seen].reverse()) {
    pen.globalAlpha = selected && one.face !== selected ? 0.35 : 1;
    drawFace(pen, one, unit, one.face === selected);
  }

  const boxes = seen.map(({ box }) => box);
  const taken = [...boxes];
  let fits = true;
  pen.globalAlpha = 1;
  for (const [i, one] of seen.slice(0, selected ? seen.length : MAX_TEXTS).entries()) {
    if (selected && one.face !== selected) continue;
    taken[i] = [0, 0, 0, 0]; // in its own box it may stand
    fits = drawText(pen, one, unit, room, taken, faces.length > CROWD && !selected) && fits;
    taken[i] = boxes[i];
  }
  if (key && !fits) drawKey(pen, seen, unit, room, taken);
  pen.restore();
}

function drawFace(pen, { kind, box: [left, top, right, bottom], points }, unit, selected) {
  const face = Math.min(right - left, bottom - top);
  const line = clamp(face / 40, 1.5 * unit, 3.5 * unit) * (selected ? 1.6 : 1);
  const outline = (width, colour) => {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.strokeRect(left, top, right - left, bottom - top);
  };
  outline(line + 2 * unit, "rgb(0 0 0 / 0.55)"); // seen on a ground of any colour
  if (selected) outline(line + 1.5 * unit, "#fff");
  outline(line, kind.colour);
  if (face < 36 * unit) return; // five points would hide the face
  const radius = Math.max(face / 50, unit);
  for (const [x, y] of points) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.lineWidth = 0.7 * unit;
    pen.strokeStyle = "rgb(0 0 0 / 0.6)";
    pen.stroke();
    pen.fillStyle = kind.colour;
    pen.fill();
  }
}

/** The longest text that has room, of name and score, mark and score, mark; and whether it was the longest. */
function drawText(pen, { face, kind, box }, unit, room, taken, short) {
  const font = clamp((box[2] - box[0]) / 9, 12 * unit, 17 * unit);
  setFont(pen, font);
  const height = Math.ceil(font * 1.35);
  const mark = face.unsure ? "?" : "";
  const score = face.score.toFixed(2);
  const texts = [`${className(face.label)}${mark} ${score}`, `${kind.mark}${mark} ${score}`, `${kind.mark}${mark}`];
  for (const text of short ? texts.slice(1) : texts) {
    const area = placeText(box, textWidth(pen, text, font), height, room, taken);
    if (area === null) continue;
    write(pen, text, area, kind, font);
    taken.push(area);
    return text === texts[0];
  }
  return false;
}

function drawKey(pen, seen, unit, room, taken) {
  const kinds = new Map(seen.map(({ kind }) => [kind.name, kind]));
  const font = 13 * unit;
  setFont(pen, font);
  const lines = [...kinds.values()]
    .sort((a, b) => a.index - b.index)
    .map((kind) => [`${kind.mark}  ${className(kind.name)}`, kind]);
  const width = Math.max(...lines.map(([text]) => textWidth(pen, text, font)));
  const height = Math.ceil(font * 1.5);
  const area = placeKey(width, height * lines.length, room, taken);
  if (area === null) return;
  lines.forEach(([text, kind], row) => {
    const top = area[1] + row * height;
    write(pen, text, [area[0], top, area[2], top + height], kind, font);
  });
}

function setFont(pen, size) {
  pen.font = `600 ${size}px ${FONT}`;
}

const textWidth = (pen, text, font) => Math.ceil(pen.measureText(text).width + 0.7 * font);

function write(pen, text, [left, top, right, bottom], kind, font) {
  pen.fillStyle = kind.colour;
  pen.fillRect(left, top, right - left, bottom - top);
  pen.fillStyle = kind.ink;
  pen.fillText(text, left + 0.35 * font, (top + bottom) / 2 + 0.04 * font);
}
