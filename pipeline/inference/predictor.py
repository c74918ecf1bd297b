"""Predictor: the only inference path, from an upright RGB image to Detections; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes, as_boxes
from common.errors import BundleError, UserError
from common.images import MAX_PIXELS, Photo, Shrink, decode_photo, read_photo
from pipeline.inference.bundle import Bundle
from pipeline.inference.detections import Detections
from pipeline.inference.device import Device
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import O_CONTEXT, O_SIZE
from stage1_faces.faces import Detector
from stage2_classifier.cropping import cut_crop, to_input

if TYPE_CHECKING:
    pass

CLASSIFIER_BATCH = 16  # 64: as quick, some MB more
# A crop whose class has this probability is not judged in its mirror image, too: more than half of all crops, and on
# validation photos no figure suffered (EXPERIMENTS.md).
TTA_SKIP_PROB = 0.97
# Class probabilities (N, C); log odds of being a face (N,); box numbers (N, 4).
Verdicts = tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]


class Predictor:
    """The two stages of a bundle, joined: finds faces and names the class of each."""

    def __init__(
        self, bundle: Bundle, threads: int = 1, device: Device = "cpu", detector: Detector | None = None
    ) -> None:
        """threads: for each net; one is quickest for single photos, whose windows are small.

        device: what the nets run on. detector: finds the faces instead of the bundle's cascade, for comparison.
        A predictor may be called from several threads at once. Raises UserError when a net cannot run.
        """
        self.bundle = bundle
        self._detector = detector or bundle.detector(threads, device)
        self._search = None if detector else bundle.meta.search  # a foreign detector has its own
        self._classifier = bundle.graph("classifier", threads, device)

    @classmethod
    def load(cls, path: Path | str | None = None, threads: int = 1, device: Device = "cpu") -> Predictor:
        """A predictor from a bundle directory; the default bundle when none is named. Raises UserError."""
        return cls(Bundle.load(path), threads, device)

    @classmethod
    def default(cls, threads: int = 1, device: Device = "cpu") -> Predictor:
        """A predictor from the bundle that comes with the project."""
        return cls.load(None, threads, device)

    def detect(
        self,
        image: NDArray[np.uint8] | Photo | Path | str,
        min_score: float | None = None,
        min_face: float | None = None,
    ) -> Detections:
        """Faces in an upright RGB image (H, W, 3 uint8), a photo read before or an image file; see `detect_batch`.

        Boxes and landmarks are in the file's pixels, also where fewer were read. Raises MediaError when a file cannot
        be read.
        """
        _check(min_score, min_face)
        if isinstance(image, np.ndarray):
            return self.detect_batch([image], min_score, min_face)[0]
        photo = image if isinstance(image, Photo) else self.read(image, min_face)
        across, down = photo.scale
        searched = min_face
        if (across, down) != (1, 1):  # then the cascade is one that says what it looks for
            assert isinstance(self._search, CascadeConfig)
            searched = max(self._search.min_face_for(photo.size, min_face) / max(across, down), 1.0)
        return self.detect_batch([photo.pixels], min_score, searched)[0].rescale(across, down)

    def read(self, path: Path | str, min_face: float | None = None) -> Photo:
        """Reads a photo with as many pixels as its detection uses: a huge JPEG at a half, quarter or eighth.

        It is read smaller only while its smallest face looked for still fills the windows that the nets see, which
        are shrunk from more pixels otherwise. Raises MediaError when the file cannot be read.
        """
        return read_photo(path, self._shrink(min_face))

    def read_from(
        self, file: BinaryIO, name: str, min_face: float | None = None, max_pixels: int = MAX_PIXELS
    ) -> Photo:
        """`read` for an open file or an upload, which errors call `name`; see `decode_photo` for max_pixels."""
        return decode_photo(file, name, self._shrink(min_face), max_pixels)

    def _shrink(self, min_face: float | None) -> Shrink | None:
        """How many times smaller a photo may be read; None where the cascade looks for one size whatever the photo's.

        Raises UserError when min_face is out of range.
        """
        _check(None, min_face)
        search, meta = self._search, self.bundle.meta
        if not isinstance(search, CascadeConfig):
            return None
        # px that a face must keep to fill a window, by its longer side, which is at least its mean one
        least = max(O_SIZE / O_CONTEXT, meta.input_size / (1 + 2 * meta.margin))
        return lambda size: search.min_face_for(size, min_face) / least

    def detect_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        min_score: float | None = None,
        min_face: float | None = None,
    ) -> list[Detections]:
        """Faces in each of the images (H, W, 3 uint8 RGB, any sizes), in their order.

        min_score: smallest `score` reported, min_face: smallest face looked for in pixels; both default to the
        bundle's. min_score 0 keeps every candidate that comes through the whole cascade, down to its judge's floor.
        Raises UserError when either is out of range.
        """
        _check(min_score, min_face)
        if not images:
            return []
        meta, judge = self.bundle.meta, self.bundle.meta.fusion
        floor = meta.score_threshold if min_score is None else min_score
        # A score is at most its face score, so stage 1 may drop what cannot reach the floor.
        found = self._detector.detect_batch(images, min_face=min_face, min_score=judge.min_detector_score_for(floor))
        seen = self.run_classifier(images, [faces.boxes for faces in found])
        results = []
        for image, faces, (probs, verdicts, numbers) in zip(images, found, seen, strict=True):
            size = (image.shape[1], image.shape[0])
            detections = Detections(
                judge.boxes(faces.boxes, numbers, meta.margin, size),
                judge.face_scores(faces.scores, verdicts),
                judge.class_probs(probs),
                faces.landmarks,
                meta.class_names,
                judge.unsure_margin,
            )
            scores = detections.scores
            order = np.argsort(-scores, kind="stable")
            results.append(detections[order[scores[order] >= floor]])
        return results

    def classify(self, image: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.float32]:
        """Class probabilities (N, C) of given face boxes (N, 4) in an image (H, W, 3 uint8 RGB)."""
        return self.bundle.meta.fusion.class_probs(self.run_classifier([image], [as_boxes(boxes)])[0][0])

    def run_classifier(self, images: Sequence[NDArray[np.uint8]], boxes: Sequence[Boxes]) -> list[Verdicts]:
        """What the classifier makes of boxes (N, 4) in each of the images, as its graph says it, before calibration.

        For each image class probabilities (N, C) and, where the bundle's classifier gives them, log odds of being a
        face (N,) and box numbers (N, 4), else None. The crops of all images go through the graph together.
        """
        crops = [self._crop(image, box) for image, own in zip(images, boxes, strict=True) for box in own]
        outputs = self._outputs(crops)
        ends = np.cumsum([len(own) for own in boxes])[:-1]
        parts = [[None] * len(images) if each is None else np.split(each, ends) for each in outputs]
        return list(zip(*parts, strict=True))

    def _crop(self, image: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
        return cut_crop(image, box, self.bundle.meta.margin, self.bundle.meta.input_size)

    def _outputs(self, crops: Sequence[NDArray[np.uint8]]) -> Verdicts:
        """The classifier's outputs for all crops (N of them); None for those that its graph does not have."""
        meta = self.bundle.meta
        outputs: list[NDArray[np.float32]] = [np.zeros((len(crops), len(meta.class_names)), np.float32)]
        for start in range(0, len(crops), CLASSIFIER_BATCH):
            pixels = to_input(np.stack(crops[start : start + CLASSIFIER_BATCH]), meta.mean, meta.std)
            given = self._classifier(pixels)
            if meta.fusion.flip_tta:
                given = self._with_mirrored(pixels, given)
            for k, values in enumerate(given):
                if k == len(outputs):
                    outputs.append(np.zeros((len(crops), *values.shape[1:]), np.float32))
                outputs[k][start : start + len(values)] = values
        probs, verdicts, numbers = [*outputs, None, None][:3]
        if len(crops) and meta.fusion.classifier_weight and verdicts is None:
            raise BundleError(f"{self.bundle.path}: its scores need verdicts that its graph lacks; pack it anew")
        return np.asarray(probs), verdicts, numbers

    def _with_mirrored(
        self, pixels: NDArray[np.float32], given: list[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """The outputs for pixels (N, 3, S, S), where the class is not certain averaged with the mirror image's."""
        (doubtful,) = np.nonzero(given[0].max(axis=1) < TTA_SKIP_PROB)
        if not len(doubtful):
            return given
        turned = self._classifier(np.ascontiguousarray(pixels[doubtful][..., ::-1]))
        averaged = []
        for values, mean in zip(given, _averaged([values[doubtful] for values in given], turned), strict=True):
            averaged.append(values.copy())
            averaged[-1][doubtful] = mean
        return averaged


def _check(min_score: float | None, min_face: float | None) -> None:
    """Raises UserError when either is out of range."""
    if min_score is not None and not 0 <= min_score <= 1:
        raise UserError(f"min_score is {min_score}, must lie in 0..1")
    if min_face is not None and not min_face >= 1:
        raise UserError(f"min_face is {min_face}, must be 1 pixel or more")


def _averaged(
    given: Sequence[NDArray[np.float32]], mirrored: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Outputs averaged over crops and their mirror images, whose boxes lie the other way."""
    turned = [*mirrored[:2], *(values * np.array([-1, 1, 1, 1], np.float32) for values in mirrored[2:])]
    return [np.asarray((a + b) / 2, np.float32) for a, b in zip(given, turned, strict=True)]
