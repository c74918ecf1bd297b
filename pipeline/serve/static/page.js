// Joins the modules: user actions, requests, display.

import { Refusal } from "./api.js";
import { Backend } from "./backend.js";
import { Camera, severalCameras } from "./camera.js";
import { saveAll, savePicture, saveResult } from "./download.js";
import { rightShare, shownFaces } from "./faces.js";
import { intake } from "./intake.js";
import { lineOf, Notices } from "./notices.js";
import { Photos } from "./photos.js";
import { decode, shrunk } from "./picture.js";
import { Places } from "./places.js";
import { CloseUp, FaceTable, inWords, showCounts } from "./results.js";
import { settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { tokenDialog } from "./token.js";
import { say, speak } from "./words.js";

const ASKED = 0.05; // least score asked for; the slider chooses among what comes, without asking again
const VIEW = 2048; // pixels; longer side of the picture held for the screen
const THUMB = 160;
const CAMERA_SMALLEST = 12; // pixels, of a camera on this device: smaller faces would take half of the time

const at = (id) => document.getElementById(id);
const score = at("score");

let model = null; // what /v1/model said
let least = 0.5; // the slider's score
let view = { photo: null, canvas: null }; // the current photo's pixels
let live = { result: null, rate: 0, frame: null, message: "" }; // the camera's newest frame

const notices = new Notices(at("notices"), at("status"));
const askToken = tokenDialog({
  dialog: at("token"),
  form: at("token-form"),
  value: at("token-value"),
  help: at("token-help"),
  cancel: at("token-cancel"),
});
const { backends, serviceWorker } = document.documentElement.dataset;
const backend = new Backend(backends.split(" "), { askToken, onProgress: (share) => places.progress(share) });
const places = new Places(
  { label: at("where-label"), select: at("where"), privacy: at("privacy"), loading: at("loading"), share: at("share-loaded") },
  backend.places,
  moveTo,
);
const photos = new Photos(detectPhoto, photoChanged);
const stage = new Stage(
  { stage: at("stage"), frame: at("frame"), picture: at("picture"), video: at("video"), overlay: at("overlay") },
  (shown) => pick(currentFaces()?.[shown] ?? null),
);
const camera = new Camera(at("video"), {
  detect: async (blob, signal) => {
    await loadModel();
    const onWait = () => {
      live.message = "busy";
      renderFaces();
    };
    const { minScore, minFace } = asked();
    const smallest = minFace || (backend.place === "device" ? CAMERA_SMALLEST : "");
    return backend.detect(blob, { minScore, minFace: smallest, signal, onWait });
  },
  onResult: (result, rate, frame) => {
    live = { result, rate, frame, message: "" };
    renderFaces();
  },
  onEnd: (refusal) => {
    notices.tell(refusal, { retry: () => startCamera() });
    render();
  },
});
const table = new FaceTable(at("rows"), at("faces-hint"), (i) => pick(photos.current.result.faces[i]));
const closeUp = new CloseUp({ area: at("close-up"), picture: at("close-up-picture"), figures: at("close-up-figures") });
const strip = new Strip(at("strip"), (photo) => {
  camera.stop();
  photos.choose(photo);
  render();
});

// Requests to the server or the device

let loading = null;

/** The model, requested once; again after a failure. */
function loadModel() {
  loading ??= backend.model().then(
    (answer) => {
      model = answer;
      setUpSlider(model.thresholds.score);
      if (serviceWorker) navigator.serviceWorker?.register(serviceWorker); // later than the model, which it keeps, too
      notices.forget(({ refusal }) => OF_ALL.includes(refusal.kind));
      render();
    },
    (error) => {
      loading = null;
      throw error;
    },
  );
  return loading;
}

function tryModel() {
  loadModel().catch((error) => {
    notices.tell(error instanceof Refusal ? error : new Refusal("strange"), { retry: tryModel });
  });
}

const asked = () => ({ minScore: Math.min(ASKED, model.thresholds.score), minFace: at("smallest").value });

async function detectPhoto(photo, signal) {
  try {
    await photo.file.slice(0, 1).arrayBuffer(); // else a folder would look like a server that does not answer
  } catch {
    throw new Refusal("unreadable");
  }
  await loadModel();
  const onWait = () => {
    photo.busy = true;
    photoChanged(photo);
  };
  return backend.detect(photo.file, { name: photo.name, ...asked(), signal, onWait });
}

function photoChanged(photo) {
  if (photo.state === "failed") tellFailure(photo);
  if (photo.state === "working") notices.forget(({ file }) => file === photo.name);
  if (photo.state === "done") {
    notices.forget(({ refusal }) => OF_ALL.includes(refusal.kind));
    const what = inWords(shownFaces(photo.result, least), model.class_names);
    notices.say(say("inPhoto", { file: photo.name, what }));
  } else if (photo === photos.current && photo.state === "working") {
    notices.say(photo.busy ? say("busy") : say("workingOn", { file: photo.name }));
  }
  render();
}

const OF_ALL = ["offline", "noToken", "noModel"]; // matters of the server or the model, not of one photo

function tellFailure({ name, error }) {
  if (!OF_ALL.includes(error.kind)) return notices.tell(error, { file: name });
  const again = () => photos.again(photos.list.filter((photo) => OF_ALL.includes(photo.error?.kind)));
  return notices.tell(error, { retry: again });
}

// User actions

/** Looks at photos elsewhere: on the server or on this device. */
function moveTo(place) {
  backend.place = place;
  loading = null; // the model at hand stays until the other place has told its own
  places.show(place);
  tryModel();
  photos.again(photos.list);
}

function addFiles(files) {
  if (!files.length) {
    notices.tell(new Refusal("noFiles"));
    return;
  }
  camera.stop();
  photos.add(files);
  for (const photo of photos.list.slice(-files.length)) addThumb(photo);
  render();
}

let thumbs = Promise.resolve(); // one photo at a time: decoded, a photo takes a hundred megabytes

function addThumb(photo) {
  thumbs = thumbs.then(async () => {
    if (!photos.list.includes(photo)) return;
    const bitmap = await decode(photo.file);
    if (!bitmap) return;
    strip.picture(photo, shrunk(bitmap, THUMB));
    bitmap.close();
  });
}

async function startCamera(options) {
  live = { result: null, rate: 0, frame: null, message: "cameraStarting" };
  const starting = camera.start(options);
  render();
  try {
    await starting;
    at("turn").hidden = !(await severalCameras());
  } catch (error) {
    notices.tell(error instanceof Refusal ? error : new Refusal("cameraTaken"), { retry: () => startCamera() });
  }
  render();
}

function pick(face) {
  if (camera.on || !photos.current) return;
  photos.current.selected = photos.current.selected === face ? null : face;
  renderFaces();
}

async function keepFrame() {
  const blob = await camera.still();
  if (!blob) return;
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  addFiles([new File([blob], `camera-${time}.jpg`, { type: "image/jpeg" })]);
}

function setUpSlider(threshold) {
  // A step base that makes the threshold one of the slider's positions.
  const lowest = Math.min(ASKED, threshold);
  const steps = Math.floor((threshold - lowest) / 0.01 + 1e-9);
  score.min = (threshold - steps * 0.01).toFixed(4);
  score.max = 1;
  score.value = threshold;
  score.disabled = false;
  least = threshold;
}

score.addEventListener("input", () => {
  least = Number(Number(score.value).toFixed(4));
  if (Math.abs(least - model.thresholds.score) < 1e-6) least = model.thresholds.score;
  renderFaces();
});
at("reset").addEventListener("click", () => {
  setUpSlider(model.thresholds.score);
  renderFaces();
  score.focus();
});
at("smallest").addEventListener("change", () => photos.again(photos.list));
at("camera").addEventListener("click", () => {
  if (camera.on) {
    camera.stop();
    render();
  } else {
    startCamera();
  }
});
at("video").addEventListener("loadedmetadata", () => renderFaces());
at("turn").addEventListener("click", () => startCamera({ next: true }));
at("keep").addEventListener("click", keepFrame);
at("retry").addEventListener("click", () => photos.again([photos.current]));
at("remove").addEventListener("click", () => {
  const { name } = photos.current;
  notices.forget(({ file }) => file === name);
  photos.remove(photos.current);
  render();
  (photos.current ? at("remove") : at("choose")).focus();
});
at("clear").addEventListener("click", () => {
  notices.forget(({ file }) => file !== "");
  photos.clear();
  render();
  at("choose").focus();
});
at("save-picture").addEventListener("click", async () => {
  const photo = photos.current;
  try {
    await savePicture(photo, currentFaces(), model.class_names, stage.scale);
  } catch (error) {
    notices.tell(error instanceof Refusal ? error : new Refusal("notDrawn"), { file: photo.name });
  }
});
at("save-json").addEventListener("click", () => saveResult(photos.current, filtered(photos.current)));
at("save-all").addEventListener("click", () => {
  const done = photos.list.filter(({ result }) => result).map(filtered);
  const failed = photos.list.filter(({ state }) => state === "failed");
  const why = ({ name, error }) => {
    const line = lineOf(error);
    return line.startsWith(`${name}: `) ? line.slice(name.length + 2) : line;
  };
  saveAll(model, done, failed.map((photo) => ({ file: photo.name, error: why(photo) })));
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && photos.current?.selected) pick(photos.current.selected);
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "hidden" || !camera.on) return;
  camera.stop(); // nobody looks, so nothing is filmed
  notices.tell(new Refusal("cameraHidden"), { retry: () => startCamera() });
  render();
});

