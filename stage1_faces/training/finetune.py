"""Command: fine-tune the cascade on annotated faces: P-Net, then R-Net on its proposals, then O-Net on R-Net's.

    python -m stage1_faces.finetune --data DIR --splits splits.csv --out RUN

Learns from the training photos and reports on the validation photos; never reads the test split. Writes to RUN:
config.json, log.jsonl (one line per epoch, and each net's recall by boxes per photo), landmarks.npz (the stock
cascade's), and pnet.safetensors, rnet.safetensors, onet.safetensors for `python -m pipeline.pack --cascade RUN`.
A photo of which an annotation was refused may show a face without a box: it teaches its faces, but no background.
With `--teacher retinaface`, teacher.npz (the faces that the teacher found) takes the place of landmarks.npz.
With several `--data`, only the first is validated; `--sources` says what is learned from each (common.sources).
A run that was stopped resumes with the same command. All training photos are in memory: 1 MB per 600x400 pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from common.annotations import ReadingArgs
from common.annotations.options import DEFAULT_READING
from common.annotations.types import ordered_classes
from common.arguments import parse_args
from common.cli import console, run_cli
from common.errors import UserError
from common.memory import keep_freed_memory
from common.sources import SourcesArgs
from stage1_faces.training.compute import DeviceChoice, choose_compute
from stage1_faces.training.finetune_config import FinetuneConfig
from stage1_faces.training.finetune_run import FinetuneRun
from stage1_faces.training.photos import FinetuneData, read_photos
from stage1_faces.training.run_folder import FinetuneFolder
from stage1_faces.training.teacher import require_teacher

MAX_WORKERS = 256


@dataclass(frozen=True)
class FinetuneArgs(SourcesArgs):
    """Fine-tune the cascade (P-Net, R-Net, O-Net) on annotated faces."""

    out: Path  # Folder of the run; a run that was stopped there resumes.
    splits: Path = Path("splits.csv")  # splits.csv of pipeline.split.
    overwrite: bool = False  # Start again even if the folder holds a run.
    threads: int = 0  # CPU threads of torch; 0 leaves it to torch.
    device: DeviceChoice = "auto"  # Where the nets learn; auto takes a GPU where PyTorch finds one.
    workers: int = 0  # Processes that make batches; 0: a thread. A GPU needs several.
    recipe: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)


def finetune(
    data: Path | Sequence[Path],
    splits: Path,
    out: Path,
    recipe: FinetuneConfig | None = None,
    overwrite: bool = False,
    threads: int = 0,
    reading: ReadingArgs = DEFAULT_READING,
    sources: Path | None = None,
    device: DeviceChoice = "auto",
    workers: int = 0,
) -> Path:
    """Fine-tune the cascade into a folder; nets that are finished there stay as they are.

    A run that was killed resumes after its last whole epoch. On the same machine with the same number of threads, it
    ends in the same weights as an unbroken one.

    Args:
        data: annotated photos, in one of the formats of docs/datasets.md; the first of several folders is the main one.
        splits: splits.csv.
        out: folder of the run.
        recipe: steps, batches, learning rates and what else the nets depend on.
        overwrite: remove a run that the folder holds.
        threads: CPU threads of torch; 0 leaves it to torch.
        reading: how to read the data.
        sources: YAML file that says what may be learned from each folder.
        device: where the nets learn.
        workers: processes that make batches; 0: a thread. The batches are the same.

    Returns:
        the folder.

    Raises:
        UserError: the data cannot be used, or the folder holds something else.
    """
    recipe = recipe or FinetuneConfig()
    folders = (data,) if isinstance(data, Path) else tuple(data)
    for path in folders:
        if out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{out}: is in {path} and would be read as data; use another --out")
    keep_freed_memory()
    if threads < 0:
        raise UserError(f"--threads is {threads}, must be 0 or more")
    if not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers is {workers}, must be from 0 to {MAX_WORKERS}")
    if threads:
        torch.set_num_threads(threads)
    compute = choose_compute(device, recipe.mixed_precision)
    if recipe.teacher == "retinaface":
        require_teacher()
    args = SourcesArgs(data=folders, sources=sources, rename=reading.rename, unlabelled=reading.unlabelled)
    photos = read_photos(args, splits, teacher_finds_unboxed_faces=recipe.teacher == "retinaface")
    folder = FinetuneFolder(out)
    record = {"format": 1, "recipe": asdict(recipe), "data": photos.fingerprint, "compute": compute.facts()}
    with folder.held({**record, **_source_facts(photos, folders[0])}, overwrite):
        if not folder.finished:
            FinetuneRun(folder, recipe, photos.train, photos.val, compute, workers).train_all()
    for line in photos.summary:
        console().print(line, markup=False, highlight=False, soft_wrap=True)
    return folder.path


def _source_facts(photos: FinetuneData, folder: Path) -> dict[str, Any]:
    """Return what the record says about the dataset, its folder's name, or about several sources.

    Of several sources: what is learned from each, and how many photos and faces, counted by class where their class is
    learned.
    """
    facts: dict[str, Any] = {}
    for source in photos.sources:
        own = [photo for photo in photos.train if photo.source == source.name]
        counts = Counter(label for photo in own for label in photo.known_labels)
        faces = sum(len(photo.boxes) for photo in own)
        facts[source.name] = {
            **{key: value for key, value in source.facts().items() if key != "name"},
            "photos": len(own),
            "faces": faces,
            "class_counts": {name: counts[name] for name in ordered_classes(counts) if counts[name]},
            "class_unknown": faces - counts.total(),
        }
    return {"sources": facts} if facts else {"dataset": folder.resolve().name}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m stage1_faces.finetune`."""

    def command() -> int:
        args = parse_args(FinetuneArgs, argv, "stage1_faces.finetune")
        out = finetune(
            args.data,
            args.splits,
            args.out,
            recipe=args.recipe,
            overwrite=args.overwrite,
            threads=args.threads,
            reading=args,
            sources=args.sources,
            device=args.device,
            workers=args.workers,
        )
        console().print(f"{out}: finished")
        return 0

    return run_cli(command, interrupted="interrupted; run the same command to resume")
