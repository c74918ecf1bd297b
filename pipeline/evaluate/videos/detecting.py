"""Encodes made videos as H.264, and detects the faces of each frame once; the detections are kept in files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from common.annotations import AnnotatedImage
from common.cli import progress, requires_extra
from common.errors import UserError
from common.files import atomic_replace
from common.images import Pixels, read_image
from pipeline.evaluate.videos.clips import ClipRecipe, make_clip
from pipeline.evaluate.videos.truth import ClipTruth
from pipeline.inference.detections import Detections
from pipeline.inference.predictor import Predictor
from pipeline.video.motion.frame_selection import MotionGate
from pipeline.video.reader import Frame, VideoFile

MAKER_VERSION = 3  # raise it when the same recipe makes another video
TIME_BASE = Fraction(1, 90000)  # seconds


@dataclass(frozen=True)
class DetectedClip:
    """One video's truth and detections."""

    recipe: ClipRecipe
    truth: ClipTruth
    detections: tuple[Detections, ...]  # of each frame
    moving: tuple[bool, ...] = ()  # for each frame, whether `detect --motion` runs the detector

    def with_motion(self) -> DetectedClip:
        """Return the video with the detections that `detect --motion` uses: those of the detector's last run."""
        held: list[Detections] = []
        for found, runs in zip(self.detections, self.moving, strict=True):
            held.append(found if runs else held[-1])
        return replace(self, detections=tuple(held))


def encode_and_decode(frames: Sequence[Pixels], times: Sequence[float], rate: int, bit_rate: int) -> list[Pixels]:
    """Return the frames, uint8 (H, W, 3) RGB, as they look after H.264 at a bit rate.

    The video is a file of a temporary folder, which is deleted. It is read as `detect` reads videos.

    Args:
        frames: T frames of one size with even sides.
        times: T times in seconds; a gap is a dropped frame.
        rate: frames per second without gaps.
        bit_rate: bits per second.

    Raises:
        UserError: the video extra is not installed.
    """
    with requires_extra("video"):
        import av
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/clip.mp4"
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.bit_rate = "yuv420p", bit_rate
            stream.options = {"preset": "veryfast", "maxrate": str(bit_rate), "bufsize": str(bit_rate), "threads": "1"}
            stream.codec_context.time_base = TIME_BASE
            for pixels, time in zip(frames, times, strict=True):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(time / TIME_BASE), TIME_BASE
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        decoded = [frame.pixels for frame in VideoFile(path).frames()]
    if len(decoded) != len(frames):
        raise UserError(f"a made video has {len(decoded)} frames instead of {len(frames)}; install the locked PyAV")
    return decoded


def detect_clips(
    recipes: Sequence[ClipRecipe], images: Sequence[AnnotatedImage], predictor: Predictor, min_score: float, cache: Path
) -> list[DetectedClip]:
    """Make each video and detect the faces of its frames, or read the detections of an earlier call.

    Args:
        recipes: how the videos are made.
        images: the annotated photos, with those of the recipes.
        predictor: the detector.
        min_score: smallest score of a detection.
        cache: folder of the detections, one file per video; photos and videos are not kept.
    """
    by_id = {image.image_id: image for image in images}
    clips = []
    with progress() as bar:
        for recipe in bar.track(list(recipes), description="detecting in videos"):
            image = by_id[recipe.image_id]
            file = cache / f"{_digest(recipe, image, predictor, min_score)}.npz"
            clips.append(
                _read(file, recipe, predictor) if file.is_file() else _detect(recipe, image, predictor, min_score)
            )
            if not file.is_file():
                _write(file, clips[-1])
    return clips


def _detect(recipe: ClipRecipe, image: AnnotatedImage, predictor: Predictor, min_score: float) -> DetectedClip:
    frames, truth = make_clip(read_image(image.path), image, recipe)
    shown = encode_and_decode(frames, truth.times.tolist(), recipe.rate, recipe.bit_rate)
    gate = MotionGate()
    moving = tuple(gate.should_detect(Frame(k, float(truth.times[k]), pixels)) for k, pixels in enumerate(shown))
    return DetectedClip(recipe, truth, tuple(predictor.detect(pixels, min_score) for pixels in shown), moving)


def _digest(recipe: ClipRecipe, image: AnnotatedImage, predictor: Predictor, min_score: float) -> str:
    """Return a name for everything that the detections depend on."""
    annotations = [image.boxes.tolist(), image.labels, hashlib.sha256(image.path.read_bytes()).hexdigest()]
    parts = [MAKER_VERSION, asdict(recipe), annotations, predictor.bundle.describe(), min_score]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _write(file: Path, clip: DetectedClip) -> None:
    faces = clip.detections
    arrays = {name: np.concatenate([getattr(d, name) for d in faces]) for name in _ARRAYS}
    with atomic_replace(file) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            counts=np.array([len(d) for d in faces]),
            times=clip.truth.times,
            gt_boxes=clip.truth.boxes,
            gt_labels=np.array(clip.truth.labels),
            moving=np.array(clip.moving),
            **arrays,  # type: ignore[arg-type]
        )


def _read(file: Path, recipe: ClipRecipe, predictor: Predictor) -> DetectedClip:
    meta = predictor.bundle.meta
    with np.load(file) as saved:
        ends = np.cumsum(saved["counts"])[:-1]
        boxes, scores, probs, landmarks = (np.split(saved[name], ends) for name in _ARRAYS)
        margin = meta.fusion.unsure_margin
        detections = tuple(
            Detections(*faces, class_names=meta.class_names, unsure_margin=margin)
            for faces in zip(boxes, scores, probs, landmarks, strict=True)
        )
        labels = tuple(str(label) for label in saved["gt_labels"])
        truth = ClipTruth(saved["times"], saved["gt_boxes"], labels, recipe.size)
        moving = tuple(saved["moving"].tolist())
    return DetectedClip(recipe, truth, detections, moving)


_ARRAYS = ("boxes", "face_scores", "class_probs", "landmarks")
