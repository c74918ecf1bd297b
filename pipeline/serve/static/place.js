// Finds a place for a text next to its box, where it hides no face and no other text; pure functions.

/** Whether two areas [left, top, right, bottom] share a pixel. */
const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** Top left corners to try: above, below, right and left of the box; inside a box that is much larger. */
function* spots([left, top, right, bottom], width, height, room) {
  const pushed = Math.max(Math.min(left, room.width - width), 0);
  const ends = Math.max(right - width, 0);
  yield* [[pushed, top - height], [pushed, bottom], [ends, top - height], [ends, bottom]];
  yield* [[right, top], [right, bottom - height], [left - width, top], [left - width, bottom - height]];
  if (right - left >= width && bottom - top >= 5 * height) {
    yield* [[Math.max(left, 0), Math.max(top, 0)], [Math.max(left, 0), Math.min(bottom, room.height) - height]];
  }
}

/** The first of `corners` where width x height is inside the room and free of `taken`, as an area; else null. */
function firstFree(corners, width, height, room, taken) {
  for (const [x, y] of corners) {
    const area = [x, y, x + width, y + height];
    const inside = x >= 0 && y >= 0 && area[2] <= room.width && area[3] <= room.height;
    if (inside && !taken.some((other) => overlap(area, other))) return area;
  }
  return null;
}

/** The area for a text of `box`; null when there is no room. taken: areas that it must not hide. */
export function placeText(box, width, height, room, taken) {
  return firstFree(spots(box, width, height, room), width, height, room, taken);
}

/** The area for the legend, at an edge if possible; null when there is no room. */
export function placeKey(width, height, room, taken) {
  const corners = [4, 0, 1, 2, 3].flatMap((down) =>
    [0, 8, 1, 7, 2, 6, 3, 5, 4].map((along) => [
      ((room.width - width) * along) / 8,
      ((room.height - height) * down) / 4,
    ]),
  );
  return firstFree(corners, width, height, room, taken);
}
