"""CLI: fine-tunes the cascade on annotated faces: P-Net, then R-Net on its proposals, then O-Net on what R-Net leaves.

    python -m stage1_faces.finetune --data DIR --splits splits.csv --out RUN

Reads the training photos to learn and the validation photos to report; never the test split. Writes RUN/: config.json,
log.jsonl (one line an epoch, and each net's recall against boxes a photo), landmarks.npz (the stock cascade's), and
pnet.safetensors, rnet.safetensors and onet.safetensors, ready for `python -m pipeline.pack --cascade RUN`.
Started again after a kill, it goes on. All training photos are kept in memory: about 1 MB for each 600x400 pixels.
"""

from __future__ import annotations

import ctypes
import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.utils import ModelEmaV3

from common.annotations import AnnotatedImage, read_dataset
from common.boxes import iou
from common.cli import program_name, run_cli
from common.errors import MediaError, UserError
from common.images import read_image
from common.splits import read_splits
from stage1_faces.detector import CascadeConfig, FaceDetector
from stage1_faces.faces import Net
from stage1_faces.roi_crop import Mipmaps
from stage1_faces.stock.landmarks import SEARCH as TEACHER_SEARCH
from stage1_faces.stock.landmarks import stock_landmarks
from stage1_faces.stock.mtcnn import MtcnnDetector
from stage1_faces.training.export import FINE_TUNED, STOCK, export_cascade, export_net, runtime, stock_nets
from stage1_faces.training.mining import MinedWindows, arrays_in, mine
from stage1_faces.training.nets import ExportWrapper, build_net
from stage1_faces.training.run_folder import NETS, RunFolder, fingerprint, load_net
from stage1_faces.training.samples import TrainingPhoto
from stage1_faces.training.trainer import (
    AVERAGE_DECAY,
    AVERAGE_POWER,
    Batches,
    PatchBatches,
    StepSchedule,
    WindowBatches,
    train_epoch,
)

LARGEST_SIDE = 1600  # px: larger photos are shrunk to it for training, which bounds the memory for each
COUNTS = (5, 10, 20, 50, 100, 200)  # boxes a photo at which recall is told
MATCH_IOU = 0.5
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
# IoU of a mined box with a face: below the first it shows none, from the second it shows that face.
OVERLAPS = {"rnet": (0.3, 0.45), "onet": (0.25, 0.4)}


