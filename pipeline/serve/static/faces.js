// Counts the faces of a result; pure functions.

const RIGHT = "with_mask";

/** The faces with a score of at least `least`. */
export const shownFaces = (result, least) => result.faces.filter((face) => face.score >= least);

/** How many faces each class has, as [name, count] in the order of `classNames`. */
export function countByClass(faces, classNames) {
  const counts = new Map(classNames.map((name) => [name, 0]));
  for (const { label } of faces) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts];
}

/** { right, all, percent } of masks worn correctly; null when there is no face or no such class. */
export function rightShare(faces, classNames) {
  if (!faces.length || !classNames.includes(RIGHT)) return null;
  const right = faces.filter(({ label }) => label === RIGHT).length;
  return { right, all: faces.length, percent: Math.round((100 * right) / faces.length) };
}

/** The index of the smallest face whose box holds (x, y), in the picture's pixels; else -1. */
export function faceAt(faces, x, y) {
  let best = -1;
  let least = Infinity;
  faces.forEach(({ box: [left, top, right, bottom] }, i) => {
    const area = (right - left) * (bottom - top);
    if (x >= left && x < right && y >= top && y < bottom && area < least) [best, least] = [i, area];
  });
  return best;
}
