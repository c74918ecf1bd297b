"""Whom the benchmark times: our pipeline and each of its stages, the naive pipeline, any one-stage ONNX detector.

The naive pipeline is what one writes first: facenet_pytorch.MTCNN.detect, then a timm model in eager torch, crop by
crop; but it looks for faces as small as ours does (MTCNN's own default is 20 px). It is not trained here: time does not
depend on what weights say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.boxes import Boxes
from common.cli import requires_extra
from common.errors import UserError, first_line
from common.images import Pixels
from pipeline.bench.timing import Contender
from pipeline.inference.bundle import Bundle
from pipeline.inference.device import Device, check_running, providers
from pipeline.inference.predictor import Predictor
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.faces import Faces

PIPELINE, CASCADE, CLASSIFIER = "pipeline", "cascade", "classifier"
NAIVE, FACENET, ONE_STAGE = "naive pipeline", "facenet-pytorch", "one stage"
STAND_IN = "stand-in"  # --competitor, where no file is at hand
SIDE = 640  # px: what one-stage detectors are run at
GREY = 114  # what YOLO pads a letterbox with
# ImageNet's, which most timm models want.
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class Ours:
    """The pipeline, timed whole and in its two stages on the same photos."""

    def __init__(self, bundle: Bundle, min_face: float | None, threads: int, device: Device = "cpu") -> None:
        """min_face: smallest face looked for, pixels; the bundle's, which grows with large photos, when None."""
        self.predictor = Predictor(bundle, threads, device)
        self._detector = bundle.detector(threads, device)
        self._search = bundle.meta.search
        self._least = bundle.meta.fusion.min_detector_score_for(bundle.meta.score_threshold)
        self._min_face = min_face
        self._found: tuple[Sequence[Pixels], list[Faces]] = ((), [])

    def smallest(self, photo: Pixels) -> float:
        """The smallest face, in pixels, that is looked for in a photo."""
        if isinstance(self._search, CascadeConfig):
            return self._search.min_face_for((photo.shape[1], photo.shape[0]), self._min_face)
        return self._search.min_face if self._min_face is None else self._min_face

    def contenders(self, batch: int) -> list[Contender]:
        """The pipeline photo by photo and, if that is more than one, `batch` photos a call; its stages alone."""
        batched = [Contender(f"{PIPELINE}, by {batch}", self.detect, batch)] if batch > 1 else []
        stages = [Contender(CASCADE, self.find), Contender(CLASSIFIER, self.classify)]
        return [Contender(PIPELINE, self.detect), *batched, *stages]

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Photos -> faces reported in each."""
        return [len(found) for found in self.predictor.detect_batch(photos, min_face=self._min_face)]

    def find(self, photos: Sequence[Pixels]) -> list[int]:
        """Stage 1 alone -> faces that it passes on, as the pipeline asks it to."""
        faces = self._detector.detect_batch(photos, min_face=self._min_face, min_score=self._least)
        self._found = (photos, faces)
        return [len(found) for found in faces]

    def classify(self, photos: Sequence[Pixels]) -> list[int]:
        """Stage 2 alone on what stage 1 last found, in these photos -> crops judged in each."""
        seen, faces = self._found
        if len(seen) != len(photos) or any(a is not b for a, b in zip(seen, photos, strict=True)):
            raise ValueError("stage 2 is timed on the photos that stage 1 saw last")
        boxes: list[Boxes] = [found.boxes for found in faces]
        self.predictor.run_classifier(photos, boxes)
        return [len(found) for found in boxes]


class Naive:
    """facenet_pytorch's MTCNN, and behind it a timm model; both by PyTorch."""

    def __init__(self, model: str, smallest: Callable[[Pixels], float], device: Device = "cpu") -> None:
        """model: a timm name. smallest: the smallest face to look for in a photo, pixels. device: of both.

        Raises UserError when the training extra is missing or timm does not know the model.
        """
        with requires_extra("train"):
            import timm
            import torch
            from facenet_pytorch import MTCNN
        if not timm.is_model(model):
            raise UserError(f"--naive-model is {model!r}, which timm does not know; timm.list_models() names all")
        self._torch = torch
        self._device = torch.device(device)
        self._mtcnn = MTCNN(keep_all=True, device=self._device)
        self._model = timm.create_model(model, pretrained=False, num_classes=3).eval().to(self._device)
        self._side = int(timm.data.resolve_data_config(model=self._model)["input_size"][-1])
        self._smallest = smallest

    def find(self, photos: Sequence[Pixels]) -> list[int]:
        """Photos -> faces found in each."""
        return [len(self._boxes(photo)) for photo in photos]

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Photos -> faces found, each classified, in each."""
        return [len([self._classify(photo, box) for box in self._boxes(photo)]) for photo in photos]

    def _boxes(self, photo: Pixels) -> NDArray[np.float32]:
        self._mtcnn.min_face_size = self._smallest(photo)
        boxes = self._mtcnn.detect(photo)[0]
        return np.zeros((0, 4), np.float32) if boxes is None else np.asarray(boxes, np.float32)

    def _classify(self, photo: Pixels, box: NDArray[np.float32]) -> Any:
        height, width = photo.shape[:2]
        x1, y1 = max(int(box[0]), 0), max(int(box[1]), 0)
        x2, y2 = min(max(int(box[2]), x1 + 1), width), min(max(int(box[3]), y1 + 1), height)
        crop = photo[min(y1, height - 1) : y2, min(x1, width - 1) : x2]
        pixels = cv2.resize(crop, (self._side, self._side)).astype(np.float32) / 255
        torch = self._torch
        batch = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None].to(self._device)
        with torch.no_grad():
            return self._model(batch).softmax(dim=1).argmax().item()


class OneStage:
    """A one-stage ONNX detector at 640x640: letterbox and network. Reading its answers is not timed, in its favour."""

    def __init__(self, file: Path, threads: int, device: Device = "cpu") -> None:
        """file: an ONNX graph with one picture input of (1, 3, H, W), or the word "stand-in" (pipeline.bench.stand_in).

        Raises UserError when it is missing, cannot be loaded or is no such graph.
        """
        import onnxruntime

        if str(file) == STAND_IN:
            with requires_extra("train"):
                from pipeline.bench.stand_in import graph
            data, self.name = graph(), f"{ONE_STAGE} ({STAND_IN})"
        elif not file.is_file():
            raise UserError(f"{file}: not found; name an ONNX file, or say --competitor {STAND_IN}")
        else:
            data, self.name = file.read_bytes(), f"{ONE_STAGE} ({file.name})"
        # ONNX Runtime's own settings but for the threads: ours are for photos of all sizes.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        wanted_providers = providers(device)
        try:
            session = onnxruntime.InferenceSession(data, options, providers=wanted_providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            what = f"ONNX Runtime cannot load it ({first_line(error)})"
            raise UserError(f"{file}: {what}; copy it anew or name another graph") from error
        check_running(session, device)
        inputs = session.get_inputs()
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        self._kind = kinds.get(inputs[0].type)
        takes = inputs[0].shape  # a number, or a name or None where an axis is open
        wanted = (1, 3, SIDE, SIDE)
        fits = len(takes) == 4 and not any(isinstance(t, int) and t != w for t, w in zip(takes, wanted, strict=True))
        if len(inputs) != 1 or self._kind is None or not fits:
            described = ", ".join(f"{each.name} {each.shape} {each.type}" for each in inputs)
            raise UserError(f"{file}: takes {described}; give a graph with one input {wanted}")
        self._run = lambda pixels: session.run(None, {inputs[0].name: pixels})
        try:
            self._run(np.zeros(wanted, self._kind))
        except Exception as error:
            raise UserError(f"{file}: does not run on {wanted}: {first_line(error)}") from error

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Photos -> nothing is counted: what the answers mean differs from one detector to the next."""
        for photo in photos:
            self._run(letterbox(photo, self._kind))
        return [0] * len(photos)


def letterbox(photo: Pixels, kind: Any) -> NDArray[Any]:
    """A photo (H, W, 3) fitted into 640x640, grey around it, as (1, 3, 640, 640) of `kind`, scaled to 0..1 if float."""
    height, width = photo.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    canvas = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
    planes = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
    return planes if kind is np.uint8 else (planes / np.float32(255)).astype(kind)
