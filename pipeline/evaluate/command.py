"""Score the whole detector on annotated photos, end to end, next to any other detector's COCO results.

Example: python -m pipeline.evaluate --data DIR --splits splits.csv --split test --out evaluation

The data may have fewer classes than the detector. mAP is the mean over the classes that have annotated faces. So a face
with the name of another class is lost to its own class and counts for nothing else. To score it as one of the data's
classes, merge the classes. A mask worn wrongly is without_mask where annotators asked who is protected, and with_mask
where they asked who has a mask. The scores of merged classes are added up before a face gets its label.

Several datasets (--data A B C) are scored each on its own: a summary with one row per dataset, then a section for each.
For example, --data photos webcam --split all --match-iou webcam=0.35 --merge webcam:mask_weared_incorrect=without_mask

A photo of which an annotation was refused may show a face without a box. There, a detection that overlaps no annotated
face is not counted, in any score: it may be that face.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from common.annotations import load_dataset
from common.arguments import parse_args
from common.cli import console, requires_extra, run_cli
from common.files import write_text
from pipeline.evaluate.evaluation import EvaluationSettings
from pipeline.evaluate.report import markdown, show
from pipeline.evaluate.scoring.args import EvaluateArgs, check_args
from pipeline.evaluate.scoring.dataset import dataset_part, draw_dataset, score_dataset
from pipeline.evaluate.scoring.learned import LEARNED_NOTES, learned_from, sources_table
from pipeline.evaluate.scoring.several import run_several
from pipeline.evaluate.selection import parse_merge, select_images
from pipeline.inference.predictor import Predictor

# The present flag by its name in earlier versions.
RENAMED_FLAGS = {
    "--ours": "no flag: the bundle is scored by default",
    "--no-ours": "--skip-bundle",
    "--score": "--score-threshold",
}


def run(args: EvaluateArgs) -> int:
    """Score the detectors, print the tables and write the report; return 1 where a photo cannot be read, else 0."""
    check_args(args)
    EvaluationSettings(args.iou, args.bootstrap, args.seed)
    with requires_extra("train"):
        import faster_coco_eval  # noqa: F401 (a missing package is reported before minutes of detecting)
        import matplotlib  # noqa: F401

    if args.by_source:
        return run_several(args, Predictor.load(args.bundle, threads=args.threads))
    data = args.main_data
    parse_merge(args.merge)
    dataset = load_dataset(data, args)
    images, notes = select_images(dataset.images, data, args.splits, args.split)
    predictor = None if args.skip_bundle else Predictor.load(args.bundle, threads=args.threads)
    part = dataset_part(args, predictor, data, dataset, images, notes, args.merge, args.iou)
    scored = score_dataset(args, predictor, part)
    notes, record, tables = list(scored.notes), scored.record, list(scored.tables)
    if predictor is not None:
        provenance = predictor.bundle.describe().get("provenance", {})
        learned = learned_from(provenance, data.resolve().name, dataset.images, images, args.splits)
        notes.append(LEARNED_NOTES[learned])
        record = {**record, "notes": notes, "learned_from": learned}
        if learned == "yes":
            print(f"warning: {data}: {LEARNED_NOTES[learned]}", file=sys.stderr)
        tables += [table] if (table := sources_table(provenance)) else []
    show(scored.tables, notes)
    draw_dataset(args, scored, args.out)
    write_text(args.out / "evaluation.md", markdown("Evaluation", notes, tables))
    write_text(args.out / "evaluation.json", json.dumps(record, indent=1) + "\n")
    console().print(f"report: {args.out / 'evaluation.md'}", markup=False, highlight=False)
    return int(part.unreadable > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of `python -m pipeline.evaluate`."""

    def command() -> int:
        return run(parse_args(EvaluateArgs, argv, "pipeline.evaluate", RENAMED_FLAGS, description=__doc__))

    return run_cli(command)
