// The EXIF orientation of a WebP file, which browsers ignore, unlike that of a JPEG.

const ORIENTATION = 0x0112;

/** The orientation of a file, 1 to 8; 1 when it is not a WebP file or has none. */
export async function webpOrientation(blob) {
  try {
    const chunk = await exifChunk(blob);
    return chunk ? orientationOf(new DataView(await chunk.arrayBuffer())) : 1;
  } catch {
    return 1; // damaged: the pixels themselves may be sound
  }
}

/** The part of a WebP file that holds its EXIF data; null when there is none. Reads only the headers of the parts. */
async function exifChunk(blob) {
  const head = await text(blob, 0, 12);
  if (!head.startsWith("RIFF") || !head.endsWith("WEBP")) return null;
  for (let at = 12; at + 8 <= blob.size; ) {
    const name = await text(blob, at, 4);
    const size = new DataView(await blob.slice(at + 4, at + 8).arrayBuffer()).getUint32(0, true);
    if (name === "EXIF") return blob.slice(at + 8, at + 8 + size);
    at += 8 + size + (size % 2);
  }
  return null;
}

const text = async (blob, from, length) =>
  String.fromCharCode(...new Uint8Array(await blob.slice(from, from + length).arrayBuffer()));

/** The orientation in a TIFF block, which may follow the six bytes "Exif\0\0". */
function orientationOf(data) {
  const start = data.getUint32(0) === 0x45786966 ? 6 : 0;
  const little = data.getUint16(start) === 0x4949;
  const directory = start + data.getUint32(start + 4, little);
  const entries = data.getUint16(directory, little);
  for (let entry = directory + 2; entry < directory + 2 + 12 * entries; entry += 12) {
    if (data.getUint16(entry, little) !== ORIENTATION) continue;
    const value = data.getUint16(entry + 8, little);
    return value >= 1 && value <= 8 ? value : 1;
  }
  return 1;
}