// Display

const filtered = ({ result }) => ({ ...result, faces: shownFaces(result, least) });

/** The faces shown now; null while there is no result. */
function currentFaces() {
  const result = camera.on ? live.result : photos.current?.result;
  return result ? shownFaces(result, least) : null;
}

/** Shows everything. anew: in another language. */
function render(anew = false) {
  const { current, list } = photos;
  const something = camera.on || current !== null;
  document.body.classList.toggle("empty", !something);
  at("result").hidden = at("skip").hidden = !something;
  at("camera").textContent = say(camera.on ? "cameraOff" : "cameraOn");
  at("keep").hidden = !camera.on;
  if (!camera.on) at("turn").hidden = true;
  at("retry").hidden = camera.on || current?.state !== "failed";
  at("remove").hidden = camera.on || !current;
  at("clear").hidden = camera.on || list.length < 2;
  if (camera.on) at("faces-card").hidden = true;
  at("save-card").hidden = camera.on;
  at("strip-area").hidden = list.length < (camera.on ? 1 : 2);
  if (anew) notices.render();
  if (current && view.photo !== current) loadView(current);
  if (!current) view = { photo: null, canvas: null };
  renderFaces(anew);
}

async function loadView(photo) {
  view = { photo, canvas: null };
  const bitmap = await decode(photo.file);
  if (view.photo === photo) {
    const canvas = bitmap && shrunk(bitmap, VIEW);
    view = { photo, canvas, size: bitmap && { width: bitmap.width, height: bitmap.height } };
  }
  bitmap?.close();
  render();
}

