"""The detectors that the benchmark times: our pipeline and its stages, the naive pipeline, any one-stage ONNX detector.

The naive pipeline is what one writes first: facenet_pytorch.MTCNN.detect, then a timm model in eager PyTorch, crop by
crop. It looks for faces as small as ours does (MTCNN's default is 20 px). Its model is not trained, since weights do
not change the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.boxes import Boxes
from common.cli import requires_extra
from common.errors import UserError, first_line
from common.images import Pixels
from pipeline.bench.timing import TimedDetector
from pipeline.inference.bundle import Bundle
from pipeline.inference.device import Device, check_running, providers
from pipeline.inference.predictor import Predictor
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.faces import Faces

PIPELINE, CASCADE, CLASSIFIER = "pipeline", "cascade", "classifier"
NAIVE, FACENET, ONE_STAGE = "naive pipeline", "facenet-pytorch", "one stage"
STAND_IN = "stand-in"  # the value of --competitor that needs no file
INPUT_SIDE = 640  # px, of one-stage detectors
PAD_GREY = 114  # YOLO's letterbox colour
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
# ImageNet's, which most timm models use.
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


class OwnPipeline:
    """Our pipeline, to time as a whole and by stage on the same photos."""

    def __init__(self, bundle: Bundle, min_face: float | None, threads: int, device: Device = "cpu") -> None:
        """Make the nets. min_face: smallest face to find, pixels; None for the bundle's, which grows with the photo."""
        self.predictor = Predictor(bundle, threads, device)
        self._detector = bundle.detector(threads, device)
        self._search = bundle.meta.search
        self._min_score = bundle.meta.fusion.min_detector_score_for(bundle.meta.score_threshold)
        self._min_face = min_face
        self._stage1: tuple[Sequence[Pixels], list[Faces]] = ((), [])

    def min_face_for(self, photo: Pixels) -> float:
        """Return the smallest face to find in a photo, in pixels."""
        if isinstance(self._search, CascadeConfig):
            return self._search.min_face_for((photo.shape[1], photo.shape[0]), self._min_face)
        return self._search.min_face if self._min_face is None else self._min_face

    def timed_detectors(self, batch: int) -> list[TimedDetector]:
        """Return the pipeline photo by photo, with `batch` photos per call if more than one, and its stages alone."""
        batched = [TimedDetector(f"{PIPELINE}, by {batch}", self.detect, batch)] if batch > 1 else []
        stages = [TimedDetector(CASCADE, self.run_cascade), TimedDetector(CLASSIFIER, self.run_classifier)]
        return [TimedDetector(PIPELINE, self.detect), *batched, *stages]

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Return the number of faces reported in each photo."""
        return [len(found) for found in self.predictor.detect_batch(photos, min_face=self._min_face)]

    def run_cascade(self, photos: Sequence[Pixels]) -> list[int]:
        """Run stage 1 as the pipeline does; return the number of faces that it passes on in each photo."""
        faces = self._detector.detect_batch(photos, min_face=self._min_face, min_score=self._min_score)
        self._stage1 = (photos, faces)
        return [len(found) for found in faces]

    def run_classifier(self, photos: Sequence[Pixels]) -> list[int]:
        """Run stage 2 on the faces that stage 1 last found, in these photos; return the number of crops in each."""
        last_photos, faces = self._stage1
        if len(last_photos) != len(photos) or any(a is not b for a, b in zip(last_photos, photos, strict=True)):
            raise ValueError("stage 2 is timed on the photos that stage 1 saw last")
        boxes: list[Boxes] = [found.boxes for found in faces]
        self.predictor.run_classifier(photos, boxes)
        return [len(found) for found in boxes]


class NaivePipeline:
    """facenet_pytorch's MTCNN, then a timm model; both in PyTorch."""

    def __init__(self, model: str, min_face_for: Callable[[Pixels], float], device: Device = "cpu") -> None:
        """Make the nets. model: a timm name. min_face_for: returns the smallest face to find in a photo, in pixels.

        Raises UserError when the training extra is missing, or timm does not know the model.
        """
        with requires_extra("train"):
            import timm
            import torch
            from facenet_pytorch import MTCNN
        if not timm.is_model(model):
            raise UserError(f"--naive-model is {model!r}, which timm does not know; use one of timm.list_models()")
        self._torch = torch
        self._device = torch.device(device)
        self._mtcnn = MTCNN(keep_all=True, device=self._device)
        self._model = timm.create_model(model, pretrained=False, num_classes=3).eval().to(self._device)
        self._side = int(timm.data.resolve_data_config(model=self._model)["input_size"][-1])
        self._min_face_for = min_face_for

    def run_mtcnn(self, photos: Sequence[Pixels]) -> list[int]:
        """Return the number of faces found in each photo."""
        return [len(self._boxes(photo)) for photo in photos]

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Return the number of faces found and classified in each photo."""
        return [len([self._classify(photo, box) for box in self._boxes(photo)]) for photo in photos]

    def _boxes(self, photo: Pixels) -> NDArray[np.float32]:
        self._mtcnn.min_face_size = self._min_face_for(photo)
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


class OneStageDetector:
    """A one-stage ONNX detector at 640x640: letterbox and net. Its outputs are not decoded, which favours it."""

    def __init__(self, file: Path, threads: int, device: Device = "cpu") -> None:
        """Load the graph and run it once. file: an ONNX graph with one input (1, 3, H, W), or the word "stand-in".

        Raises UserError when the file is missing, cannot be loaded or is not such a graph.
        """
        data, name = _graph(file)
        self.name = f"{ONE_STAGE} ({name})"
        session = _session(file, data, threads, device)
        inputs = session.get_inputs()
        self._dtype = INPUT_TYPES.get(inputs[0].type)
        axes = inputs[0].shape  # a number, or a name or None where an axis is open
        wanted = (1, 3, INPUT_SIDE, INPUT_SIDE)
        fits = len(axes) == 4 and not any(isinstance(a, int) and a != w for a, w in zip(axes, wanted, strict=True))
        if len(inputs) != 1 or self._dtype is None or not fits:
            described = ", ".join(f"{each.name} {each.shape} {each.type}" for each in inputs)
            raise UserError(f"{file}: takes {described}; use a graph with one input {wanted}")
        self._run = lambda pixels: session.run(None, {inputs[0].name: pixels})
        try:
            self._run(np.zeros(wanted, self._dtype))
        except Exception as error:
            raise UserError(f"{file}: does not run on {wanted}: {first_line(error)}; use another graph") from error

    def detect(self, photos: Sequence[Pixels]) -> list[int]:
        """Run the net on each photo; return zeros, since the outputs' meaning differs between detectors."""
        for photo in photos:
            self._run(letterbox(photo, self._dtype))
        return [0] * len(photos)


