// The worker of device.js: ONNX Runtime's WebAssembly with the whole detector as one graph.

const RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const MODEL = "mask-detector.onnx";
const MOST_THREADS = 4;

let loaded = null; // { ort, session, model }
let queue = Promise.resolve(); // one question at a time

self.addEventListener("message", ({ data }) => {
  queue = queue.then(() => reply(data));
});

async function reply({ number, job, ...question }) {
  try {
    const answer = await (job === "load" ? load(question, number) : detect(question));
    self.postMessage({ number, answer });
  } catch (error) {
    const kind = loaded ? "deviceFailed" : "noModel";
    self.postMessage({ number, failure: { kind, message: String(error) } });
  }
}

async function load({ address }, number) {
  if (loaded) return loaded.model;
  const at = (name) => new URL(name, address).href;
  const tell = (progress) => self.postMessage({ number, progress });
  const model = await (await found(at("model.json"))).json();
  const [graph, binary] = await fetchAll([at(MODEL), at(RUNTIME[2])], model.bytes, tell);
  const ort = await import(at(RUNTIME[0]));
  Object.assign(ort.env.wasm, { wasmBinary: binary.buffer, wasmPaths: { mjs: at(RUNTIME[1]) } });
  // Threads need memory that they share, which browsers give to cross-origin isolated pages only.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  const session = await ort.InferenceSession.create(graph, { logSeverityLevel: 3, enableMemPattern: false });
  loaded = { ort, session, model: { ...model.bundle, threads: ort.env.wasm.numThreads } };
  return loaded.model;
}

async function found(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return response;
}

/** The bytes of files of `total` bytes together; tell(share) is called as they come. */
async function fetchAll(addresses, total, tell) {
  let come = 0;
  return Promise.all(
    addresses.map(async (address) => {
      const pieces = [];
      for await (const piece of stream((await found(address)).body)) {
        pieces.push(piece);
        come += piece.length;
        tell(Math.min(come / total, 1));
      }
      return new Uint8Array(await new Blob(pieces).arrayBuffer());
    }),
  );
}

/** The pieces of a ReadableStream, which not every browser iterates itself. */
async function* stream(body) {
  const reader = body.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}

async function detect({ bitmap, minScore, minFace }) {
  const { ort, session, model } = loaded;
  const { width, height } = bitmap;
  const scalar = (value) => new ort.Tensor("float32", [value], []);
  const image = new ort.Tensor("uint8", pixels(bitmap), [height, width, 3]);
  const found = await session.run({ image, min_score: scalar(minScore), min_face: scalar(minFace) });
  return { width, height, faces: facesOf(found, model) };
}

/** The RGB values of a bitmap, row by row, on white where it is transparent; closes the bitmap. */
function pixels(bitmap) {
  const { width, height } = bitmap;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return rgb;
}

/** The faces as the server writes them (pipeline/inference/results.py). */
function facesOf({ boxes, scores, labels, class_probs: probs, landmarks }, { class_names: names, fusion }) {
  const row = (values, i, size) => [...values.data.subarray(i * size, (i + 1) * size)];
  return [...scores.data].map((score, i) => {
    const own = row(probs, i, names.length).map((value) => rounded(value, 6));
    const label = Number(labels.data[i]);
    const [best, second = -Infinity] = own.toSorted((a, b) => b - a);
    const faceScore = rounded(Math.min(score / own[label], 1), 6);
    const points = row(landmarks, i, 10).map((value) => rounded(value, 2));
    return {
      box: row(boxes, i, 4).map((value) => rounded(value, 2)),
      label: names[label],
      score: rounded(faceScore * own[label], 6),
      face_score: faceScore,
      probs: Object.fromEntries(names.map((name, k) => [name, own[k]])),
      unsure: best - second < fusion.unsure_margin,
      landmarks: [0, 2, 4, 6, 8].map((k) => points.slice(k, k + 2)),
    };
  });
}

const rounded = (value, digits) => Number(value.toFixed(digits));