/** Shows what changes with the slider, a selected face or the camera's newest frame. */
function renderFaces(anew = false) {
  const { current, list } = photos;
  const classNames = model?.class_names ?? [];
  const faces = currentFaces();
  const what = faces ? inWords(faces, classNames) : "";
  score.setAttribute("aria-valuetext", say("scoreValue", { score: least.toFixed(2), what }));
  at("score-value").textContent = model ? least.toFixed(2) : "";
  at("reset").hidden = !model || least === model.thresholds.score;
  if (!camera.on && !current) return;

  showCounts({ share: at("share"), bar: at("bar"), counts: at("counts") }, faces, classNames);
  at("overlay").ariaLabel = what;
  at("overlay").dataset.faces = faces?.length ?? "";
  const shownOf = (photo) => (photo.result ? shownFaces(photo.result, least) : null);
  strip.show(list, camera.on ? null : current, shownOf, classNames);
  renderTotal(shownOf, classNames);
  if (camera.on) renderCamera(faces ?? [], classNames);
  else renderPhoto(faces, classNames, anew);
}

function renderTotal(shownOf, classNames) {
  const all = photos.list.flatMap((photo) => shownOf(photo) ?? []);
  const share = rightShare(all, classNames);
  const right = share ? `${share.right} (${say("share", share)})` : "";
  at("total").hidden = photos.list.length < 2;
  at("total").textContent = say("total", { photos: photos.list.length, count: all.length, right });
}

function renderCamera(faces, classNames) {
  const { result, rate, frame, message } = live;
  at("name").textContent = say("camera");
  at("size").textContent = rate ? say("rate", { rate: rate.toFixed(1) }) : "";
  showVeil(message ? say(message) : "");
  const { videoWidth: width, videoHeight: height } = at("video");
  const size = result ?? (width ? { width, height } : null);
  stage.show({ size, view: frame, live: true, faces, classNames, selected: null });
}

function renderPhoto(faces, classNames, anew) {
  const { current } = photos;
  const selected = faces?.includes(current.selected) ? current.selected : null;
  const size = current.result ?? view.size;
  at("name").textContent = current.name;
  at("size").textContent = size ? say("size", size) : "";
  const unseen = current.result && view.photo === current && view.size === null;
  const done = unseen ? "notShown" : "";
  const states = { waiting: "waiting", working: current.busy ? "busy" : "working", failed: "noResult", done };
  const state = states[current.state];
  showVeil(state && say(state), current.state);
  at("faces-card").hidden = !current.result;
  at("save-picture").disabled = at("save-json").disabled = !faces;
  at("save-all").disabled = !photos.list.some(({ result }) => result);
  stage.show({ size, view: view.canvas, faces: faces ?? [], classNames, selected });
  table.show(current.result, faces ?? [], classNames, selected, anew);
  closeUp.show(current, selected);
}

function showVeil(text, state = "") {
  at("veil").hidden = !text;
  at("veil").textContent = text;
  at("veil").dataset.state = state;
}

intake(
  { choose: at("choose"), files: at("files"), take: at("take"), shot: at("shot"), dropHere: at("drop-here") },
  addFiles,
);
settings(at("language"), at("theme"), (code) => {
  speak(code);
  places.show(backend.place);
  render(true);
});
tryModel();