def _graph(file: Path) -> tuple[bytes, str]:
    """Return an ONNX graph and its name. Raises UserError when the file is missing."""
    if str(file) == STAND_IN:
        with requires_extra("train"):
            from pipeline.bench.yolo11n_sized import yolo11n_sized_graph
        return yolo11n_sized_graph(), STAND_IN
    if not file.is_file():
        raise UserError(f"{file}: not found; name an ONNX file, or use --competitor {STAND_IN}")
    return file.read_bytes(), file.name


def _session(file: Path, data: bytes, threads: int, device: Device) -> onnxruntime.InferenceSession:
    """Return a session with ONNX Runtime's default settings but for the threads: ours suit photos of all sizes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    wanted = providers(device)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        what = f"ONNX Runtime cannot load it ({first_line(error)})"
        raise UserError(f"{file}: {what}; copy it again or use another graph") from error
    check_running(session, device)
    return session


def letterbox(photo: Pixels, dtype: Any) -> NDArray[Any]:
    """Return a photo (H, W, 3) in 640x640 with a grey border, as (1, 3, 640, 640); 0..1 if `dtype` is float."""
    height, width = photo.shape[:2]
    scale = INPUT_SIDE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    canvas = np.full((INPUT_SIDE, INPUT_SIDE, 3), PAD_GREY, np.uint8)
    left, top = (INPUT_SIDE - size[0]) // 2, (INPUT_SIDE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
    planes = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
    return planes if dtype is np.uint8 else (planes / np.float32(255)).astype(dtype)
