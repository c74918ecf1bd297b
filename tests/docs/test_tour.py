"""The tour: the whole course on a few synthetic photos, the page, and resuming after a kill."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from common.annotations import ReadingArgs, read_dataset
from common.errors import UserError
from docs.tour import command as tour
from docs.tour import facts as tour_facts
from docs.tour import runner as tour_runner
from docs.tour.command import main
from docs.tour.plan import ALTERNATIVES, BASELINE, TourPlan, choose_run
from docs.tour.portrait import TILES, write_portraits
from docs.tour.runner import RECORDS, StepResult, StepRunner, TourStep
from pipeline.data import split
from pipeline.data.duplicates import Duplicates
from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.inference.predictor import Predictor
from stage2_classifier.config import EXPERIMENTS
from tests.helpers.in_process import run_in_process

PHOTOS, COLUMNS, ROWS, TILE = 8, 4, 2, (128, 105)
NAME = "my photos"


def in_this_process(step: TourStep, folder: Path, log_file: Path, error_file: Path) -> int:
    """Run a step without a process, whose start takes seconds."""
    with (
        log_file.open("w") as out,
        error_file.open("w") as err,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if step.snippet:
            exec(step.snippet, {})
            return 0
        return run_in_process(step.command[0], step.command[1:])


def write_photos(root: Path) -> None:
    """Write photos of eight small portraits each, bare and with drawn masks, as COCO."""
    predictor, face = Predictor.default(), portrait()
    tiles = np.split(tiled_photo(predictor, face), len(TILES), axis=1)
    box = predictor.detect(face).boxes[0] * (TILE[0] / face.shape[1])
    names = [label for _, label in TILES]
    rows: list[dict[str, Any]] = []
    root.mkdir()
    for i in range(PHOTOS):
        kinds = [k % len(TILES) for k in range(i, i + COLUMNS * ROWS)]
        small = [cv2.resize(tiles[k], TILE, interpolation=cv2.INTER_AREA) for k in kinds]
        photo = np.concatenate([np.concatenate(small[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)])
        Image.fromarray(np.clip(photo.astype(int) + 5 * i, 0, 255).astype(np.uint8)).save(root / f"p{i}.png")
        for k, kind in enumerate(kinds):
            x, y = box[0] + TILE[0] * (k % COLUMNS), box[1] + TILE[1] * (k // COLUMNS)
            edges = [float(v) for v in (x, y, *(box[2:] - box[:2]))]
            rows.append({"id": len(rows), "image_id": i, "category_id": kind, "bbox": edges})
    coco = {
        "images": [{"id": i, "file_name": f"p{i}.png"} for i in range(PHOTOS)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": rows,
    }
    (root / "_annotations.coco.json").write_text(json.dumps(coco))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the data only; commands run in this process."""
    write_photos(tmp_path / NAME)
    monkeypatch.setattr(tour_runner, "run_step", in_this_process)
    monkeypatch.setenv("COLUMNS", "110")
    # All photos show one face, so they would be one group.
    monkeypatch.setattr(split, "near_duplicate_groups", lambda *_: Duplicates([0, 0, *range(1, PHOTOS - 1)], []))
    return tmp_path


def flags(here: Path, *more: str) -> list[str]:
    data, out, work = here / NAME, here / "docs", here / "work"
    return ["--data", str(data), "--out", str(out), "--work-dir", str(work), "--epochs", "3", *more]


@pytest.mark.slow
def test_the_whole_course(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(place)) == 0  # takes minutes, so one run serves all checks
    the_page_shows_the_commands_and_results(place)
    every_picture_is_there_and_none_is_of_the_data(place)
    the_page_names_no_folder_of_this_machine(place)
    a_second_run_repeats_nothing_and_gives_the_same_page(place, monkeypatch)
    sentences_follow_the_numbers(place, monkeypatch)
    capsys.readouterr()
    assert main([*flags(place), "--epochs", "4"]) == 1
    error = capsys.readouterr().err
    assert "work: holds a tour with another epochs" in error and "give another --work-dir" in error


