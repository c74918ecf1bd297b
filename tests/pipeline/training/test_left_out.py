"""Leaving sources out: what is learned from, what is scored, the table, resuming, and refusals before the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro

from common.sources import SourcesArgs, load_sources
from common.sources.trust_file import read_trust_file
from common.splits import read_splits
from pipeline.data import further_sources, split
from pipeline.data.further_sources import FurtherSources
from pipeline.evaluate.scoring.args import EvaluateArgs
from pipeline.training import crossval, steps
from pipeline.training.left_out import LeftOutTraining, left_out_training, run_left_out, same_as_left_out
from pipeline.training.steps import TrainingStep
from tests.helpers.commands import write_distinct_photos
from tests.helpers.several_sources import data_flags

TRUST = """\
large: {twins: twins.csv}
ilc: {edges: offset, share: 0.3, background: false}
tv: {edges: offset, share: 0.2, left_out: doubtful.csv}
empty: {face_free: true}
"""
DOUBTFUL = "image_id,label,x1,y1,x2,y2,action\np0,with_mask,10,20,42,60,class\n"
CLASSES = ("final_cnn",)


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> SourcesArgs:
    """Write main, large (the same photos), ilc, tv (all with faces) and empty, and sources.yaml."""
    root = tmp_path_factory.mktemp("sources")
    names = ("main", "empty", "large", "ilc", "tv")
    for name, seed in {"main": 0, "large": 0, "ilc": 100, "tv": 200}.items():
        write_distinct_photos(root / name, 6, first_seed=seed)
    (root / "large" / "twins.csv").write_text("".join(f"p{i}.png,p{i}.png\n" for i in range(6)))
    (root / "empty").mkdir()
    cv2.imwrite(str(root / "empty" / "e.png"), np.random.default_rng(9).integers(0, 255, (96, 128, 3), np.uint8))
    (root / "sources.yaml").write_text(TRUST)
    (root / "doubtful.csv").write_text(DOUBTFUL)
    return SourcesArgs(data=tuple(root / name for name in names), sources=root / "sources.yaml")


def names_of(folders: Sequence[Path]) -> list[str]:
    return [folder.name for folder in folders]


def test_the_main_source_is_left_out_with_its_twins(args: SourcesArgs, tmp_path: Path) -> None:
    training = left_out_training(args, "main", tmp_path / "out", CLASSES, seed=0)
    # The first source with faces is the main one now, and teaches the edges: no offset, and no share of its own.
    assert names_of(training.plan.data) == ["ilc", "empty", "tv"]
    assert training.plan.sources == tmp_path / "out" / "sources.yaml"
    trust = read_trust_file(training.plan.sources)
    assert args.sources is not None
    doubtful = args.sources.parent / "doubtful.csv"
    assert trust == {
        "ilc": {"background": False},
        "empty": {"face_free": True},
        "tv": {"edges": "offset", "share": 0.2, "left_out": doubtful},
        "main": {},
    }
    parts = read_splits(tmp_path / "out" / "splits.csv")
    own = {name: part for name, part in parts.items() if "/" not in name}
    assert sorted(own) == [f"p{i}" for i in range(6)] and set(own.values()) == {"train", "val", "test"}
    assert {name.partition("/")[0] for name in parts if "/" in name} == {"empty", "tv"}
    assert {part for name, part in parts.items() if "/" in name} == {"train"}
    assert [step.name for step in training.steps] == ["cascade", "crops", "final_cnn", "bundle", "report"]
    for step in training.steps[:2]:
        assert step.command[2:5] == tuple(map(str, training.plan.data))
        assert step.command[-2:] != ("--sources", str(args.sources)) and str(training.plan.sources) in step.command
    assert training.report.command[0] == "pipeline.evaluate"
    scored = tyro.cli(EvaluateArgs, args=list(training.report.command[1:]))
    assert (scored.data, scored.split, scored.sources) == ((args.main_data,), "all", args.sources)
    assert (scored.bundle, scored.out) == (training.plan.bundle, training.result.parent)
    assert scored.match_iou == scored.merge == () and scored.by_source


def test_without_another_source_the_main_one_is_split_as_before(args: SourcesArgs, tmp_path: Path) -> None:
    training = left_out_training(args, "tv", tmp_path / "out", CLASSES, seed=0)
    assert names_of(training.plan.data) == ["main", "empty", "large", "ilc"]
    trust = read_trust_file(tmp_path / "out" / "sources.yaml")
    assert list(trust) == ["main", "empty", "large", "ilc", "tv"]
    assert trust["ilc"] == {"edges": "offset", "share": 0.3, "background": False}
    assert trust["large"] == {"twins": "twins.csv"}
    alone = tmp_path / "alone.csv"
    split.run(split.SplitArgs(data=args.data[:1], out=alone), log=lambda _: None)
    parts = read_splits(tmp_path / "out" / "splits.csv")
    assert {name: part for name, part in parts.items() if "/" not in name} == read_splits(alone)
    # The twin of a photo that is held out is no training photo.
    assert {f"p{i}" for i in range(6) if f"large/p{i}" not in parts} == {
        name for name, part in parts.items() if part != "train"
    }
    assert not any(name.startswith("tv/") for name in parts)


@pytest.mark.slow
def test_photos_that_show_the_same_are_not_learned_from(args: SourcesArgs, tmp_path: Path) -> None:
    """A photo of tv is a copy of one of ilc; whichever is left out, the copy of the other one is not learned from."""
    for source in args.data:
        shutil.copytree(source, tmp_path / "data" / source.name)
    assert args.sources is not None
    for file in (args.sources, args.sources.parent / "doubtful.csv"):
        shutil.copy(file, tmp_path / "data")
    copied = replace(args, data=tuple(tmp_path / "data" / source.name for source in args.data))
    found = []
    for copy in (False, True):
        if copy:
            shutil.copy(copied.data[3] / "p2.png", copied.data[4] / "p4.png")
        annotations = load_sources(copied)
        scenes = FurtherSources.find(annotations).scenes
        found.append({name: same_as_left_out(annotations, scenes, name) for name in ("main", "ilc", "tv")})
    before, after = found
    assert after["ilc"] - before["ilc"] == {"tv/p4"} and "ilc/p2" in after["tv"]
    assert {f"large/p{i}" for i in range(6)} <= after["main"]
    assert not any(image_id.startswith("tv/") for image_id in after["tv"])
    for name, photo, of in (("ilc", "tv/p4", "tv/"), ("tv", "ilc/p2", "ilc/"), ("main", "p2", "")):
        # Without main, ilc is the main source, whose ids have no name before them.
        same = {"ilc": {"tv/p4"}, "tv": {"ilc/p2"}, "main": {"ilc/p2"}}[name]
        for given in (set(), same):
            out = tmp_path / f"{name}{len(given)}"
            left_out_training(copied, name, out, CLASSES, seed=0, same=given)
            parts = read_splits(out / "splits.csv")
            assert (photo in parts) is not bool(given)
            assert sum(i.startswith(of) and ("/" in i) is bool(of) for i in parts) == (5 if given else 6)
            assert [file.name for file in out.iterdir() if "splits" in file.name] == ["splits.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["main", "ilc"])
def test_photos_compared_before_are_not_compared_again(
    args: SourcesArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Scenes of all sources give the splits that a new comparison gives, although the new main source's ids differ."""
    annotations = load_sources(args)
    compared = FurtherSources.find(annotations).scenes_of_files(annotations)
    assert len(compared) == len(annotations.images)
    left_out_training(args, name, tmp_path / "again", CLASSES, seed=0)
    monkeypatch.setattr(further_sources, "near_duplicate_groups", lambda *_: pytest.fail("compared again"))
    left_out_training(args, name, tmp_path / "given", CLASSES, seed=0, compared=compared)
    again, given = ((tmp_path / out / "splits.csv").read_text().splitlines() for out in ("again", "given"))
    # The last column is the number of the photo's group; numbers of further sources are counted differently.
    assert [row.rpartition(",")[0] for row in given] == [row.rpartition(",")[0] for row in again]


