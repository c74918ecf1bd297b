"""Trainings of the whole pipeline on several sources: what each step reads, splits, records, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tyro

from common.errors import UserError
from common.sources import SourcesArgs
from common.splits import read_splits
from pipeline.data import build_crops
from pipeline.evaluate.scoring.args import EvaluateArgs
from pipeline.training import crossval, train_all
from pipeline.training.packing import command as pack_command
from pipeline.training.packing import pack
from pipeline.training.packing.pack import FitPhotos, read_fit_photos
from pipeline.training.plan import TrainingPlan
from pipeline.training.steps import TrainingStep
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.training import finetune
from stage1_faces.training.photos import read_photos
from tests.helpers.commands import write_distinct_photos
from tests.helpers.several_sources import data_flags, write_sources

TRUST = "other: {edges: offset, share: 0.4}\nempty: {face_free: true}\n"
GIVEN = {"p0": "train", "p1": "train", "p2": "val", "p3": "val", "p4": "test", "p5": "test"}
# "other" has the six photos of "main", and two of its own: copies of photos that are held out are not learned from.
LEARNED = ["empty/e", "other/p0", "other/p1", "other/p6", "other/p7"]


@pytest.fixture
def args(tmp_path: Path) -> SourcesArgs:
    """Write main, other and empty, sources.yaml, and splits.csv of the main data."""
    main, other = write_distinct_photos(tmp_path / "main", 6), write_distinct_photos(tmp_path / "other", 8)
    (tmp_path / "empty").mkdir()
    cv2.imwrite(str(tmp_path / "empty" / "e.png"), np.random.default_rng(9).integers(0, 255, (96, 128, 3), np.uint8))
    (tmp_path / "sources.yaml").write_text(TRUST)
    lines = [f"{name},{part}" for name, part in GIVEN.items()]
    (tmp_path / "splits.csv").write_text("\n".join(["image_id,split", *lines, ""]))
    return SourcesArgs(data=(main, other, tmp_path / "empty"), sources=tmp_path / "sources.yaml")


def train_all_flags(args: SourcesArgs, *more: str) -> list[str]:
    here = args.main_data.parent
    places = ["--splits", str(here / "splits.csv"), "--out", str(here / "made"), "--work-dir", str(here / "work")]
    return [*data_flags(args), *places, *more]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainingStep]:
    """Return the steps that would be started; nothing is trained, so that the command fails at its end."""
    steps: list[TrainingStep] = []

    def parallel(
        works: Iterable[tuple[Path, Sequence[TrainingStep]]],
        jobs: int,
        log: object,
        finished: Callable[[Path], None] = lambda _: None,
    ) -> None:
        for folder, some in works:
            folder.mkdir(exist_ok=True)
            steps.extend(some)
        for folder, _ in works:
            finished(folder)

    for module in (train_all, crossval):
        monkeypatch.setattr(module, "run_parallel", parallel)
    monkeypatch.setattr(train_all, "run_steps", lambda folder, some, log: steps.extend(some))
    return steps


def check_reading(steps: Sequence[TrainingStep], args: SourcesArgs) -> None:
    """Assert that each step that learns from photos, or fits on them, reads all sources."""
    programs = {"cascade": finetune.FinetuneArgs, "crops": build_crops.BuildCropsArgs, "bundle": pack_command.PackArgs}
    for step in steps:
        parsed = tyro.cli(programs[step.name], args=list(step.command[1:]))
        assert parsed.data == args.data and parsed.sources == args.sources


def test_a_training_reads_all_sources_and_tests_the_main_one(
    args: SourcesArgs, started: list[TrainingStep], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_all.main(train_all_flags(args, "--experiments", "final_cnn")) == 1
    work = args.main_data.parent / "work"
    reading = [step for step in started if "--data" in step.command]
    assert [step.name for step in reading] == ["cascade", "crops", "cascade", "crops", "bundle", "bundle", "report"]
    check_reading(reading[:6], args)
    # The report has one section: the main data is scored as it was before there were sources.
    report = tyro.cli(EvaluateArgs, args=list(reading[-1].command[1:]))
    assert (report.data, report.sources, report.by_source) == ((args.main_data,), None, False)
    # Copies of photos for validation and test are left out of the first training, and only of it.
    parts = read_splits(work / "splits.csv")
    assert {name: part for name, part in parts.items() if "/" not in name} == GIVEN
    assert sorted(name for name, part in parts.items() if "/" in name and part == "train") == LEARNED
    every = read_splits(work / "splits.all.csv")
    assert set(every.values()) == {"train"}
    assert sorted(every) == sorted([*GIVEN, "empty/e", *(f"other/p{i}" for i in range(8))])
    said = capsys.readouterr().out
    assert "other: 4 photos for training; 4 photos left out, because a val or test photo shows the same" in said
    record = json.loads((work / "train_all.json").read_text())
    assert [(s["name"], s["edges"], s["share"], s["face_free"]) for s in record["sources"]] == [
        ("main", "same", None, False), ("other", "offset", 0.4, False), ("empty", "same", None, True)
    ]  # fmt: skip


def test_a_split_with_its_further_rows_is_taken_as_it_is(args: SourcesArgs, started: list[TrainingStep]) -> None:
    splits = args.main_data.parent / "splits.csv"
    splits.write_text(splits.read_text() + "".join(f"{name},train\n" for name in LEARNED))
    assert train_all.main(train_all_flags(args)) == 1
    work = args.main_data.parent / "work"
    assert (work / "splits.csv").read_bytes() == splits.read_bytes()  # bundles record its sha256
    # Rows that were wrong are made again: a copy of a test photo was among them.
    splits.write_text(splits.read_text() + "other/p5,train\n")
    assert train_all.main([*train_all_flags(args), "--work-dir", str(work.parent / "again")]) == 1
    made = read_splits(work.parent / "again" / "splits.csv")
    assert sorted(n for n in made if "/" in n) == LEARNED
    # As many rows as are right, with another part.
    lines = ["image_id,split", *(f"{name},{'val' if '/' in name else part}" for name, part in made.items())]
    splits.write_text("\n".join([*lines, ""]))
    assert train_all.main([*train_all_flags(args), "--work-dir", str(work.parent / "third")]) == 1
    assert read_splits(work.parent / "third" / "splits.csv") == made


def test_a_name_of_the_file_of_sources_is_the_reports_too(args: SourcesArgs, started: list[TrainingStep]) -> None:
    assert args.sources is not None
    rename = "rename: [with_mask=covered]"
    args.sources.write_text(f"main: {{{rename}}}\n" + TRUST.replace("edges: offset", f"edges: offset, {rename}"))
    assert train_all.main(train_all_flags(args)) == 1
    report = tyro.cli(EvaluateArgs, args=list(started[-1].command[1:]))
    assert report.rename == ("with_mask=covered",)


def test_other_trust_is_another_training(
    args: SourcesArgs, started: list[TrainingStep], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_all.main(train_all_flags(args)) == 1
    assert args.sources is not None
    args.sources.write_text(TRUST.replace("offset", "none"))
    capsys.readouterr()
    assert train_all.main(train_all_flags(args)) == 1
    assert "work: holds a training with another sources" in capsys.readouterr().err
    args.sources.write_text(TRUST)
    shutil.rmtree(args.data[1])
    write_distinct_photos(args.data[1], 7)
    assert train_all.main(train_all_flags(args)) == 1
    assert "work: holds a training with another data" in capsys.readouterr().err


def refused_cases(args: SourcesArgs) -> list[tuple[list[str], str]]:
    """Return flags after --data, and what the refusal says."""
    main, other, empty = map(str, args.data)
    trust = ["--sources", str(args.sources)]
    return [
        ([empty, main, other, *trust], "the first --data is split and tested, and needs faces"),
        ([main, main], "two folders are named 'main'; rename one, or give it once"),
        ([main, other, "--sources", f"{args.sources}x"], "sources.yamlx: does not exist; check --sources"),
        ([main, f"{other}x"], "otherx"),
    ]


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("command", [train_all, crossval])
def test_sources_that_cannot_be_used_are_refused_before_the_work(
    args: SourcesArgs, started: list[TrainingStep], capsys: pytest.CaptureFixture[str], command: object, case: int
) -> None:
    given, message = refused_cases(args)[case]
    here = args.main_data.parent
    before = sorted(here.rglob("*"))
    places = ["--out", str(here / "made")]
    if command is train_all:
        places += ["--work-dir", str(here / "work")]
    assert command.main(["--data", *given, *places]) == 1  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not started and sorted(here.rglob("*")) == before


@pytest.mark.parametrize("command", [train_all, crossval])
def test_results_are_not_written_among_further_data(
    args: SourcesArgs, started: list[TrainingStep], capsys: pytest.CaptureFixture[str], command: object
) -> None:
    inner = args.data[1] / "inner"
    assert command.main([*data_flags(args), "--out", str(inner)]) == 1  # type: ignore[attr-defined]
    assert "would be read as data; give another --out" in capsys.readouterr().err
    assert not inner.exists() and not started


def test_folds_read_all_sources_and_test_the_main_one(
    args: SourcesArgs, started: list[TrainingStep], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(plan: TrainingPlan, images: Sequence[object], external: object, face_free: Mapping[str, Path]) -> None:
        assert len(images) == 6  # those of the main data are scored
        assert list(face_free) == ["empty/e"]
        raise UserError("no further")

    monkeypatch.setattr(crossval, "score_fold", stop)
    out = args.main_data.parent / "cv"
    argv = [*data_flags(args), "--out", str(out), "--folds", "3", "--experiments", "final_cnn"]
    assert crossval.main(argv) == 1
    assert "no further" in capsys.readouterr().err
    check_reading([step for step in started if step.name != "final_cnn"], args)
    assert len(started) == 3 * 4
    for k in range(3):
        parts = read_splits(out / f"splits.fold{k}.csv")
        own = {name: part for name, part in parts.items() if "/" not in name}
        assert len(own) == 6 and set(own.values()) == {"train", "val", "test"}
        learned = [f"other/{name}" for name, part in own.items() if part == "train"] + ["other/p6", "other/p7"]
        further = {name: part for name, part in parts.items() if "/" in name}
        empty = ["empty/e"] * (k > 0)  # its false alarms are counted in the first fold
        assert sorted(further) == sorted([*learned, *empty]) and set(further.values()) == {"train"}
    record = json.loads((out / "crossval_config.json").read_text())
    assert [source["name"] for source in record["sources"]] == ["main", "other", "empty"]
    # One photo fewer to learn from is another cross-validation, although the folds are the same.
    shutil.rmtree(args.data[1])
    write_distinct_photos(args.data[1], 7)
    assert crossval.main(argv) == 1
    assert "holds a cross-validation with another further_data" in capsys.readouterr().err


def test_one_dataset_has_the_record_that_it_had(args: SourcesArgs, started: list[TrainingStep]) -> None:
    alone = SourcesArgs(data=args.data[:1])
    assert train_all.main(train_all_flags(alone)) == 1
    here = args.main_data.parent
    assert "sources" not in json.loads((here / "work" / "train_all.json").read_text())
    assert (here / "work" / "splits.csv").read_bytes() == (here / "splits.csv").read_bytes()
    assert not any("--sources" in step.command for step in started)


class TestWhatACascadeLearnedFrom:
    """The warning of pipeline.pack that a cascade learned from other photos than the split's."""

    @pytest.fixture
    def several(self, tmp_path: Path) -> tuple[SourcesArgs, Path]:
        return write_sources(tmp_path / "drawn")

    @pytest.fixture
    def warned(
        self, several: tuple[SourcesArgs, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> object:
        facts = {"recipe": {}, "data": read_photos(*several).fingerprint, "sources": {"main": {}, "other": {}}}
        monkeypatch.setattr(pack, "load_net", lambda *_: None)
        monkeypatch.setattr(pack, "ExportWrapper", lambda _: None)
        monkeypatch.setattr(pack, "export_cascade", lambda *_: {})

        def export(photos: FitPhotos, **changed: object) -> bool:
            monkeypatch.setattr(pack, "run_facts", lambda _: {**facts, **changed})
            capsys.readouterr()
            pack._export_cascade(CascadeConfig(), Path("run"), photos)
            error = capsys.readouterr().err
            assert error == "" or error.startswith("warning: run: was trained on other photos than the split's")
            return bool(error)

        return export

    def test_all_sources_are_compared(self, several: tuple[SourcesArgs, Path], warned: object) -> None:
        args, splits = several
        photos = read_fit_photos(args.data, splits, sources=args.sources)
        # Settings are fitted on the main data alone.
        assert [image.image_id for image in (*photos.train, *photos.val)] == ["p0", "p1", "p2"]
        assert not warned(photos)  # type: ignore[operator]
        assert warned(photos, data="0" * 64)  # type: ignore[operator]
        assert warned(replace(photos, further=photos.further[:-1]))  # type: ignore[operator]
        splits.write_text(splits.read_text().replace("empty/e1,train\n", ""))
        assert warned(read_fit_photos(args.data, splits, sources=args.sources))  # type: ignore[operator]

    def test_the_main_data_alone_is_not_compared_with_several(
        self, several: tuple[SourcesArgs, Path], warned: object
    ) -> None:
        args, splits = several
        photos = read_fit_photos(args.main_data, splits)
        assert photos.further == () and not warned(photos)  # type: ignore[operator]

    def test_sources_need_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        argv = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "b"), "--sources", "sources.yaml"]
        assert pack_command.main(argv) == 1
        assert capsys.readouterr().err == "error: --sources: needs --data, whose annotations it is about; give both\n"