def the_page_shows_the_commands_and_results(place: Path) -> None:
    page, work = (place / "docs" / "tour.md").read_text(), place / "work"
    text = " ".join(page.split())
    assert "python -m pipeline.split --data 'my photos' --out splits.csv\n" in page
    assert "8 photos with 64 faces; 0 problems" in page and "1 groups of photos that show the same, 2 photos" in page
    for record in (work / RECORDS).glob("*.json"):
        known = json.loads(record.read_text())
        command, code = known["command"], known["snippet"]
        assert (code.strip() if code else f"python -m {command[0]}") in page
    for name in (BASELINE, *ALTERNATIVES):
        f1 = json.loads((work / "runs" / name / "summary.json").read_text())["best"]["val_macro_f1"]
        assert f"| {name} | " in page and f"| {f1:.3f} |" in page
    report = json.loads((work / "reports-test" / choose_run(work) / "classification_report.json").read_text())
    assert f"**macro {report['macro_f1']:.3f}** | {report['crops']} |" in page
    errors = json.loads((work / "evaluation" / "evaluation.json").read_text())["detectors"][0]["errors"]
    assert f"Of {errors['truths']} faces {errors['correct']} are found with the right box and class." in text
    assert errors["truths"] == sum(len(image.boxes) for image in images_of(place, "test"))
    assert "not those of the portrait" not in text and "3 faces" in text.split("The truth, from left to right:")[1]
    # The default bundle was trained on another split.
    assert "(with weights that were not trained on them)" not in text


def images_of(place: Path, split: str) -> list[Any]:
    lines = (place / "work" / "splits.csv").read_text().splitlines()
    ids = {line.split(",")[0] for line in lines if f",{split}," in line}
    return [image for image in read_dataset(place / NAME).images if image.image_id in ids]


def every_picture_is_there_and_none_is_of_the_data(place: Path) -> None:
    page, docs = (place / "docs" / "tour.md").read_text(), place / "docs"
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert sorted(links) == sorted(f"tour/{file.name}" for file in (docs / "tour").iterdir())
    assert len(links) == 13
    for link in links:
        with Image.open(docs / link) as picture:
            picture.load()
            assert picture.width >= 500
    assert sum(file.stat().st_size for file in (docs / "tour").iterdir()) < 1.5e6
    # Commands do not show faces of the data, or their pictures stay in the work folder.
    assert not re.search(r"contact_|worst_|mistakes", " ".join(links))
    for record in (place / "work" / RECORDS).glob("*.json"):
        command = json.loads(record.read_text())["command"]
        if command and command[0] in ("pipeline.detect", "stage2_classifier.transforms"):
            assert any("portrait" in word for word in command)


def the_page_names_no_folder_of_this_machine(place: Path) -> None:
    page = (place / "docs" / "tour.md").read_text()
    for path in (place, Path.cwd(), Path.home(), Path(sys.executable).parent, tour_runner.PROJECT):
        assert f"{path}/" not in page
    assert "{%" not in page and not re.search(r"\{\{|\bnan\b|None(?! scores higher)", page)
    assert "\n\n\n\n" not in page


def a_second_run_repeats_nothing_and_gives_the_same_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = place / "docs" / "tour.md"
    before = page.read_text()
    page.unlink()

    def never(*_: object) -> int:
        raise AssertionError

    monkeypatch.setattr(tour_runner, "run_step", never)
    assert main(flags(place)) == 0
    assert page.read_text() == before


