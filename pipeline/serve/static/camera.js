// The camera: shows its picture in a <video> and sends its newest frames to the server, one at a time.

import { Refusal } from "./api.js";
import { blank, toFile } from "./picture.js";

const LONGEST_SIDE = 800; // pixels; the detector looks at no more
const QUALITY = 0.85;
const MEASURED = 10; // frames of which the rate is the mean

const REASONS = {
  NotAllowedError: "cameraRefused",
  SecurityError: "cameraRefused",
  NotFoundError: "cameraMissing",
  OverconstrainedError: "cameraMissing",
};

export class Camera {
  #video;
  #detect;
  #onResult;
  #onEnd;
  #session = null; // of the present stream; a new one for each switching on

  /**
   * detect(blob, signal): the result of a JPEG. onResult(result, rate, frame): faces of the newest frame, frames per
   * second, and the frame, a canvas that is valid until the call returns. onEnd(refusal): the camera stopped.
   *
   * The picture is not mirrored: its boxes and any text in it would have to be mirrored back.
   */
  constructor(video, { detect, onResult, onEnd }) {
    this.#video = video;
    this.#detect = detect;
    this.#onResult = onResult;
    this.#onEnd = onEnd;
  }

  get on() {
    return this.#session !== null;
  }

  /** Switches the camera on; the next device when `next`. Throws Refusal. */
  async start({ next = false } = {}) {
    const before = next ? this.#deviceId() : null;
    this.stop();
    const session = (this.#session = { stop: new AbortController(), stream: null });
    try {
      session.stream = await openCamera(await wanted(before));
    } catch (error) {
      if (this.#session === session) this.#session = null;
      throw error;
    }
    if (this.#session !== session) return release(session.stream); // switched off meanwhile
    for (const track of session.stream.getVideoTracks()) {
      track.addEventListener("ended", () => this.#end(session, new Refusal("cameraEnded")));
    }
    this.#video.srcObject = session.stream;
    try {
      await this.#video.play();
    } catch {
      if (this.#session !== session) return; // switched off meanwhile
      this.stop();
      throw new Refusal("cameraTaken");
    }
    this.#run(session);
  }

  /** Switches the camera off and releases the device. */
  stop() {
    const session = this.#session;
    this.#session = null;
    if (!session) return;
    session.stop.abort(new DOMException("camera off", "AbortError"));
    release(session.stream);
    this.#video.srcObject = null;
  }

  /** The shown frame as a JPEG at the camera's full size; null before the first frame. */
  still() {
    return this.#grab(Infinity, 0.95);
  }

  #deviceId() {
    return this.#session?.stream?.getVideoTracks()[0]?.getSettings().deviceId ?? null;
  }

  #end(session, refusal) {
    if (this.#session !== session) return;
    this.stop();
    this.#onEnd(refusal);
  }

  async #run(session) {
    const times = [];
    try {
      while (this.#session === session) {
        await nextFrame(this.#video, session.stop.signal);
        const blob = await this.#grab(LONGEST_SIDE, QUALITY);
        if (blob === null) continue;
        const result = await this.#detect(blob, session.stop.signal);
        if (this.#session !== session) return;
        times.push(performance.now());
        if (times.length > MEASURED) times.shift();
        const rate = times.length > 1 ? ((times.length - 1) * 1000) / (times.at(-1) - times[0]) : 0;
        this.#onResult(result, rate, this.#canvas);
      }
    } catch (error) {
      if (!session.stop.signal.aborted) {
        if (!(error instanceof Refusal)) console.error(error);
        this.#end(session, error instanceof Refusal ? error : new Refusal("strange"));
      }
    }
  }

  #canvas = blank(1, 1); // one for all frames

  async #grab(longest, quality) {
    const { videoWidth: width, videoHeight: height } = this.#video;
    if (!width || !height) return null;
    const scale = Math.min(1, longest / Math.max(width, height));
    const canvas = longest === LONGEST_SIDE ? this.#canvas : blank(1, 1);
    const size = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    canvas.getContext("2d").drawImage(this.#video, 0, 0, ...size);
    return toFile(canvas, "image/jpeg", quality);
  }
}

/** Whether there is more than one camera. */
export async function severalCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter(({ kind }) => kind === "videoinput").length > 1;
}

async function wanted(before) {
  const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
  if (before === null) return size;
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const at = cameras.findIndex(({ deviceId }) => deviceId === before);
  return { ...size, deviceId: { exact: cameras[(at + 1) % cameras.length].deviceId } };
}

async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Refusal("cameraInsecure"); // only secure origins have it
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new Refusal(REASONS[error.name] ?? "cameraTaken");
  }
}

function release(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

/** Waits for a new frame; throws when `signal` aborts. */
function nextFrame(video, signal) {
  return new Promise((done, fail) => {
    if (signal.aborted) return fail(signal.reason);
    const stop = () => fail(signal.reason);
    const go = () => {
      signal.removeEventListener("abort", stop);
      done();
    };
    signal.addEventListener("abort", stop, { once: true });
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(go);
    else requestAnimationFrame(go);
  });
}