def test_names_of_classes_are_of_the_main_data_alone(args: SourcesArgs, tmp_path: Path) -> None:
    renamed = replace(args, rename=("with_mask=covered",), unlabelled="skip")
    rest = SourcesArgs(data=(args.data[0], args.data[3]))
    for name, given, learned, scored in (
        ("main", renamed, (), ("with_mask=covered",)),
        ("ilc", replace(rest, rename=("with_mask=with_mask",), unlabelled="skip"), ("with_mask=with_mask",), ()),
    ):
        training = left_out_training(given, name, tmp_path / name, CLASSES, seed=0)
        flags = (("--rename", *learned) if learned else ()) + ("--unlabelled", "skip")
        assert training.plan.reading == flags
        report = tyro.cli(EvaluateArgs, args=list(training.report.command[1:]))
        assert (report.rename, report.unlabelled) == (scored, "skip")


def test_without_a_file_of_sources_one_is_written(args: SourcesArgs, tmp_path: Path) -> None:
    given = SourcesArgs(data=(args.data[0], args.data[3]))
    training = left_out_training(given, "main", tmp_path / "out", CLASSES, seed=0)
    file = tmp_path / "out" / "sources.yaml"
    assert read_trust_file(file) == {"ilc": {}, "main": {}}
    # The figures are by source: the report has a source's name, too.
    assert tyro.cli(EvaluateArgs, args=list(training.report.command[1:])).sources == file


