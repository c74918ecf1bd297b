"""Predictor: the only inference path, from an upright RGB image to Detections; no PyTorch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.boxes import Boxes, area, as_boxes, iou
from common.errors import BundleError, MediaError, UserError
from common.images import MAX_PIXELS, Photo, Pixels, Shrink, decode_photo, read_photo
from common.parallel import start_in_thread
from pipeline.inference.bundle import Bundle
from pipeline.inference.detections import Detections
from pipeline.inference.device import Device
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.image_input import ImageInput, check_order, image_list, image_path, image_pixels
from stage1_faces.cascade_config import CascadeConfig, smallest_min_face
from stage1_faces.detector import O_CONTEXT, O_SIZE
from stage1_faces.faces import Detector, Faces
from stage2_classifier.cropping import cut_crop, to_input

CLASSIFIER_BATCH = 16  # crops; 64 is as quick and takes some MB more
# A crop whose class has this probability is not classified mirrored as well. These are more than half of all crops,
# and no figure on validation photos got worse (EXPERIMENTS.md).
TTA_SKIP_PROB = 0.97
# A face is classified again at its moved box where the box has moved to a smaller IoU, or the class has a smaller
# probability. The others keep their outputs: on validation photos no figure differs by 0.002 (EXPERIMENTS.md).
SETTLED_IOU, SETTLED_PROB = 0.8, 0.9


class ClassifierOutput(NamedTuple):
    """The outputs of the classifier's graph for N crops, before calibration."""

    class_probs: NDArray[np.float32]  # (N, C): the probability of each class
    face_logits: NDArray[np.float32] | None  # (N,): log odds of being a face; None when the graph has no such output
    # (N, 4): shift in x, y and log width, height, relative to the crop's side without margin; or None.
    box_deltas: NDArray[np.float32] | None


