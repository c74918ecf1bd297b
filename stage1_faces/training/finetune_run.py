"""FinetuneRun: trains P-Net, R-Net and O-Net in order, each on what the nets before it propose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3

from common.boxes import Boxes, iou, max_iou
from common.cli import console, progress
from common.errors import UserError
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.faces import Net
from stage1_faces.stock.reference import TEACHER_CONFIG, stock_detector, stock_landmarks
from stage1_faces.training.batches import Batches, PatchBatches, WindowBatches
from stage1_faces.training.compute import FLOAT32_CPU, ComputeMode
from stage1_faces.training.draws import with_face_factors
from stage1_faces.training.export import FINE_TUNED, export_net, onnx_function
from stage1_faces.training.finetune_config import FinetuneConfig
from stage1_faces.training.mining import MinedWindows, mine, npz_bytes, propose, read_npz
from stage1_faces.training.nets import PNET_WIDTH, ExportWrapper, build_net
from stage1_faces.training.run_folder import NETS, FinetuneFolder, load_net
from stage1_faces.training.samples import TrainingPhoto
from stage1_faces.training.teacher import TeacherFaces, find_all, find_faces, with_teacher_faces
from stage1_faces.training.trainer import EMA_DECAY, EMA_POWER, train_epoch

RECALL_COUNTS = (5, 10, 20, 50, 100, 200)  # boxes per photo at which recall is reported
MATCH_IOU = 0.5
# IoU of a mined box with a face: below the first it is background, from the second it shows that face.
MINED_IOU = {"rnet": (0.3, 0.45), "onet": (0.25, 0.4)}


class FinetuneRun:
    """One fine-tuning in progress: its photos, and the finished nets as functions on torch's number of CPU threads.

    Args:
        folder: where nets, states and log go.
        recipe: steps, batches and rates.
        train: photos to learn from.
        val: photos on which each net's recall is reported.
        compute: device and precision of the training.
        workers: processes that make batches; 0: a thread.
    """

    def __init__(
        self,
        folder: FinetuneFolder,
        recipe: FinetuneConfig,
        train: list[TrainingPhoto],
        val: list[TrainingPhoto],
        compute: ComputeMode = FLOAT32_CPU,
        workers: int = 0,
    ) -> None:
        self.folder, self.recipe, self.threads = folder, recipe, torch.get_num_threads()
        self.photos, self.val, self.compute, self.workers = train, val, compute, workers
        self.nets: dict[str, Net] = {}

    def train_all(self) -> None:
        """Train the nets that are not finished yet, in order, and report each."""
        self._ask_teacher()
        for name in NETS:
            if not (self.folder.path / f"{name}.safetensors").is_file():
                self._train(name)
            net = ExportWrapper(load_net(self.folder.path, name)).eval()
            self.nets[name] = onnx_function(export_net(name, net, FINE_TUNED[name]), self.threads)
            if not any(row["net"] == name and "recall" in row for row in self.folder.rows()):
                self._report(name)
        self.folder.tidy()

    def _train(self, name: str) -> None:
        """Train one net from its start or from its saved state, and save its weights."""
        schedule = self.recipe.schedule(name)
        batches = self._batches(name)
        torch.manual_seed(self.recipe.seed)
        width = self.recipe.pnet_width
        net = build_net(name, width).to(memory_format=torch.channels_last).to(self.compute.device)
        ema = ModelEmaV3(net, decay=EMA_DECAY, use_warmup=True, warmup_power=EMA_POWER)
        groups: list[dict[str, Any]] = [{"params": list(net.parameters())}]
        parts: dict[str, Any] = {"model": net, "average": ema.module}
        if batches.offsets is not None:
            parts["offsets"] = batches.offsets.to(self.compute.device)
            groups.append({"params": list(batches.offsets.parameters()), "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, schedule.rate, weight_decay=self.recipe.weight_decay)
        rows = [row for row in self.folder.rows() if row["net"] != name]
        parts["optimizer"] = optimizer
        epoch, history = self._resume(name, parts, batches)
        with progress() as bar:
            task = bar.add_task(f"training {name}", total=schedule.steps, completed=epoch * schedule.per_epoch)
            while epoch < schedule.epochs:
                start = time.perf_counter()
                losses = train_epoch(
                    net,
                    ema,
                    optimizer,
                    batches,
                    schedule,
                    epoch,
                    seed=self.recipe.seed,
                    on_step=lambda: bar.advance(task),
                    compute=self.compute,
                    workers=self.workers,
                )
                epoch += 1
                seconds = round(time.perf_counter() - start, 1)
                rounded = {term: round(value, 5) for term, value in losses.items()}
                history.append({"net": name, "epoch": epoch, "epochs": schedule.epochs, **rounded, "seconds": seconds})
                self.folder.write_rows([*rows, *history])
                shown = "  ".join(f"{term} {value:.4f}" for term, value in losses.items())
                bar.console.print(f"{name} epoch {epoch}/{schedule.epochs}  {shown}", highlight=False, soft_wrap=True)
                state = {key: part.state_dict() for key, part in parts.items()}
                state |= {"batches": batches.state, "epoch": epoch, "history": history}
                self.folder.save_state(name, state)
        facts = {"steps": schedule.steps, "torch": torch.__version__.split("+")[0]}
        if name == "pnet" and width != PNET_WIDTH:
            facts["width"] = width
        if self.compute != FLOAT32_CPU:
            facts |= self.compute.facts()
        self.folder.save_net(name, ema.module, facts)

    def _resume(self, name: str, parts: Mapping[str, Any], batches: Batches) -> tuple[int, list[dict[str, Any]]]:
        """Load the saved state of a net, if there is one, and return its finished epochs and their log lines."""
        state = self.folder.load_state(name)
        if state is None:
            return 0, []
        try:
            for key, part in parts.items():
                part.load_state_dict(state[key])
            batches.state = state["batches"]
            return state["epoch"], state["history"]
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            file = self.folder.path / f"{name}.state"
            raise UserError(f"{file}: belongs to another net or run; remove it to train this net again") from error

    def _batches(self, name: str) -> Batches:
        """Return the batches of one net; mine windows and find landmarks where they are needed and not yet known."""
        recipe, seed, photos = self.recipe, self.recipe.seed, self.photos
        if name == "pnet":
            return PatchBatches(photos, recipe.pnet_batch, seed)
        mined = self._cached(f"{name}.windows.npz", MinedWindows.from_bytes, lambda: self._mine(name).to_bytes())
        if name == "onet" and recipe.teacher == "stock":
            photos = self._with_stock_landmarks()
        batch = recipe.rnet_batch if name == "rnet" else recipe.onet_batch
        return WindowBatches(photos, mined, name, batch, seed, MINED_IOU[name])

    def _ask_teacher(self) -> None:
        """Add what the recipe's teacher knows to the training photos, and how often each face is drawn."""
        recipe = self.recipe
        factors = {"profile": recipe.profile_factor, "hidden": recipe.hidden_factor}
        if recipe.teacher == "retinaface":
            found = self._cached("teacher.npz", TeacherFaces.from_bytes, lambda: self._teacher_faces().to_bytes())
            self.photos = with_teacher_faces(self.photos, found)
        elif recipe.profile_factor != 1:
            self.photos = self._with_stock_landmarks()
        if any(factor != 1 for factor in factors.values()):
            self.photos = with_face_factors(self.photos, factors)

    def _teacher_faces(self) -> TeacherFaces:
        """Return the faces that the teacher finds on the training photos."""
        with progress() as bar:
            task = bar.add_task("faces by the teacher", total=len(self.photos))
            return find_all(self.photos, find_faces, lambda: bar.advance(task))

    def _with_stock_landmarks(self) -> list[TrainingPhoto]:
        """Return the training photos with the stock cascade's landmarks."""
        points = self._cached("landmarks.npz", _landmarks_from_bytes, self._landmarks)
        return [replace(photo, landmarks=marks) for photo, marks in zip(self.photos, points, strict=True)]

    def _cached(self, name: str, read: Callable[[bytes], Any], make: Callable[[], bytes]) -> Any:
        """Return the content of a file of the run; make the file first where it is missing."""
        file = self.folder.path / name
        if not file.is_file():
            self.folder.write(name, make())
        try:
            return read(file.read_bytes())
        except (ValueError, KeyError) as error:
            raise UserError(f"{file}: damaged ({error}); remove it to make it again") from error

    def _detector(self) -> FaceDetector:
        """Return the cascade with the nets that are trained so far."""

        def missing(pixels: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
            raise AssertionError("this net is not trained yet")

        pnet, rnet, onet = (self.nets.get(name, missing) for name in NETS)
        return FaceDetector(pnet, rnet, onet)

    def _mine(self, name: str) -> MinedWindows:
        """Return the windows that the net before `name` proposes on the training photos."""
        after = NETS[NETS.index(name) - 1]
        with progress() as bar:
            task = bar.add_task(f"mining for {name}", total=len(self.photos))
            return mine(
                self._detector(),
                self.photos,
                after,
                passes=self.recipe.passes,
                seed=self.recipe.seed + 1,
                on_photo=lambda: bar.advance(task),
                further_passes=self.recipe.further_passes,
                workers=max(self.workers, 1),
            )

    def _landmarks(self) -> bytes:
        """Return the stock cascade's landmarks on the training photos, as bytes of a .npz file."""
        stock = stock_detector(self.threads, TEACHER_CONFIG)
        with progress() as bar:
            photos = bar.track(self.photos, description="landmarks by the stock cascade")
            points = [stock_landmarks(stock, photo.maps.image, photo.boxes) for photo in photos]
        return npz_bytes(points=np.concatenate(points), ends=np.cumsum([len(p) for p in points])[:-1])

    def _report(self, name: str) -> None:
        """Log and print how many of the validation faces the net's best boxes find."""
        if not any(len(photo.boxes) for photo in self.val):
            return
        detector = self._detector()
        found = [_best_boxes(detector, photo, name) for photo in self.val]
        recall = recall_at_counts(found, [photo.boxes for photo in self.val])
        row = {
            "net": name,
            "val_photos": len(self.val),
            "boxes_a_photo": round(float(np.mean([len(boxes) for boxes in found])), 2),
            "recall": {str(count): round(value, 4) for count, value in recall.items()},
        }
        self.folder.write_rows([*self.folder.rows(), row])
        shown = ", ".join(f"{value:.3f} at {count}" for count, value in recall.items())
        console().print(f"{name}: validation recall by boxes per photo: {shown}", highlight=False)


def _best_boxes(detector: FaceDetector, photo: TrainingPhoto, name: str) -> Boxes:
    """Return the boxes after the net `name`, best first; of a photo that is not complete only those on its faces."""
    if name == "onet":
        proposals = propose(detector, photo.maps, "rnet", detector.config)
        boxes = detector.run_onet([photo.maps], [proposals], CascadeConfig(score_threshold=0.01))[0].boxes
    else:
        boxes = propose(detector, photo.maps, name, detector.config).boxes
    return boxes if photo.complete else boxes[max_iou(boxes, photo.boxes) >= MINED_IOU["rnet"][0]]


def recall_at_counts(
    pred_boxes: Sequence[Boxes], gt_boxes: Sequence[Boxes], counts: Iterable[int] = RECALL_COUNTS
) -> dict[int, float]:
    """Return the recall at IoU 0.5 by the number of best predicted boxes that count in each photo.

    Both lists hold one array of boxes per photo; predicted boxes are best first.
    """
    faces = sum(len(boxes) for boxes in gt_boxes)
    recall = {}
    for count in counts:
        hits = sum(
            int((iou(gt, pred[:count]).max(axis=1) >= MATCH_IOU).sum())
            for pred, gt in zip(pred_boxes, gt_boxes, strict=True)
            if len(pred) and len(gt)
        )
        recall[count] = hits / max(faces, 1)
    return recall


def _landmarks_from_bytes(data: bytes) -> list[NDArray[np.float32]]:
    """Return each photo's landmarks from the bytes of landmarks.npz."""
    arrays = read_npz(data)
    return np.split(arrays["points"], arrays["ends"])