@dataclass(frozen=True)
class FinetuneConfig:
    """How long and how fast each net learns (EXPERIMENTS.md tells what was tried)."""

    pnet_steps: int = 6000
    """Batches that P-Net learns from."""
    rnet_steps: int = 1250
    """Batches that R-Net learns from."""
    onet_steps: int = 1500
    """Batches that O-Net learns from."""
    epoch_steps: int = 250
    """Batches an epoch; a broken run goes on after its last whole epoch."""
    pnet_batch: int = 16
    """Patches a batch."""
    rnet_batch: int = 192
    """Windows a batch."""
    onet_batch: int = 160
    """Windows a batch."""
    pnet_rate: float = 2e-3
    """Largest learning rate (AdamW)."""
    rnet_rate: float = 1.5e-3
    """Largest learning rate."""
    onet_rate: float = 1.5e-3
    """Largest learning rate."""
    weight_decay: float = 0.02
    """AdamW's weight decay."""
    passes: int = 3
    """How often each photo is searched for windows, at various sizes and mirrored."""
    seed: int = 0
    """Seed of everything drawn."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            flag = f"--{name.replace('_', '-')}"
            if name in ("seed", "weight_decay"):
                if not 0 <= value < math.inf:
                    raise UserError(f"{flag} is {value}, must be 0 or more")
            elif not 0 < value < math.inf:
                raise UserError(f"{flag} is {value}, must be above 0")
            elif name in ("rnet_batch", "onet_batch") and value < 2:
                raise UserError(f"{flag} is {value}, must be 2 or more: windows with a face and without")

    def schedule(self, net: str) -> StepSchedule:
        """Steps and learning rate of one net."""
        return StepSchedule(getattr(self, f"{net}_steps"), self.epoch_steps, getattr(self, f"{net}_rate"))


@dataclass(frozen=True)
class FinetuneArgs:
    """Fine-tune the cascade (P-Net, R-Net, O-Net) on annotated faces."""

    data: Path
    """Annotated photos: a Pascal VOC, COCO or YOLO folder."""
    out: Path
    """Folder of the run; a run that was broken off there goes on."""
    splits: Path = Path("splits.csv")
    """splits.csv of pipeline.split."""
    overwrite: bool = False
    """Start anew even if the folder holds a run."""
    threads: int = 0
    """CPU threads of torch; 0 leaves it to torch."""
    recipe: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)


def finetune(
    data: Path, splits: Path, out: Path, recipe: FinetuneConfig | None = None, overwrite: bool = False, threads: int = 0
) -> Path:
    """Fine-tunes into `out` and returns it; nets that are finished there are left as they are.

    A run that was killed goes on after its last whole epoch and, on the same machine with the same number of threads,
    ends in the same weights as an unbroken one. Raises UserError when the data cannot be used or `out` is taken.
    """
    recipe = recipe or FinetuneConfig()
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{out}: lies in {data} and would be read as data; give another --out")
    keep_memory()
    if threads < 0:
        raise UserError(f"--threads is {threads}, must be 0 or more")
    if threads:
        torch.set_num_threads(threads)
    sides = read_splits(splits)
    read = read_dataset(data)
    for problem in read.problems:
        print(f"warning: {problem}", file=sys.stderr)
    images = read.images
    sets = [[i for i in images if sides.get(i.image_id) == side] for side in ("train", "val")]
    if not any(len(i.boxes) for i in sets[0]):
        raise UserError(f"{splits}: no training photo of {data} has a face; make the split anew")
    with _progress() as bar:
        task = bar.add_task("reading photos", total=sum(map(len, sets)))
        train, val = (_photos(some, lambda: bar.advance(task)) for some in sets)
    if not any(len(photo.boxes) for photo in train.values()):
        raise UserError(f"{data}: not one training photo with a face can be read; copy the photos again")
    folder = RunFolder(out)
    # The photos that could be read: mined windows count them.
    data_print = fingerprint([image for image in sets[0] if image.image_id in train])
    folder.start({"format": 1, "recipe": asdict(recipe), "data": data_print}, overwrite)
    with folder.held():
        if not folder.finished:
            FinetuneRun(folder, recipe, list(train.values()), list(val.values()), torch.get_num_threads()).finish()
    return folder.path


class FinetuneRun:
    """One fine-tuning in progress: its photos, and the nets finished so far as functions."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: FinetuneConfig,
        train: Sequence[TrainingPhoto],
        val: Sequence[TrainingPhoto],
        threads: int,
    ) -> None:
        self.folder, self.recipe, self.threads = folder, recipe, threads
        self.photos, self.val = train, val
        self.nets: dict[str, Net] = {}

    def finish(self) -> None:
        """Trains the nets that are not finished yet, in order, and reports each."""
        for name in NETS:
            if not (self.folder.path / f"{name}.safetensors").is_file():
                self._train(name)
            net = ExportWrapper(load_net(self.folder.path, name)).eval()
            self.nets[name] = runtime(export_net(name, net, FINE_TUNED[name]), self.threads)
            if not any(row["net"] == name and "recall" in row for row in self.folder.rows()):
                self._report(name)
        self.folder.tidy()

    def _train(self, name: str) -> None:
        schedule = self.recipe.schedule(name)
        batches = self._batches(name)
        torch.manual_seed(self.recipe.seed)
        net = build_net(name).to(memory_format=torch.channels_last)
        average = ModelEmaV3(net, decay=AVERAGE_DECAY, use_warmup=True, warmup_power=AVERAGE_POWER)
        optimizer = torch.optim.AdamW(net.parameters(), schedule.rate, weight_decay=self.recipe.weight_decay)
        rows = [row for row in self.folder.rows() if row["net"] != name]
        epoch, history = 0, []
        state = self.folder.load_state(name)
        if state is not None:
            try:
                net.load_state_dict(state["model"])
                average.module.load_state_dict(state["average"])
                optimizer.load_state_dict(state["optimizer"])
                batches.state = state["batches"]
                epoch, history = state["epoch"], state["history"]
            except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
                file = self.folder.path / f"{name}.state"
                raise UserError(f"{file}: is another net's or run's; remove it to train this net anew") from error
        with _progress() as bar:
            task = bar.add_task(f"training {name}", total=schedule.steps, completed=epoch * schedule.per_epoch)
            while epoch < schedule.epochs:
                start = time.perf_counter()
                parts = train_epoch(
                    net, average, optimizer, batches, schedule, epoch, self.recipe.seed, lambda: bar.advance(task)
                )
                epoch += 1
                seconds = round(time.perf_counter() - start, 1)
                losses = {part: round(value, 5) for part, value in parts.items()}
                history.append({"net": name, "epoch": epoch, "epochs": schedule.epochs, **losses, "seconds": seconds})
                self.folder.write_rows([*rows, *history])
                shown = "  ".join(f"{part} {value:.4f}" for part, value in parts.items())
                bar.console.print(f"{name} epoch {epoch}/{schedule.epochs}  {shown}", highlight=False)
                self.folder.save_state(
                    name,
                    {
                        "model": net.state_dict(),
                        "average": average.module.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "batches": batches.state,
                        "epoch": epoch,
                        "history": history,
                    },
                )
        self.folder.save_net(name, average.module, {"steps": schedule.steps, "torch": torch.__version__.split("+")[0]})

    def _batches(self, name: str) -> Batches:
        recipe, seed = self.recipe, self.recipe.seed
        if name == "pnet":
            return PatchBatches(self.photos, recipe.pnet_batch, seed)
        mined = self._kept(f"{name}.windows.npz", MinedWindows.from_bytes, lambda: self._mine(name).to_bytes())
        photos = self.photos
        if name == "onet":
            points = self._kept("landmarks.npz", _points_from_bytes, self._landmarks)
            photos = [TrainingPhoto(p.maps, p.boxes, p.labels, marks) for p, marks in zip(photos, points, strict=True)]
        batch = recipe.rnet_batch if name == "rnet" else recipe.onet_batch
        return WindowBatches(photos, mined, name, batch, seed, OVERLAPS[name])

    def _kept(self, name: str, read: Callable[[bytes], Any], make: Callable[[], bytes]) -> Any:
        """What was kept in a file of the run, made when it is not there."""
        file = self.folder.path / name
        if not file.is_file():
            self.folder.write(name, make())
        try:
            return read(file.read_bytes())
        except (ValueError, KeyError) as error:
            raise UserError(f"{file}: damaged ({error}); remove it to make it anew") from error

    def _detector(self) -> FaceDetector:
        def missing(pixels: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
            raise AssertionError("this net is not trained yet")

        return FaceDetector(
            self.nets.get("pnet", missing), self.nets.get("rnet", missing), self.nets.get("onet", missing)
        )

    def _mine(self, name: str) -> MinedWindows:
        after = NETS[NETS.index(name) - 1]
        with _progress() as bar:
            task = bar.add_task(f"mining for {name}", total=len(self.photos))
            seed = self.recipe.seed + 1
            return mine(self._detector(), self.photos, after, self.recipe.passes, seed, lambda: bar.advance(task))

    def _landmarks(self) -> bytes:
        nets = {name: runtime(graph, self.threads) for name, graph in export_cascade(stock_nets(), STOCK).items()}
        stock = MtcnnDetector(**nets, config=TEACHER_SEARCH)
        with _progress() as bar:
            photos = bar.track(self.photos, description="landmarks by the stock cascade")
            points = [stock_landmarks(stock, photo.maps.image, photo.boxes) for photo in photos]
        buffer = io.BytesIO()
        np.savez(buffer, points=np.concatenate(points), ends=np.cumsum([len(p) for p in points])[:-1])
        return buffer.getvalue()

    def _report(self, name: str) -> None:
        """Adds to the log how many of the validation faces the net's best boxes find."""
        if not any(len(photo.boxes) for photo in self.val):
            return
        detector = self._detector()
        search = CascadeConfig()
        found = []
        for photo in self.val:
            candidates = detector.propose([photo.maps], search)
            if name != "pnet":
                candidates = detector.refine([photo.maps], candidates, search)
            if name == "onet":
                found.append(detector.run_onet([photo.maps], candidates, CascadeConfig(score_threshold=0.01))[0].boxes)
            else:
                found.append(candidates[0].boxes)
        recall = recall_by_count(found, [photo.boxes for photo in self.val])
        row = {
            "net": name,
            "val_photos": len(self.val),
            "boxes_a_photo": round(float(np.mean([len(boxes) for boxes in found])), 2),
            "recall": {str(count): round(value, 4) for count, value in recall.items()},
        }
        self.folder.write_rows([*self.folder.rows(), row])
        shown = ", ".join(f"{value:.3f} at {count}" for count, value in recall.items())
        Console(soft_wrap=True).print(f"{name}: validation recall by boxes a photo: {shown}", highlight=False)


def recall_by_count(
    found: Sequence[NDArray[np.float32]], truths: Sequence[NDArray[np.float32]], counts: Iterable[int] = COUNTS
) -> dict[int, float]:
    """Share of the true boxes that the first `count` found ones (best first) of their photo meet at IoU 0.5."""
    faces = sum(len(boxes) for boxes in truths)
    recall = {}
    for count in counts:
        hits = sum(
            int((iou(true, some[:count]).max(axis=1) >= MATCH_IOU).sum())
            for some, true in zip(found, truths, strict=True)
            if len(some) and len(true)
        )
        recall[count] = hits / max(faces, 1)
    return recall


def _photos(images: Iterable[AnnotatedImage], advance: Callable[[], None]) -> dict[str, TrainingPhoto]:
    """{image_id: photo} of those that can be read; a warning names each of the others."""
    photos = {}
    for image in images:
        try:
            photos[image.image_id] = _photo(image)
        except MediaError as error:
            print(f"warning: {error}; left out", file=sys.stderr)
        advance()
    return photos


def _photo(image: AnnotatedImage) -> TrainingPhoto:
    pixels, boxes = read_image(image.path), image.boxes
    scale = LARGEST_SIDE / max(image.size)
    if scale < 1:
        size = (max(round(image.size[0] * scale), 1), max(round(image.size[1] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        boxes = boxes * np.tile(np.array(size) / image.size, 2).astype(np.float32)
    return TrainingPhoto(Mipmaps(pixels), boxes, image.labels, np.full((len(boxes), 5, 2), np.nan, np.float32))


def _points_from_bytes(data: bytes) -> list[NDArray[np.float32]]:
    arrays = arrays_in(data)
    return np.split(arrays["points"], arrays["ends"])


def keep_memory() -> None:
    """Has the C library keep freed memory for the next step instead of giving it back: a third of O-Net's time."""
    try:
        libc = ctypes.CDLL(None)
        for option in M_MMAP_THRESHOLD, M_TRIM_THRESHOLD:
            libc.mallopt(option, 1 << 30)
    except (OSError, AttributeError):
        pass  # no glibc here


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # A log file gets the epochs' lines, no half-drawn bars.
    hidden = not sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True, soft_wrap=True), transient=True, disable=hidden)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `python -m stage1_faces.finetune`."""

    def command() -> int:
        args = tyro.cli(FinetuneArgs, args=argv, prog=program_name("stage1_faces.finetune"))
        out = finetune(args.data, args.splits, args.out, args.recipe, args.overwrite, args.threads)
        Console(soft_wrap=True).print(f"{out}: finished")
        return 0

    return run_cli(command, interrupted="interrupted; the same command goes on")