@pytest.mark.slow
def test_options_of_scoring_are_of_one_source(args: SourcesArgs, tmp_path: Path) -> None:
    ious = ("ilc=0.35", "ilc2=0.2", "tv=0.4")
    merges = ("tv:with_mask=without_mask", "ilc:mask_weared_incorrect=without_mask")
    found = {}
    for name in ("ilc", "tv", "main"):
        training = left_out_training(args, name, tmp_path / name, CLASSES, 0, ious, merges)
        scored = tyro.cli(EvaluateArgs, args=list(training.report.command[1:]))
        found[name] = (scored.match_iou, scored.merge)
    assert found == {
        "ilc": (("ilc=0.35",), ("ilc:mask_weared_incorrect=without_mask",)),
        "tv": (("tv=0.4",), ("tv:with_mask=without_mask",)),
        "main": ((), ()),
    }


def evaluation(name: str, value: float) -> str:
    """Return the text of evaluation.json; the calibration error is undefined."""
    interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
    summary = {**dict.fromkeys(("mAP", "mAP50-95", "face_AP"), interval), "calibration_error": None}
    return json.dumps({"sources": {name: {"photos": 6, "iou": 0.35, "summary": summary}}})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the processes: return the (folder, step) that would be started; reports are made."""
    names: list[tuple[str, str]] = []

    def run_steps(folder: Path, some: Iterable[TrainingStep], log: Callable[[str], None], stop: object = None) -> None:
        for step in some:
            if step.result is not None and step.result.exists():
                continue
            names.append((folder.parent.name, step.name))
            if step.result is not None:
                step.result.parent.mkdir(parents=True, exist_ok=True)
                source = folder.parent.name.removeprefix("left_out_")
                step.result.write_text(evaluation(source, {"main": 0.75}.get(source, 0.5)))

    monkeypatch.setattr(steps, "run_steps", run_steps)
    return names


def test_the_table(args: SourcesArgs, tmp_path: Path, started: list[tuple[str, str]]) -> None:
    trainings: list[LeftOutTraining] = [
        left_out_training(args, name, tmp_path / f"left_out_{name}", CLASSES, 0) for name in ("main", "tv")
    ]
    text = run_left_out(trainings, tmp_path, 1, lambda _: None)
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| left out | photos | IoU | mAP at IoU | mAP50-95 | face AP at IoU | ECE |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| main | 6 | 0.35 | 0.750 [0.650, 0.850] | 0.750 [0.650, 0.850] | 0.750 [0.650, 0.850] | - |",
        "| tv | 6 | 0.35 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | - |",
    ]
    assert (tmp_path / "left_out.md").read_text() == text
    assert (tmp_path / "left_out_tv.json").read_text() == evaluation("tv", 0.5)
    assert [folder for folder, step in started if step == "report"] == ["left_out_main", "left_out_tv"]


def command_line(args: SourcesArgs, out: Path, *more: str) -> list[str]:
    return [*data_flags(args), "--out", str(out), "--experiments", *CLASSES, *more]


def test_the_command_resumes(
    args: SourcesArgs, tmp_path: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cv"
    argv = command_line(args, out, "--leave-out-source", "ilc", "--jobs", "1", "--match-iou", "ilc=0.35")
    assert crossval.main(argv) == 0
    assert started == [("left_out_ilc", name) for name in ("cascade", "crops", "final_cnn", "bundle", "report")]
    assert "| ilc | 6 | 0.35 |" in capsys.readouterr().out
    record = json.loads((out / "crossval_config.json").read_text())
    assert record["leave_out"] == ["ilc"] and record["match_iou"] == ["ilc=0.35"] and record["merge"] == []
    assert [source["name"] for source in record["sources"]] == names_of(args.data)
    # What was done is not repeated; a split that a training follows stays.
    splits = out / "left_out_ilc" / "splits.csv"
    splits.write_text(splits.read_text() + "tv/none,train,99\n")
    kept = splits.read_text()
    started.clear()
    result = out / "left_out_ilc.json"
    result.unlink()
    assert crossval.main(argv) == 0
    assert started == [("left_out_ilc", "cascade")] and splits.read_text() == kept  # finetune itself checks
    assert crossval.main(argv) == 0
    assert len(started) == 1  # the source is scored
    capsys.readouterr()
    text = result.read_text()
    result.write_text("{}")
    assert crossval.main(argv) == 1
    assert f"{result}: damaged ('sources'); remove it to score this source again" in capsys.readouterr().err
    result.write_text(text)
    for more, what in ((["--seed", "1"], "seed"), (["--leave-out-source", "tv", "--match-iou"], "leave_out")):
        capsys.readouterr()
        assert crossval.main([*argv, *more]) == 1
        assert f"holds a cross-validation with another {what} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["nowhere"], "--leave-out-source nowhere: is not among the sources with faces; use main, large, ilc, tv"),
        (["empty"], "--leave-out-source empty: is not among the sources with faces"),
        (["large"], "--leave-out-source large: has the photos of main, which would be learned from; leave out main"),
        (["tv", "tv"], "--leave-out-source: name each source once"),
        (["tv", "--match-iou", "ilc=0.35"], "--match-iou 'ilc=0.35': no dataset is named 'ilc'; use tv"),
        (["tv", "--match-iou", "tv"], "--match-iou 'tv' is not of the form NAME=0.35"),
        (["tv", "--match-iou", "tv=0.05"], "0.05 must be between 0.1 and 1"),
        (["tv", "--merge", "with_mask=without_mask"], "name a source that is left out, as in NAME:A=B"),
        (["tv", "--merge", "ilc:with_mask=without_mask"], "no dataset is named 'ilc'; use tv"),
        (["tv", "--merge", "tv:with_mask"], "--merge 'with_mask' is not of the form A=B"),
        (["tv", "--merge", "tv:with_mask=bare"], "--merge: 'bare' is not one of with_mask, without_mask"),
        (["tv", "--external-data", "elsewhere"], "--external-data: is for folds"),
        (["tv", "--by-time"], "--by-time: is for folds"),
        (["tv", "--group-by", "p"], "--group-by: is for folds"),
    ],
)
def test_refusals_come_before_the_work(
    args: SourcesArgs,
    tmp_path: Path,
    started: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    more: Sequence[str],
    message: str,
) -> None:
    assert crossval.main(command_line(args, tmp_path / "cv", "--leave-out-source", *more)) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not started and list(tmp_path.iterdir()) == []


def test_a_source_must_be_left(
    args: SourcesArgs, tmp_path: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (1, 3):  # alone; with face-free photos and its twins
        given = replace(args, data=args.data[:count], sources=args.sources if count > 1 else None)
        assert crossval.main(command_line(given, tmp_path / "cv", "--leave-out-source", "main")) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.endswith("no source with faces is left to learn from; give more --data")
    assert not started and list(tmp_path.iterdir()) == []
    assert crossval.main(command_line(args, tmp_path / "cv", "--match-iou", "tv=0.35")) == 1
    assert "--match-iou, --merge: are for sources that are left out" in capsys.readouterr().err


def test_a_class_that_is_not_learned_needs_a_merge(
    args: SourcesArgs, tmp_path: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    third = write_distinct_photos(tmp_path / "data" / "third", 6, first_seed=300)
    coco = json.loads((third / "_annotations.coco.json").read_text())
    coco["categories"].append({"id": 2, "name": "visor"})
    coco["annotations"].append({"id": 99, "image_id": 0, "category_id": 2, "bbox": [40, 60, 20, 20]})
    (third / "_annotations.coco.json").write_text(json.dumps(coco))
    given = SourcesArgs(data=(third, args.data[3]))
    argv = command_line(given, tmp_path / "cv", "--leave-out-source", "third")
    assert crossval.main(argv) == 1
    error = capsys.readouterr().err
    assert "class 'visor' is not one of with_mask, without_mask" in error and "with --merge visor=NAME" in error
    assert not (tmp_path / "cv").exists() and not started
    assert crossval.main([*argv, "--merge", "third:visor=without_mask"]) == 0