def sentences_follow_the_numbers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tour_facts.collect_facts
    monkeypatch.setattr(tour, "_draw", lambda *_: None)

    def page(change: Callable[[dict[str, Any]], object]) -> str:
        def facts_of(*args: Any) -> dict[str, Any]:
            facts = real(*args)
            change(facts)
            return facts

        monkeypatch.setattr(tour_facts, "collect_facts", facts_of)
        assert main([*flags(place), "--out", str(place / "other")]) == 0
        return " ".join((place / "other" / "tour.md").read_text().split())

    unequal = page(lambda facts: (facts["dataset"].update(ratio=26.4), facts["groups"].update(count=0)))
    assert "has 26 times as many faces" in unequal and "none was found in this dataset" in unequal
    assert "are very unequal" not in page(lambda facts: facts["dataset"].update(ratio=1.2))
    best = page(lambda facts: (facts.update(chosen="aug_none"), facts["runs"]["aug_none"].update(f1=9.0)))
    assert "So **aug_none** is packed" in best
    assert "So the **baseline** is packed" in page(lambda facts: facts.update(chosen=BASELINE))
    full = page(lambda facts: facts.update(epochs=30))
    assert "epochs are few" not in full and "instead of 30" not in full and "face detector is the stock one" in full
    bare = page(lambda facts: facts["runs"]["aug_none"].update(f1=9.0, gap=0.5))
    assert "without augmentation the network memorizes its crops. Its validation score is higher" in bare
    assert "Here it gains nothing." in page(lambda facts: facts["runs"]["arch_face_trunk"].update(f1=0.0))
    chosen_by = "Choosing the epoch and the experiment by validation"
    assert chosen_by in page(lambda facts: facts["test_crops"].update(macro_f1=0.0))
    assert chosen_by not in page(lambda facts: facts["test_crops"].update(macro_f1=1.0))
    one, two = ({"by_stage": {1: a, 2: 5}, "worst": None, "most_missed": None} for a in (9, 1))
    assert "more is lost in detection" in page(lambda facts: facts["test"].update(one))
    assert "more is lost in classification" in page(lambda facts: facts["test"].update(two))
    lost = {"faces": 1, "right": None, "first": ""}
    other = page(lambda facts: (facts["found"].update(lost), facts["found_default"].update(lost)))
    assert "It found 1 face; these classes are not those of the portrait" in other
    shown = {"mAP50": 0.8125, "face_AP50": 0.9375}
    assert "it has mAP50 0.812 and face AP50 0.938" in page(lambda facts: facts["bundle"].update(full_val=shown))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "{here}/nowhere"], "nowhere"),
        (["--data", "{here}/empty"], "empty"),
        (["--data", "{here}/crops"], "the tour needs the name crops itself; rename the folder"),
        (["--epochs", "2"], "--epochs 2: use 3 or more"),
        (["--work-dir", "{here}/my photos/work"], "would be read as data; give another --work-dir"),
        (["--out", "{here}/my photos"], "would be read as data; give another --out"),
        (["--out", "{here}/file"], "file: is a file; name a folder with --out"),
        (["--work-dir", "{here}/file"], "file: is a file; name a folder with --work-dir"),
        (["--work-dir", "{here}/crops"], "crops: holds other files and no tour; give another --work-dir"),
    ],
)
def test_refusals_come_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    root = tmp_path / NAME
    for folder in (root, tmp_path / "empty", tmp_path / "crops"):
        folder.mkdir()
    (tmp_path / "file").touch()
    for folder in (root, tmp_path / "crops"):
        Image.new("RGB", (60, 40)).save(folder / "p.png")
        boxes = [{"id": k, "image_id": 0, "category_id": k, "bbox": [5 + 20 * k, 5, 9, 9]} for k in range(2)]
        categories = [{"id": k, "name": name} for k, name in enumerate(("head", "helmet"))]
        coco = {"images": [{"id": 0, "file_name": "p.png"}], "categories": categories, "annotations": boxes}
        (folder / "_annotations.coco.json").write_text(json.dumps(coco))
    before = sorted(tmp_path.rglob("*"))
    assert main(flags(tmp_path, *(word.format(here=tmp_path) for word in more))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_step_is_a_process_in_the_work_folder(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"a": 1}')
    ran = StepRunner(tmp_path).run(TourStep("tidy", ("json.tool", "--compact", "in.json")))
    assert ran.printed == '{"a":1}' and ran.step.command_line == "python -m json.tool --compact in.json"


def test_finished_steps_are_not_run_again(tmp_path: Path) -> None:
    count = "from pathlib import Path; f = Path('n'); f.write_text(f.read_text() + 'x' if f.exists() else 'x')"
    step = TourStep("count", snippet=count)
    for _ in range(2):
        StepRunner(tmp_path).run(step)
    assert (tmp_path / "n").read_text() == "x"
    StepRunner(tmp_path).run(TourStep("count", snippet=f"{count}\nprint('new')"))
    assert (tmp_path / "n").read_text() == "xx"


def write(name: str, text: str = "") -> TourStep:
    return TourStep(name, snippet=f"open('{name}', 'x').write('{text}'); print('{name} {text}')", outputs=(name,))


def test_a_killed_step_starts_clean_and_later_steps_run_again(tmp_path: Path) -> None:
    def run_all(text: str) -> list[str]:
        runner = StepRunner(tmp_path)
        return [runner.run(step).printed for step in (write("first"), write("second", text), write("third"))]

    run_all("a")
    (tmp_path / RECORDS / "second.json").unlink()  # as after a kill within a write
    (tmp_path / "third").write_text("old")
    assert run_all("a") == ["first", "second a", "third"]
    assert (tmp_path / "third").read_text() == ""
    (tmp_path / "second").unlink()
    assert run_all("a")[1] == "second a" and (tmp_path / "second").read_text() == "a"


def test_a_failed_step_is_reported_in_one_line_and_not_recorded(tmp_path: Path) -> None:
    bad = TourStep("bad", snippet="import sys; print('1 of 2'); sys.exit('error: no room')", outputs=("never",))
    with pytest.raises(UserError, match=r"bad\.err: this step failed: no room$"):
        StepRunner(tmp_path).run(bad)
    assert not (tmp_path / RECORDS / "bad.json").exists()


def test_a_failure_after_the_result_was_written_is_a_warning(tmp_path: Path) -> None:
    code = "import sys; open('made', 'w'); print('done'); sys.exit('noise\\nwarning: one photo left out')"
    ran = StepRunner(tmp_path).run(TourStep("made", snippet=code, outputs=("made",)))
    assert ran.printed == "done\nwarning: one photo left out"


def test_folders_of_this_machine_are_made_relative(tmp_path: Path) -> None:
    data = tmp_path / "elsewhere" / "set"
    code = f"import os; print(os.getcwd() + '/my-bundle: 4 MB'); print({str(data)!r} + '/images/a.png')"
    (tmp_path / "work").mkdir()
    ran = StepRunner(tmp_path / "work", [(data, "set")]).run(TourStep("say", snippet=code))
    assert ran.printed == "my-bundle: 4 MB\nset/images/a.png"


def test_an_excerpt_counts_the_lines_left_out() -> None:
    ran = StepResult(TourStep("s"), "\n".join("abcdef"), 0)
    assert ran.excerpt() == "a\nb\nc\nd\ne\nf"
    assert ran.excerpt(head=1, tail=2) == "a\n... (3 more lines)\ne\nf"
    assert ran.excerpt(until="c") == "a\nb\n... (4 more lines)"
    assert ran.excerpt(head=4, tail=2) == ran.excerpt()
    assert max(map(len, StepResult(TourStep("s"), "word " * 99, 0).excerpt().splitlines())) <= tour_runner.WIDTH


def test_long_commands_are_broken_between_options() -> None:
    step = TourStep("s", ("pipeline.thing", "a b", *(part for k in range(9) for part in (f"--option-{k}", "value"))))
    first, *more = step.command_line.split(" \\\n    ")
    assert first.startswith("python -m pipeline.thing 'a b' --option-0 value")
    assert more and all(line.startswith("--option-") and line.endswith(" value") for line in more)
    assert max(map(len, (first, *more))) <= tour_runner.WIDTH
    assert TourStep("s", ("pipeline.thing",)).command_line == "python -m pipeline.thing"


def test_only_text_is_wrapped() -> None:
    words = " ".join(["word"] * 60)
    kept = f"# {words}\n\n| {words} |\n\n```text\n{words}\n\n{words}\n```\n\n![{words}](a.png)\n"
    assert tour.wrap_markdown(kept) == kept
    lines = tour.wrap_markdown(f"{words}\n{words}\n\n- {words}\n- short\n\n1. [a](#a)\n2. [b](#b)").splitlines()
    assert max(map(len, lines)) <= tour.LINE_WIDTH and lines[-3:] == ["", "1. [a](#a)", "2. [b](#b)"]
    assert [line[:2] for line in lines[lines.index("") + 1 : -3]] == ["- ", "  ", "  ", "- "]


def test_experiments_named_in_the_text_exist() -> None:
    template = (tour_runner.PROJECT / "docs" / "tour" / tour.TEMPLATE).read_text()
    table = template[template.index("| question |") :]
    patterns = re.findall(r"`([a-z0-9_]+\*?)`", table[: table.index("{{ ran(")])
    assert len(patterns) > 10
    for pattern in patterns:
        assert any(fnmatch.fnmatch(name, pattern) for name in EXPERIMENTS), pattern


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ((0.80, 0.81, 0.70, 0.78), BASELINE),  # the gain is not larger than that of another seed
        ((0.80, 0.84, 0.70, 0.78), ALTERNATIVES[0]),
        ((0.80, 0.84, 0.85, 0.82), ALTERNATIVES[1]),
        ((0.80, 0.70, 0.70, 0.90), BASELINE),  # the other seed cannot be chosen
    ],
)
def test_an_alternative_is_chosen_if_its_gain_exceeds_chance(
    tmp_path: Path, scores: tuple[float, ...], chosen: str
) -> None:
    for name, score in zip((BASELINE, *ALTERNATIVES, "seed_1"), scores, strict=True):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"best": {"val_macro_f1": score}}))
    assert choose_run(tmp_path) == chosen


