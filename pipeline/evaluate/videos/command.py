"""Score the events of videos that are made from annotated validation photos, and choose the constants of tracking.

Example: python -m pipeline.evaluate.videos --data DIR --splits splits.csv --out videos

A camera moves over each photo, with motion blur, flicker, noise, lost frames and H.264 at low bit rates. So it is known
when each face is in sight. One `entered` event with the right label is expected for each time. Constants are chosen on
one half of the videos, and compared on the other half. No photo and no video is kept, only detections (--out).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.annotations import ReadingArgs, load_dataset
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.errors import UserError
from common.files import check_writable_folder, write_text
from pipeline.data.checks import check_apart
from pipeline.evaluate.report import Table, markdown, show
from pipeline.evaluate.selection import check_classes, select_images
from pipeline.evaluate.videos.choice import LOWEST_RATIO, SettingsChoice, choose_settings, score_clips
from pipeline.evaluate.videos.clips import draw_recipes
from pipeline.evaluate.videos.detecting import DetectedClip, detect_clips
from pipeline.evaluate.videos.scorer import EventScores, total
from pipeline.evaluate.videos.truth import MIN_SIDE
from pipeline.inference.predictor import Predictor
from pipeline.video.tracking_settings import DEFAULT_TRACKING, TrackingSettings

STRIDES = (1, 2, 3, 5)
MARGINS = (0.0, 0.2, 0.4, 0.6, 0.8)  # of `unsure`, next to the bundle's
COLUMNS = (
    *(
        "videos",
        "faces",
        "reported once",
        "missing",
        "of these unseen",
        "reported again",
        "false",
        "wrong at first",
        "wrong at last",
    ),
    *("label changes", "of these wrong", "delay (s)", "cost"),
)
CONSOLE_COLUMNS = ("faces", "reported once", "missing", "reported again", "false", "cost")


@dataclass(frozen=True)
class VideoScoreArgs(ReadingArgs):
    """Score the events of made videos, and choose the constants of tracking."""

    data: Path
    """Annotated photos: a folder in one of the formats of docs/datasets.md."""
    splits: Path
    """splits.csv of pipeline.split; the photos of its split "val" are used."""
    bundle: Path | None = None
    """Bundle directory; the default bundle without this option."""
    clips: int = 60
    """Number of videos, at least 2; each is made from another photo."""
    seconds: float = 5.0
    """Length of each video."""
    seed: int = 0
    """Seed of the photos, motions and qualities."""
    choose: bool = True
    """Choose constants on one half of the videos, and compare on the other half; else only score."""
    threads: int = 1
    """Threads for each net."""
    out: Path = Path("videos")
    """Folder of the report and of the detections, which a second run reads."""


def run(args: VideoScoreArgs) -> int:
    """Make the videos, score the events, choose constants, write the report, and return the exit code."""
    _check(args)
    with requires_extra("video"):
        import av  # noqa: F401 (a missing package is reported before minutes of detecting)
    dataset = load_dataset(args.data, args)
    images, notes = select_images(dataset.images, args.data, args.splits, "val")
    predictor = Predictor.load(args.bundle, threads=args.threads)
    check_classes(images, predictor.bundle.meta.class_names)
    recipes = draw_recipes(images, args.clips, args.seconds, args.seed)
    if len(recipes) < 2:
        raise UserError(f"{args.splits}: {len(recipes)} photos of split 'val' can be used; make a split with 2 or more")
    threshold = predictor.bundle.meta.score_threshold
    clips = detect_clips(recipes, images, predictor, LOWEST_RATIO * threshold, args.out / "detections")
    notes.append(f"{len(clips)} videos of {args.seconds:g} s from validation photos, seed {args.seed}")
    notes.append(f"a face counts from {MIN_SIDE:g} px on, where more than half of it is in the frame")

    notes += _learned_notes(predictor.bundle.meta.provenance, args.splits)

    halves = {"half 1": clips[0::2], "half 2": clips[1::2]}
    rows = [_row(f"{name}, present", score_clips(half, threshold, DEFAULT_TRACKING)) for name, half in halves.items()]
    choice = None
    if args.choose:
        choice = choose_settings(halves["half 1"], halves["half 2"], threshold, DEFAULT_TRACKING)
        for name, half in halves.items():
            rows.append(_row(f"{name}, chosen", score_clips(half, threshold, choice.settings)))
        for name, value in _changed(choice.settings).items():
            alone = replace(DEFAULT_TRACKING, **{name: value[1]})
            rows += [_row(f"{h}, {name} alone", score_clips(half, threshold, alone)) for h, half in halves.items()]
        notes += _choice_notes(choice)
    present = score_clips(clips, threshold, DEFAULT_TRACKING)
    rows.append(_row("all, present", present))
    note = "Constants are chosen on half 1. Half 2 says whether they help. Unseen: the detector never found the face."
    tables = [Table("Events", ("", *COLUMNS), tuple(rows), note if choice else "")]
    tables.append(_unsure_table(clips, threshold, predictor.bundle.meta.fusion.unsure_margin))
    tables.append(_fewer_runs_table(clips, threshold))
    show([_narrow(tables[0]), *tables[1:]], notes)
    per_clip = tuple(_row(_clip_name(c), [s]) for c, s in zip(clips, present, strict=True))
    tables.append(Table("Each video, present constants", ("", *COLUMNS), per_clip))
    write_text(args.out / "videos.md", markdown("Events of made videos", notes, tables))
    write_text(args.out / "videos.json", json.dumps(_record(args, clips, present, choice, notes), indent=1) + "\n")
    console().print(f"report: {args.out / 'videos.md'}", markup=False, highlight=False)
    return 0


def _check(args: VideoScoreArgs) -> None:
    if args.clips < 2:
        raise UserError(f"--clips is {args.clips}; use 2 or more")
    if not 1 <= args.seconds <= 600:
        raise UserError(f"--seconds is {args.seconds:g}; use 1 to 600")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; use 0 or more")
    if args.threads < 1:
        raise UserError(f"--threads is {args.threads}; use 1 or more")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out}: is a file; name a folder with --out")
    check_apart(args.data, args.out, "--out")
    check_writable_folder(args.out)


def _row(name: str, scores: Sequence[EventScores]) -> tuple[str, ...]:
    s = total(scores)
    counts = (len(scores), s.faces, s.once, s.missing, s.unseen, s.duplicates, s.false, s.wrong, s.wrong_at_end)
    delay = f"{s.mean_delay:.2f}" if s.reported else "-"
    return (name, *(str(n) for n in (*counts, s.changes, s.wrong_changes)), delay, f"{s.cost:.2f}")


def _narrow(table: Table, *more: str) -> Table:
    """Return a table of events with the columns that fit a console; `more` are others to keep."""
    kept = [table.header.index(name) for name in ("", *more, *CONSOLE_COLUMNS)]
    rows = tuple(tuple(row[k] for k in kept) for row in table.rows)
    return Table(table.title, tuple(table.header[k] for k in kept), rows, table.note)


def _clip_name(clip: DetectedClip) -> str:
    r = clip.recipe
    return f"{r.image_id}: {r.motion}, {r.size[0]}x{r.size[1]}, {r.rate}/s, {r.bit_rate // 1000} kbit/s"


def _choice_notes(choice: SettingsChoice) -> list[str]:
    changed = _changed(choice.settings)
    what = ", ".join(f"{name} {old:g} -> {new:g}" for name, (old, new) in changed.items()) or "the present ones"
    low, high = choice.interval
    says = "confirms" if choice.confirmed else "does not confirm"
    return [
        f"chosen constants: {what}",
        f"half 2 {says} them: cost per video {choice.difference:+.3f} (95% interval {low:+.3f} to {high:+.3f})",
    ]


def _learned_notes(provenance: Mapping[str, Any], splits: Path) -> list[str]:
    """Return a warning where the bundle is not known to have learned without the validation photos."""
    data = provenance.get("data")
    known = data.get("splits_sha256") if isinstance(data, Mapping) else None
    if known == hashlib.sha256(splits.read_bytes()).hexdigest():
        return []
    return [
        "the bundle does not say that it learned by this split: it may have learned from these photos, so the figures "
        "flatter it; choose constants with a bundle of the training part (--bundle)"
    ]


def _changed(settings: TrackingSettings) -> dict[str, tuple[Any, Any]]:
    """Return {constant: (present, chosen)} of the constants that differ."""
    old, new = asdict(DEFAULT_TRACKING), asdict(settings)
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def _unsure_table(clips: Sequence[DetectedClip], threshold: float, bundle_margin: float) -> Table:
    rows = []
    for margin in sorted({*MARGINS, bundle_margin}):
        s = total(score_clips(clips, threshold, DEFAULT_TRACKING, margin))
        name = f"{margin:g}" + (" (the bundle's)" if margin == bundle_margin else "")
        sure, wrong = s.reported - s.unsure, s.wrong - s.unsure_wrong
        changes = f"{s.changes} ({s.wrong_changes})"
        rows.append((name, str(s.reported), str(s.unsure), str(s.unsure_wrong), f"{wrong} of {sure}", changes))
    header = ("margin", "faces reported", "unsure", "of these wrong", "wrong of the sure", "label changes (wrong)")
    return Table("Unsure at `entered`, all videos, present constants", header, tuple(rows))


def _fewer_runs_table(clips: Sequence[DetectedClip], threshold: float) -> Table:
    """Return what is lost where the detector runs in fewer frames: by stride, and by --motion for each camera."""
    rows: list[tuple[str, int, Sequence[EventScores]]] = []
    for stride in STRIDES:
        runs = sum(-(-len(clip.detections) // stride) for clip in clips)
        rows.append((f"stride {stride}", runs, score_clips(clips, threshold, DEFAULT_TRACKING, stride=stride)))
    for camera in sorted({clip.recipe.motion for clip in clips}):
        some = [clip for clip in clips if clip.recipe.motion == camera]
        every = sum(len(clip.detections) for clip in some)
        rows.append((f"{camera}: all frames", every, score_clips(some, threshold, DEFAULT_TRACKING)))
        held, runs = [clip.with_motion() for clip in some], sum(sum(clip.moving) for clip in some)
        rows.append((f"{camera}: --motion", runs, score_clips(held, threshold, DEFAULT_TRACKING)))
    cells = tuple((name, str(runs), *_row("", scores)[1:]) for name, runs, scores in rows)
    frames = sum(len(clip.detections) for clip in clips)
    note = f"Runs: in how many of {frames} frames the detector ran; below: of the frames of each kind of camera."
    wide = Table("Fewer detector runs, present constants", ("", "runs", *COLUMNS), cells, note)
    return _narrow(wide, "runs")


def _record(
    args: VideoScoreArgs,
    clips: Sequence[DetectedClip],
    present: Sequence[EventScores],
    choice: SettingsChoice | None,
    notes: Sequence[str],
) -> dict[str, object]:
    return {
        "data": str(args.data),
        "splits": str(args.splits),
        "seed": args.seed,
        "notes": list(notes),
        "present": asdict(DEFAULT_TRACKING),
        "chosen": None if choice is None else {**asdict(choice), "changed": _changed(choice.settings)},
        "videos": [{**asdict(c.recipe), **asdict(s)} for c, s in zip(clips, present, strict=True)],
        "frames": int(np.sum([len(c.detections) for c in clips])),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.evaluate.videos`."""
    return run_cli(lambda: run(parse_args(VideoScoreArgs, argv, "pipeline.evaluate.videos", description=__doc__)))
