// How each class looks: a colour, the text colour on it, and a mark, so that colour is never the only sign.

// Okabe and Ito's palette, distinct to colour-blind eyes; in the order of pipeline/inference/draw.py.
const PALETTE = [
  [0, 158, 115],
  [213, 94, 0],
  [240, 228, 66],
  [86, 180, 233],
  [204, 121, 167],
  [230, 159, 0],
  [0, 114, 178],
];
const MARKS = { with_mask: "✓", without_mask: "✕", mask_weared_incorrect: "!" };

/** Relative luminance as WCAG defines it. */
function luminance(colour) {
  const [r, g, b] = colour.map((v) => (v <= 10 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** { index, name, colour, ink, mark } of the class `name`; a name outside `classNames` follows them. */
export function kindOf(name, classNames) {
  const at = classNames.indexOf(name);
  const index = (at < 0 ? classNames.length : at) % PALETTE.length;
  const light = luminance(PALETTE[index]);
  return {
    index,
    name,
    colour: `rgb(${PALETTE[index].join(" ")})`,
    ink: (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000" : "#fff",
    mark: MARKS[name] ?? String.fromCharCode(65 + (at < 0 ? classNames.length : at) % 26),
  };
}
