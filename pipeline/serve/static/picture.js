// Turns a picture file into pixels, upright as the server sees it.

import { webpOrientation } from "./webp.js";

/** The file's picture as an ImageBitmap (close it), or null when the browser does not know the format. */
export async function decode(blob) {
  const orientation = await webpOrientation(blob);
  try {
    if (orientation === 1) return await createImageBitmap(blob, { imageOrientation: "from-image" });
    const bitmap = await createImageBitmap(blob, { imageOrientation: "none" });
    return await createImageBitmap(upright(bitmap, orientation));
  } catch {
    return null;
  }
}

/** A canvas with the picture turned by its EXIF orientation; closes the bitmap. */
function upright(bitmap, orientation) {
  const { width, height } = bitmap;
  const turned = orientation >= 5;
  const canvas = blank(turned ? height : width, turned ? width : height);
  const pen = canvas.getContext("2d");
  // From the canvas's last step to its first: rows from below, columns from the right, rows to columns.
  if ([3, 4, 7, 8].includes(orientation)) pen.transform(1, 0, 0, -1, 0, canvas.height);
  if ([2, 3, 6, 7].includes(orientation)) pen.transform(-1, 0, 0, 1, canvas.width, 0);
  if (turned) pen.transform(0, 1, 1, 0, 0, 0);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

/** A canvas with the picture, its longer side at most `most` pixels. */
export function shrunk(bitmap, most) {
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const canvas = blank(bitmap.width * scale, bitmap.height * scale);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** An empty canvas of that size, at least one pixel. */
export function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

/** The canvas as a file of `type`; null when the canvas is too large for the browser. */
export const toFile = (canvas, type, quality) => new Promise((done) => canvas.toBlob(done, type, quality));