def test_the_portraits_are_three_annotated_faces(tmp_path: Path) -> None:
    write_portraits(tmp_path)
    read = read_dataset(tmp_path / "portrait")
    assert not read.problems
    assert {image.image_id: image.labels for image in read.images} == {name: (label,) for name, label in TILES}
    found = Predictor.default().detect(portrait()).boxes[0]
    for image in read.images:
        assert np.abs(image.boxes[0] - found).max() <= 0.5


def test_every_file_of_a_bundle_is_explained() -> None:
    from pipeline.inference.bundle import DEFAULT

    assert {file.name for file in DEFAULT.iterdir()} - {"report.md"} == set(tour.PURPOSES)


def test_the_steps_read_the_data_as_the_tour_does() -> None:
    reading = ReadingArgs(rename=("Mask=with_mask", "bare=without_mask"), unlabelled="skip")
    steps: list[TourStep] = []
    plan = TourPlan("photos", 2, 3, reading)
    runner = SimpleNamespace(run=steps.append)
    plan.run_until_choice(runner)  # type: ignore[arg-type]
    plan.run_from_choice(runner, BASELINE)  # type: ignore[arg-type]
    with_data = [step for step in steps if "photos" in step.command]
    assert [step.name for step in with_data] == ["split", "crops", "pack", "evaluate"]
    assert all(f"--data photos {' '.join(reading.reading_flags())}" in " ".join(s.command) for s in with_data)
    assert f'read_dataset("photos", {reading})' in steps[0].snippet and "ReadingArgs" in steps[0].snippet
    default = SimpleNamespace(run=steps.append)
    steps.clear()
    TourPlan("photos", 2, 3).run_until_choice(default)  # type: ignore[arg-type]
    assert 'data = read_dataset("photos")\n' in steps[0].snippet and "ReadingArgs" not in steps[0].snippet
