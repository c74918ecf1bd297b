"""From a folder of photos to a bundle: refusals before the work, photos left out, and the whole training once."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from common.splits import read_splits
from pipeline.inference.bundle import DEFAULT, Bundle
from pipeline.inference.predictor import Predictor
from pipeline.inference.provenance import recorded_sources
from pipeline.training import plan as plan_module
from pipeline.training import steps, train_all
from pipeline.training.plan import TrainingPlan
from pipeline.training.steps import TrainingStep
from pipeline.training.train_all import main
from tests.helpers.commands import write_data, write_distinct_photos
from tests.helpers.in_process import run_in_process
from tests.helpers.training.quick_finetune import make_quick

CLASSES = ("head", "helmet")
SPLIT_OF_PHOTO = ("train",) * 6 + ("val",) * 2 + ("test",) * 2
QUICKEST = {"pnet-steps": 2, "rnet-steps": 2, "onet-steps": 2, "epoch-steps": 2, "passes": 1}
QUICKEST |= {"pnet-batch": 4, "rnet-batch": 8, "onet-batch": 8}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write ten photos of noise, each with a bright face per class, as COCO, and splits.csv in tmp_path."""
    return write_data(tmp_path / "my data", CLASSES, SPLIT_OF_PHOTO)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the processes: return the (folder, step) started, and make the results that later steps need."""
    names: list[tuple[str, str]] = []

    def run_steps(folder: Path, some: Iterable[TrainingStep], log: Callable[[str], None], stop: object = None) -> None:
        for step in some:
            if step.result is not None and step.result.exists():
                continue
            names.append((folder.name, step.name))
            if step.name == "bundle":
                shutil.copytree(DEFAULT, step.result.parent)  # type: ignore[union-attr]
            elif step.name == "report":
                report(step.result.parent)  # type: ignore[union-attr]
            elif step.result is not None:
                step.result.parent.mkdir(parents=True)
                step.result.touch()
            log(f"{folder.name}: {step.name} done in 0 s")

    monkeypatch.setattr(steps, "run_steps", run_steps)
    monkeypatch.setattr(train_all, "run_steps", run_steps)
    return names


def report(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "evaluation.md").write_text("# Evaluation\n")
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    keys = ("mAP50", "mAP50-95", "AP50/head", "mAP50, one label", "AP50/head, one label", "face_AP50")
    ours = {"class_names": CLASSES, "intervals": dict.fromkeys(keys, interval)}
    (folder / "evaluation.json").write_text(json.dumps({"photos": 2, "detectors": [ours]}))


def flags(data: Path, *more: str, splits: bool = True) -> list[str]:
    here = data.parent
    given = ["--data", str(data), "--out", str(here / "made"), "--work-dir", str(here / "work")]
    return [*given, *(["--splits", str(here / "splits.csv")] if splits else []), *more]


def test_the_order_of_the_steps_and_the_results(
    data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, "--jobs", "1")) == 0
    pairs = (("cascade", "crops"), ("last_stage_lite0", "final_trunk"), ("bundle",))
    learned = [(folder, step) for some in pairs for folder in ("part", "all") for step in some]
    assert started == [*learned, ("work", "report")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "split: train 6 photos, 12 faces; val 2 photos, 4 faces; test 2 photos, 4 faces"
    assert lines[1] == "part: cascade done in 0 s"
    figures = [f"{name} 0.500 [0.250, 0.750]" for name in ("mAP50", "mAP50-95", "AP50 head", "mAP50, one label")]
    assert lines[-6:-1] == ["2 test photos, by weights learned from the training photos:", *figures]
    made, work = data.parent / "made", data.parent / "work"
    assert Bundle.load(made).meta == Bundle.load(DEFAULT).meta
    text = (made / "report.md").read_text()
    assert text.startswith("This bundle's weights were learned from all photos.") and text.endswith("# Evaluation\n")
    assert (work / "splits.csv").read_bytes() == (data.parent / "splits.csv").read_bytes()
    assert set(read_splits(work / "splits.all.csv").values()) == {"train"}
    assert len(read_splits(work / "splits.all.csv")) == len(SPLIT_OF_PHOTO)

    # Again: steps with a result are not repeated; the bundle is replaced.
    started.clear()
    assert main(flags(data, "--jobs", "1")) == 0
    assert started == [("part", "cascade"), ("all", "cascade")]  # finetune itself checks whether it is finished
    assert capsys.readouterr().out.startswith(f"{work}: resumed\n")


def test_without_all_photos_half_the_work(data: Path, started: list[tuple[str, str]]) -> None:
    assert main(flags(data, "--no-all-photos", "--experiments", "final_cnn")) == 0
    assert [step for _, step in started] == ["cascade", "crops", "final_cnn", "bundle", "report"]
    assert (data.parent / "made" / "report.md").read_text() == "# Evaluation\n"


def test_unusable_photos_are_reported_and_left_out(
    data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "p1.png").write_bytes((data / "p1.png").read_bytes()[:2000])
    (data / "p2.png").unlink()
    splits = data.parent / "splits.csv"
    splits.write_text(splits.read_text().replace("p3,train\n", ""))
    assert main(flags(data)) == 0
    said, refused = capsys.readouterr()
    assert "p2.png" in refused.splitlines()[0] and "p1.png" in said.splitlines()[0]
    assert said.splitlines()[0].endswith("; left out")
    assert f"warning: {splits}: left out 2 photos that are missing or unusable: p1, p2" in said
    assert f"warning: {splits}: lacks 1 photos of the data, which are left out: p3" in said
    assert list(read_splits(data.parent / "work" / "splits.csv")) == ["p0", *(f"p{i}" for i in range(4, 10))]
    started.clear()
    assert main(flags(data)) == 0  # reported once
    assert "warning" not in capsys.readouterr().out


def test_a_split_is_made_where_none_is_given(
    data: Path, started: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FakeDuplicates:
        groups = (0, 0, 1, 2, 3, 4, 5, 6, 7, 8)

    monkeypatch.setattr(train_all, "near_duplicate_groups", lambda photos: FakeDuplicates)
    assert main(flags(data, splits=False)) == 0
    sides = read_splits(data.parent / "work" / "splits.csv")
    assert len(sides) == len(SPLIT_OF_PHOTO) and set(sides.values()) == {"train", "val", "test"}
    assert sides["p0"] == sides["p1"]
    assert "1 groups of photos that show the same, 2 photos in them, are kept together" in capsys.readouterr().out


def test_frames_of_one_camera_need_a_given_split(
    data: Path, started: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FakeDuplicates:
        groups = (0,) * len(SPLIT_OF_PHOTO)

    monkeypatch.setattr(train_all, "near_duplicate_groups", lambda photos: FakeDuplicates)
    assert main(flags(data, splits=False)) == 1
    error = capsys.readouterr().err
    assert "10 photos make 1 group of different ones, too few for 3 parts; run `python -m pipeline.split" in error
    assert error.endswith("then give --splits splits.csv\n") and not started
    assert main(flags(data)) == 0  # in the same --work-dir
    assert started[-1] == ("work", "report")


def test_splits_without_faces(data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    file = data / "_annotations.coco.json"
    coco = json.loads(file.read_text())
    coco["annotations"] = [r for r in coco["annotations"] if r["image_id"] not in (8, 9) or r["category_id"]]
    file.write_text(json.dumps(coco))
    assert main(flags(data)) == 0
    assert "warning: split test has no face of class head" in capsys.readouterr().out
    coco["annotations"] = [r for r in coco["annotations"] if r["image_id"] not in (8, 9)]
    file.write_text(json.dumps(coco))
    started.clear()
    other = data.parent / "other"
    assert main([*flags(data), "--work-dir", str(other)]) == 1
    assert "splits.csv: split 'test' has no face in its 2 photos; use other --splits" in capsys.readouterr().err
    assert not started
    (data.parent / "splits.csv").write_text("image_id,split\np0,train\np1,val\np2,test\n")
    assert main([*flags(data), "--work-dir", str(other)]) == 0  # no work was started there


def test_a_folder_of_another_training_is_refused(
    data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, "--quick")) == 0
    assert capsys.readouterr().out.startswith("--quick: a few steps of each training")
    # A full training does not use the quick training's results.
    started.clear()
    for more, what in (
        ((), "quick"),
        (("--quick", "--seed", "1"), "seed"),
        (("--quick", "--experiments", "final_cnn"), "experiments"),
    ):
        assert main(flags(data, *more)) == 1
        error = capsys.readouterr().err
        assert f"work: holds a training with another {what} " in error and "give another --work-dir" in error
    shutil.copy(data / "p0.png", data / "p1.png")
    assert main(flags(data, "--quick")) == 0  # same annotations
    file = data / "_annotations.coco.json"
    file.write_text(file.read_text().replace("[10, 20,", "[11, 20,", 1))
    assert main(flags(data, "--quick")) == 1
    assert "work: holds a training with another data" in capsys.readouterr().err
    assert started == [("part", "cascade"), ("all", "cascade")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", "0"], "--jobs 0: use 1 or more"),
        (["--workers", "-1"], "--workers -1: use a number from 0 to 256"),
        (["--seed", "-1"], "--seed -1: use 0 or more"),
        (["--experiments"], "--experiments: name at least one"),
        (["--experiments", "final_cnn", "final_cnn"], "and each once"),
        (["--experiments", "final"], "experiment: 'final' is unknown; did you mean"),
        (["--out", "{here}/splits.csv"], "splits.csv: is a file"),
        (["--out", "{here}/my data"], "exists and is not a bundle"),
        (["--out", "{here}/work"], "is reserved for files in --work-dir"),
        (["--out", "{work}/part/bundle"], "is reserved for files in --work-dir"),
        (["--work-dir", "{here}/my data/work"], "would be read as data; give another --work-dir"),
        (["--out", "{here}/my data/made"], "would be read as data; give another --out"),
        (["--work-dir", "{here}/photos"], "photos: holds other files"),
        (["--splits", "{here}/nowhere.csv"], "nowhere.csv"),
    ],
)
def test_refusals_come_before_the_work(
    data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str], more: Sequence[str], message: str
) -> None:
    (data.parent / "photos").mkdir()
    (data.parent / "photos" / "me.jpg").touch()
    before = sorted(data.parent.rglob("*"))
    assert main(flags(data, *(word.format(here=data.parent, work=data.parent / "work") for word in more))) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not started and sorted(data.parent.rglob("*")) == before


def test_data_that_is_not_there(data: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(data.parent / "nowhere")) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error and error.startswith("error: ") and error.count("\n") == 1
    assert not started


def test_a_failed_step_is_reported_with_its_log(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        TrainingPlan,
        "detector_steps",
        lambda self: [TrainingStep("cascade", ("json.tool", str(self.folder / "nothing")))],
    )
    assert main(flags(data, "--jobs", "1")) == 1
    error, work = capsys.readouterr().err, data.parent / "work"
    assert error.startswith(f"error: {work / 'part' / 'cascade.log'}: this step failed: ")
    assert "No such file" in error and error.count("\n") == 1
    assert not (work / "all" / "cascade.log").exists() and not (data.parent / "made").exists()


def in_this_process(command: Sequence[str], log_file: Path, stop: object) -> int:
    """Run a command without a process, whose start takes seconds."""
    with log_file.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return run_in_process(command[0], command[1:])


@pytest.mark.slow
def test_the_whole_training(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_quick(monkeypatch.setattr)
    monkeypatch.setattr(steps, "run_module", in_this_process)
    # Even fewer steps than --quick has.
    monkeypatch.setattr(plan_module, "QUICK_STEPS", QUICKEST)
    monkeypatch.setattr(plan_module, "QUICK_RATES", {})
    assert main(flags(data, "--quick", "--experiments", "final_cnn", "--no-all-photos")) == 0
    # The classes are not the experiments', and stage 1 has no false alarms in these photos.
    assert "part: final_cnn: trains on faces alone (--hard-negatives 0 --no-box-head)" in capsys.readouterr().out
    made, work = Bundle.load(data.parent / "made"), data.parent / "work"
    assert made.meta.class_names == CLASSES
    assert made.meta.provenance["note"] == plan_module.QUICK_NOTE
    assert made.meta.provenance["stage1"]["recipe"]["pnet_steps"] == QUICKEST["pnet-steps"]
    assert recorded_sources(made.meta.provenance) == (data.name,)
    assert made.meta.metrics["val"]["photos"] == 2
    text = (made.path / "report.md").read_text()
    assert text == (work / "report" / "evaluation.md").read_text() and "split test: 2 photos with 4 faces" in text
    assert Predictor(made).detect(np.zeros((60, 80, 3), np.uint8)).class_names == CLASSES


@pytest.mark.slow
def test_the_whole_training_on_several_sources(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch.setattr)
    monkeypatch.setattr(steps, "run_module", in_this_process)
    monkeypatch.setattr(plan_module, "QUICK_STEPS", QUICKEST)
    monkeypatch.setattr(plan_module, "QUICK_RATES", {})
    here = data.parent
    other = write_distinct_photos(here / "other", 4, first_seed=100)
    data = data.rename(here / "main")
    trust = "rename: [with_mask=head, without_mask=helmet], edges: offset, background: false, share: 0.3"
    (here / "sources.yaml").write_text(f"other: {{{trust}}}\n")
    argv = flags(data, "--quick", "--experiments", "final_cnn", "--no-all-photos", "--jobs", "1")
    argv[2:2] = [str(other)]
    assert main([*argv, "--sources", str(here / "sources.yaml")]) == 0
    made = Bundle.load(here / "made")
    assert made.meta.metrics["val"]["photos"] == 2  # of the main data
    learned = made.meta.provenance["stage1"]["sources"]
    assert {name: (facts["photos"], facts["edges"]) for name, facts in learned.items()} == {
        "main": (6, "same"), "other": (4, "offset")
    }  # fmt: skip
    assert learned["other"]["class_counts"] and not learned["other"]["background"]
    crops = made.meta.provenance["stage2"]["sources"]
    assert {name: crops[name]["faces"] for name in crops} == {name: learned[name]["faces"] for name in learned}
    assert recorded_sources(made.meta.provenance) == ("main", "other")
    assert "| other | 4 | " in (made.path / "report.md").read_text()
    assert "other photos" not in (here / "work" / "part" / "bundle.log").read_text()
    assert "split test: 2 photos with 4 faces" in (made.path / "report.md").read_text()


def test_errors_of_later_steps_are_found_before_the_work(
    data: Path, tmp_path: Path, started: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--data", str(data), "--work-dir", str(tmp_path / "w"), "--out", str(tmp_path / "b")]
    strange = tmp_path / "strange.csv"
    strange.write_bytes(b"image_id,split\np\xff,train\n")
    assert main([*argv, "--splits", str(strange)]) == 1
    assert "is not CSV text" in capsys.readouterr().err
    file = data / "_annotations.coco.json"
    file.write_text(file.read_text().replace('"helmet"', '"no/helmet"'))
    assert main(argv) == 1
    assert "class 'no/helmet' cannot be a folder's name" in capsys.readouterr().err
    assert not started and not (tmp_path / "w").exists()
