// Saves results as files: the annotated picture at full size, JSON.

import { Refusal } from "./api.js";
import { drawFaces } from "./draw.js";
import { decode, blank, toFile } from "./picture.js";

const KEPT = 30_000; // ms until a file's address is given back; some browsers ask the user first
const LEAST_FONT = 10 / 12; // of the size on the screen: a tiny picture is not shown enlarged in its file

/** Saves the photo with `faces` drawn as shown; scale: CSS pixels per photo pixel on the page. Throws Refusal. */
export async function savePicture(photo, faces, classNames, scale) {
  const bitmap = await decode(photo.file);
  if (!bitmap) throw new Refusal("notDrawn");
  const canvas = blank(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  drawFaces(canvas, faces, photo.result, { classNames, unit: Math.max(1 / scale, LEAST_FONT), key: true });
  const jpeg = photo.file.type === "image/jpeg";
  const file = await toFile(canvas, jpeg ? "image/jpeg" : "image/png", 0.92);
  canvas.width = canvas.height = 1; // frees its memory at once
  if (!file) throw new Refusal("notDrawn");
  save(file, `${stem(photo.name)}-faces.${jpeg ? "jpg" : "png"}`);
}

/** Saves one photo's result. */
export function saveResult(photo, result) {
  saveJson(result, `${stem(photo.name)}-faces.json`);
}

/** Saves all photos' results in the form of detections.json. errors: [{ file, error }]. */
export function saveAll(bundle, images, errors) {
  saveJson({ bundle, images, errors }, "detections.json");
}

const stem = (name) => name.replace(/\.[^.]+$/, "") || "photo";

function saveJson(value, name) {
  save(new Blob([`${JSON.stringify(value, null, 1)}\n`], { type: "application/json" }), name);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT);
}