class Predictor:
    """Finds the faces of an image and their classes: the two stages of a bundle, joined.

    Several threads may call a predictor at once.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 1, device: Device = "cpu", detector: Detector | None = None
    ) -> None:
        """Make a predictor from a bundle in memory.

        Args:
            bundle: the graphs and their settings.
            threads: threads of each net; 1 is quickest for single photos, whose windows are small.
            device: what the nets run on: "cpu" or "cuda".
            detector: finds the faces instead of the bundle's cascade, for comparison.

        Raises:
            UserError: a net cannot run.
        """
        self.bundle = bundle
        # The classifier takes longest to load; the other nets load meanwhile.
        classifier = start_in_thread(lambda: bundle.graph("classifier", threads, device))
        self._detector = detector or bundle.detector(threads, device)
        self._search = None if detector else bundle.meta.search  # another detector has settings that are unknown here
        self._classifier = classifier()

    @classmethod
    def load(cls, path: Path | str | None = None, threads: int = 1, device: Device = "cpu") -> Predictor:
        """Load a predictor from a bundle directory or a bundle of the project ("kaggle"); the default when None.

        Raises:
            UserError: the bundle cannot be used, or a net cannot run on the device.
        """
        return cls(Bundle.load(path), threads, device)

    @classmethod
    def default(cls) -> Predictor:
        """Load a predictor from the bundle that comes with the project, on one CPU thread."""
        return cls.load()

    def detect(
        self,
        image: ImageInput,
        min_score: float | None = None,
        min_face: float | None = None,
        *,
        bgr: bool = False,
    ) -> Detections:
        """Find the faces of one image and their classes.

        Args:
            image: the path of a picture file; or the bytes of one; or a PIL image of any mode, which is turned by its
                EXIF orientation; or an upright array, uint8 (H, W, 3) in RGB order or grey (H, W); or a photo from
                `read`.
            min_score: smallest `score` reported, 0 to 1; the bundle's when None. 0 keeps every candidate that passes
                the cascade and the bundle's min_detector_score.
            min_face: smallest face to look for, in pixels of the image; the bundle's when None.
            bgr: whether the array's channels are blue, green, red, as those of OpenCV are; for arrays only.

        Returns:
            The faces, best score first. Boxes and landmarks are in pixels of the upright image, or of the upright file
            when the file was read smaller.

        Raises:
            MediaError: the file, the bytes or the PIL image cannot be decoded.
            ImageTypeError: `image` is something else, or `bgr` is given without an array. It is a UserError and a
                TypeError.
            UserError: min_score or min_face is out of range, or min_face so small that the photo would be enlarged
                to more than MAX_PIXELS.
        """
        _check_range(min_score, min_face)
        photo = self._photo(image, min_face, bgr)
        sx, sy = photo.scale
        if (sx, sy) != (1, 1):  # only photos for the fine-tuned cascade are read smaller
            assert isinstance(self._search, CascadeConfig)
            min_face = max(self._search.min_face_for(photo.size, min_face) / max(sx, sy), 1.0)
        return self._detect_pixels([photo.pixels], min_score, min_face)[0].rescale(sx, sy)

    def _photo(self, image: ImageInput, min_face: float | None, bgr: bool) -> Photo:
        """Return any accepted image as a photo; a file, or the bytes of one, may be read smaller."""
        check_order(image, bgr)
        if isinstance(image, Photo):
            return image
        if isinstance(image, (str, os.PathLike)):
            return self.read(image_path(image), min_face)
        if isinstance(image, (bytes, bytearray, memoryview)):
            if not len(image):
                raise MediaError("bytes", "is empty (0 bytes); give those of a picture file")
            return self.read_from(BytesIO(image), "bytes", min_face)
        pixels = image_pixels(image, bgr)
        return Photo(pixels, (pixels.shape[1], pixels.shape[0]))

    def read(self, path: Path | str, min_face: float | None = None) -> Photo:
        """Read a photo with as many pixels as its detection uses: a huge JPEG at a half, quarter or eighth.

        The photo is read smaller only while its smallest face still fills the windows of the nets.

        Args:
            path: an image file.
            min_face: as in `detect`.

        Raises:
            MediaError: the file cannot be read, or `min_face` would enlarge the photo to more than MAX_PIXELS.
        """
        photo = read_photo(path, self._shrink(min_face))
        if min_face is not None and (reason := _enlarged(photo.size, min_face, MAX_PIXELS)):
            raise MediaError(path, reason)
        return photo

    def read_from(
        self, file: BinaryIO, name: str, min_face: float | None = None, max_pixels: int = MAX_PIXELS
    ) -> Photo:
        """Read a photo as `read` does, from an open file or an upload.

        Args:
            file: the open file.
            name: what error messages call the file.
            min_face: as in `detect`.
            max_pixels: a photo with more pixels is refused, and a `min_face` that would enlarge it to more pixels.
        """
        photo = decode_photo(file, name, self._shrink(min_face), max_pixels)
        if min_face is not None and (reason := _enlarged(photo.size, min_face, max_pixels)):
            raise MediaError(name, reason)
        return photo

    def _shrink(self, min_face: float | None) -> Shrink | None:
        """Return how many times smaller a photo may be read, by its size; None except for the fine-tuned cascade."""
        _check_range(None, min_face)
        search, meta = self._search, self.bundle.meta
        if not isinstance(search, CascadeConfig):
            return None
        # px of the longer side that a face needs to fill a window; it is at least the mean side
        least = max(O_SIZE / O_CONTEXT, meta.input_size / (1 + 2 * meta.margin))
        return lambda size: search.min_face_for(size, min_face) / least

    def detect_batch(
        self,
        images: Iterable[ImageInput],
        min_score: float | None = None,
        min_face: float | None = None,
        *,
        bgr: bool = False,
    ) -> list[Detections]:
        """Find the faces of several images and their classes.

        Args:
            images: what `detect` takes, of any sizes; or an array, uint8 (N, H, W, 3).
            min_score: as in `detect`.
            min_face: as in `detect`.
            bgr: as in `detect`; for all images.

        Returns:
            The detections of each image, in the images' order.

        Raises:
            MediaError: as in `detect`.
            ImageTypeError: `images` is one image, or one of them is nothing that `detect` takes.
            UserError: as in `detect`.
        """
        _check_range(min_score, min_face)
        listed = image_list(images)
        if all(isinstance(image, np.ndarray) for image in listed):
            return self._detect_pixels([image_pixels(image, bgr) for image in listed], min_score, min_face)
        return [self.detect(image, min_score, min_face, bgr=bgr) for image in listed]  # one decoded at a time

    def _detect_pixels(
        self, images: Sequence[Pixels], min_score: float | None, min_face: float | None
    ) -> list[Detections]:
        """Find the faces of images, uint8 (H, W, 3) RGB each."""
        if not images:
            return []
        for height, width, _ in (image.shape for image in images):
            if min_face is not None and (reason := _enlarged((width, height), min_face, MAX_PIXELS)):
                raise UserError(f"the image {reason}")
        meta, fusion = self.bundle.meta, self.bundle.meta.fusion
        threshold = meta.score_threshold if min_score is None else min_score
        # A score is at most its face score: stage 1 may drop faces whose face score cannot reach the threshold.
        detector_score = fusion.min_detector_score_for(threshold)
        found = self._detector.detect_batch(images, min_face=min_face, min_score=detector_score)
        outputs = self.run_classifier(images, [faces.boxes for faces in found])
        results = []
        for image, faces, first in zip(images, found, outputs, strict=True):
            boxes, output = self._move_boxes(image, faces, first, threshold)
            face_scores = fusion.face_scores(faces.scores, output.face_logits)
            probs = fusion.class_probs(output.class_probs)
            detections = Detections(boxes, face_scores, probs, faces.landmarks, meta.class_names, fusion.unsure_margin)
            scores = detections.scores
            order = np.argsort(-scores, kind="stable")
            results.append(detections[order[scores[order] >= threshold]])
        return results

    def classify(self, image: Pixels | Image.Image, boxes: Boxes, *, bgr: bool = False) -> NDArray[np.float32]:
        """Return the class probabilities (N, C) of face boxes in an image.

        Args:
            image: an array or a PIL image, as in `detect`.
            boxes: the boxes (N, 4), xyxy in pixels of the upright image.
            bgr: as in `detect`.
        """
        output = self.run_classifier([image_pixels(image, bgr)], [as_boxes(boxes)])[0]
        return self.bundle.meta.fusion.class_probs(output.class_probs)

    def run_classifier(self, images: Sequence[Pixels], boxes: Sequence[Boxes]) -> list[ClassifierOutput]:
        """Return the classifier's outputs before calibration.

        Args:
            images: uint8 (H, W, 3) RGB each. The crops of all images go through the graph together.
            boxes: the face boxes (N, 4) of each image, xyxy in pixels.

        Returns:
            The outputs of each image.
        """
        meta = self.bundle.meta
        crops = [
            cut_crop(image, box, meta.margin, meta.input_size)
            for image, image_boxes in zip(images, boxes, strict=True)
            for box in image_boxes
        ]
        output = self._classify_crops(crops)
        ends = np.cumsum([len(image_boxes) for image_boxes in boxes])[:-1]
        parts = [[None] * len(images) if values is None else np.split(values, ends) for values in output]
        return [ClassifierOutput(*each) for each in zip(*parts, strict=True)]

    def _move_boxes(
        self, image: Pixels, faces: Faces, output: ClassifierOutput, threshold: float
    ) -> tuple[Boxes, ClassifierOutput]:
        """Return the faces' moved boxes, and the outputs after the last pass."""
        fusion, size = self.bundle.meta.fusion, (image.shape[1], image.shape[0])
        boxes = fusion.refine_boxes(faces.boxes, output.box_deltas, self.bundle.meta.margin, size)
        if fusion.box_passes == 1:
            return boxes, output
        # No later class lifts a score above its face score: only faces that reach the threshold are seen again.
        again = fusion.face_scores(faces.scores, output.face_logits) >= threshold
        return self.second_box_pass(image, faces.boxes, boxes, output, again, fusion)

    def second_box_pass(
        self,
        image: Pixels,
        before: Boxes,
        boxes: Boxes,
        output: ClassifierOutput,
        wanted: NDArray[np.bool_],
        fusion: ScoreFusion,
    ) -> tuple[Boxes, ClassifierOutput]:
        """Return boxes and outputs in which the faces that are not settled are classified again, at their moved boxes.

        Iterative box regression (Gidaris & Komodakis 2015). The other faces keep their boxes and outputs.

        Args:
            image: uint8 (H, W, 3) RGB.
            before: the boxes (N, 4) of the first pass, xyxy in pixels of the image.
            boxes: the same after they have moved.
            output: the classifier's outputs of the first pass.
            wanted: the faces (N,) that may get a second pass.
            fusion: says how far boxes move.
        """
        if output.box_deltas is None or not fusion.box_blend:
            return boxes, output
        settled = (iou(before, boxes).diagonal() >= SETTLED_IOU) & (output.class_probs.max(axis=1) >= SETTLED_PROB)
        again = wanted & ~settled & (area(boxes) > 0)
        if not again.any():
            return boxes, output
        (second,) = self.run_classifier([image], [boxes[again]])
        size = (image.shape[1], image.shape[0])
        boxes = boxes.copy()
        boxes[again] = fusion.refine_boxes(boxes[again], second.box_deltas, self.bundle.meta.margin, size)
        return boxes, ClassifierOutput(
            _with_rows(output.class_probs, again, second.class_probs),
            output.face_logits
            if second.face_logits is None
            else _with_rows(output.face_logits, again, second.face_logits),
            _with_rows(output.box_deltas, again, second.box_deltas),
        )

    def _classify_crops(self, crops: Sequence[Pixels]) -> ClassifierOutput:
        """Return the classifier's outputs for all crops, batch by batch."""
        meta = self.bundle.meta
        outputs: list[NDArray[np.float32]] = [np.zeros((len(crops), len(meta.class_names)), np.float32)]
        for start in range(0, len(crops), CLASSIFIER_BATCH):
            pixels = to_input(np.stack(crops[start : start + CLASSIFIER_BATCH]), meta.mean, meta.std)
            batch = self._classifier(pixels)
            if meta.fusion.flip_tta:
                batch = self._with_flip_tta(pixels, batch)
            for k, values in enumerate(batch):
                if k == len(outputs):
                    outputs.append(np.zeros((len(crops), *values.shape[1:]), np.float32))
                outputs[k][start : start + len(values)] = values
        class_probs, face_logits, box_deltas = [*outputs, None, None][:3]
        if len(crops) and meta.fusion.classifier_weight and face_logits is None:
            what = "its classifier_weight needs face logits, which its classifier lacks"
            raise BundleError(f"{self.bundle.path}: {what}; pack the bundle again")
        return ClassifierOutput(np.asarray(class_probs), face_logits, box_deltas)

    def _with_flip_tta(
        self, pixels: NDArray[np.float32], outputs: list[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Return outputs in which those of uncertain crops are averaged with the mirrored crops'."""
        (uncertain,) = np.nonzero(outputs[0].max(axis=1) < TTA_SKIP_PROB)
        if not len(uncertain):
            return outputs
        mirrored = self._classifier(np.ascontiguousarray(pixels[uncertain][..., ::-1]))
        # In a mirror image, the horizontal box delta has the other sign.
        unmirrored = [*mirrored[:2], *(deltas * np.array([-1, 1, 1, 1], np.float32) for deltas in mirrored[2:])]
        results = [values.copy() for values in outputs]
        for values, other in zip(results, unmirrored, strict=True):
            values[uncertain] = (values[uncertain] + other) / 2
        return results


def _with_rows(
    values: NDArray[np.float32] | None, rows: NDArray[np.bool_], new: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Return a copy of values in which some rows are new ones."""
    assert values is not None and new is not None
    values = values.copy()
    values[rows] = new
    return values


def _check_range(min_score: float | None, min_face: float | None) -> None:
    if min_score is not None and not 0 <= min_score <= 1:
        raise UserError(f"min_score is {min_score}; give a number from 0 to 1")
    if min_face is not None and not 1 <= min_face < math.inf:
        raise UserError(f"min_face is {min_face}; give 1 pixel or more")


def _enlarged(size: tuple[int, int], min_face: float, max_pixels: int) -> str | None:
    """Return why a photo cannot be searched for faces so small, or None where it can."""
    if min_face >= (least := smallest_min_face(size, max_pixels)):
        return None
    what = f"would be enlarged to more than {max_pixels / 1e6:.3g} million pixels for faces of {min_face:g} px"
    return f"{what}; use a smallest face of {math.ceil(10 * least) / 10:g} px or more"
