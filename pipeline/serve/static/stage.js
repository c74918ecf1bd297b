// The large picture with its boxes: fits it into the available room, redraws it, finds clicked faces.

import { drawFaces } from "./draw.js";
import { faceAt } from "./faces.js";

const LEAST_HEIGHT = 240; // CSS pixels
const SHARE_OF_WINDOW = 0.72; // of its height, so that what follows stays in sight
const TINY = 480; // CSS pixels; a smaller picture is shown enlarged up to this side
const MOST_PIXELS = 16e6; // of a canvas; some browsers hold no more

export class Stage {
  #parts;
  #scene = null;
  #drawing = false;

  /** parts: the elements stage, frame, picture, video, overlay. onPick(index): a face was clicked, -1 for none. */
  constructor(parts, onPick) {
    this.#parts = parts;
    new ResizeObserver(() => this.#fit()).observe(parts.stage);
    addEventListener("resize", () => this.#fit());
    parts.overlay.addEventListener("click", (event) => {
      const { size, faces } = this.#scene ?? {};
      if (!size) return;
      const area = parts.overlay.getBoundingClientRect();
      const x = ((event.clientX - area.left) * size.width) / area.width;
      const y = ((event.clientY - area.top) * size.height) / area.height;
      onPick(faceAt(faces, x, y));
    });
  }

  /**
   * Shows a scene: size (width, height that boxes refer to; null shows nothing), view (a canvas, or null for a blank
   * background), faces, classNames, selected (a face or null), live (the view is the camera's newest frame).
   *
   * The shown camera frame is the one that the boxes belong to: over the moving picture, boxes would be late.
   */
  show(scene) {
    const before = this.#scene;
    this.#scene = scene;
    const { frame, picture, video } = this.#parts;
    frame.hidden = !scene.size;
    if (frame.hidden) return;
    video.hidden = !scene.live;
    picture.hidden = scene.live && !scene.view; // until the first result, the camera's picture is shown
    const same = before?.size?.width === scene.size.width && before.size.height === scene.size.height;
    if (!same || before.view !== scene.view) return this.#fit();
    if (!scene.live) return this.#redraw();
    this.#drawView();
    this.#draw();
  }

  /** CSS pixels per pixel of the scene. */
  get scale() {
    return this.#scene?.size ? this.#parts.frame.clientWidth / this.#scene.size.width : 1;
  }

  #fit() {
    const { size, live } = this.#scene ?? {};
    if (!size) return;
    const { stage, frame, picture, overlay } = this.#parts;
    const style = getComputedStyle(stage);
    const room = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = Math.max(LEAST_HEIGHT, SHARE_OF_WINDOW * innerHeight);
    const most = live ? Infinity : Math.max(1, TINY / Math.max(size.width, size.height));
    const scale = Math.min(room / size.width, height / size.height, most);
    const shown = [Math.max(1, Math.floor(size.width * scale)), Math.max(1, Math.floor(size.height * scale))];
    [frame.style.width, frame.style.height] = shown.map((v) => `${v}px`);
    const dense = Math.min(devicePixelRatio, 3, Math.sqrt(MOST_PIXELS / (shown[0] * shown[1])));
    for (const canvas of [picture, overlay]) {
      [canvas.width, canvas.height] = shown.map((v) => Math.max(1, Math.round(v * dense)));
    }
    this.#drawView();
    this.#draw();
  }

  #drawView() {
    if (!this.#scene.view) return;
    const { picture } = this.#parts;
    const pen = picture.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#scene.view, 0, 0, picture.width, picture.height);
  }

  /** Draws once per screen frame, also when a slider moves more often. */
  #redraw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    const { size, faces, classNames, selected } = this.#scene ?? {};
    if (!size) return;
    const { frame, overlay } = this.#parts;
    overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    drawFaces(overlay, faces, size, { classNames, selected, unit: overlay.width / frame.clientWidth || 1 });
  }
}
