"""`pipeline.check` on made datasets: the same numbers in the console, the page and the JSON; exit codes; bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.check.command import main
from tests.helpers.planted_data import FACE, Face, write_part, write_planted
from tests.pipeline.check.page_reader import read_page


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["pipeline.check"])


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    """Return a dataset without any fault: four photos, a face of each of two classes."""
    faces = [[("with_mask", FACE)], [("without_mask", FACE)]]
    return write_part(tmp_path / "good", {f"p{i}.png": (i, faces[i % 2]) for i in range(4)})


def check(data: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the content of the JSON file."""
    code = main(["--data", str(data), "--json", "check.json", *options])
    return code, json.loads(Path("check.json").read_text())


def test_each_planted_finding_is_counted(tmp_path: Path) -> None:
    code, found = check(write_planted(tmp_path / "data"))
    assert code == found["exit_code"] == 1
    assert (found["format"], found["photos"], found["faces"], found["refused_faces"]) == ("COCO", 12, 12, 3)
    assert found["photos_by_split"] == {"train": 10, "val": 1, "test": 1}
    assert [(each["name"], each["faces"], each["photos"]) for each in found["classes"]] == [
        ("with_mask", 8, 8),
        ("without_mask", 4, 4),
        ("mask_weared_incorrect", 0, 0),
    ]
    # Under 12 px, 12-24, 24-48, 48-96, 96-192, and larger.
    by_size = {each["name"]: list(each["by_shorter_side"].values()) for each in found["classes"]}
    assert by_size == {
        "with_mask": [0, 1, 5, 1, 0, 1],
        "without_mask": [1, 1, 1, 1, 0, 0],
        "mask_weared_incorrect": [0] * 6,
    }
    assert found["faces_per_photo"] == {"0": 1, "1": 10, "2": 1, "3-5": 0, "6-10": 0, "11-20": 0, "21+": 0}
    assert found["photo_sizes"]["by_longer_side"]["320-640"] == 12
    assert found["photo_sizes"]["smallest"] == found["photo_sizes"]["largest"] == [320, 240]
    assert found["problem_counts"] == {"refused": 2, "unmatched": 0, "changed": 0}
    assert [(Path(each["file"]).name, each["faces"]) for each in found["problems"]] == [
        ("_annotations.coco.json", 1),
        ("broken.jpg", 2),
    ]
    assert "annotation 10 has an empty or inverted box" in found["problems"][0]["reason"]
    assert "is truncated or broken" in found["problems"][1]["reason"]
    assert found["incomplete"] == ["refused"]
    assert (found["clipped_boxes"], found["clipped_in"]) == (1, ["edge"])
    assert {kind: [(each["photo"], each["label"]) for each in boxes] for kind, boxes in found["boxes"].items()} == {
        "two_classes": [("twice", "with_mask")],
        "twice": [],
        "huge": [("huge", "with_mask")],
        "long": [("long", "without_mask")],
        "tiny": [("tiny", "without_mask")],
    }
    assert found["near_duplicates"] == [["leak", "plain1"], ["copy", "plain0"]]  # the leak first
    assert found["near_duplicates_in_several_splits"] == 1
    assert [step["text"].split(";")[0].split(",")[0] for step in found["next_steps"]] == [
        "Correct what was refused (2 problems)",
        "The dataset's own splits share photos that show the same. Make a new split",
        "Train both stages.",
    ]
    assert not any("--keep-folders" in step["command"] for step in found["next_steps"])


def test_the_console_and_the_page_have_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = check(write_planted(tmp_path / "data"))
    out = capsys.readouterr().out
    page = read_page(Path("check.html").read_text(encoding="utf-8"))
    for text in (out, page.text):
        for line in (
            "COCO, 12 photos, 12 faces, 3 annotated faces refused",
            "annotation 10 has an empty or inverted box",
            "train/broken.jpg",
            "1 photo may show a face without a box, because an annotation was refused",
            "1 box past the edge of a photo, clipped, in 1 photo",
            "Two boxes of different classes on one face (IoU 0.5 or more): 1",
            "with_mask and without_mask, IoU 0.88",
            "Boxes over 90% of their photo: 1",
            "98% of the photo",
            "Boxes whose longer side is over 3 times the shorter: 1",
            "20.0 x 100.0 px",
            "Boxes with a side under 8 px: 1",
            "2 groups of photos that show the same, 4 photos in all",
            "1 group in more than one split",
            "Photo sizes: smallest 320x240, median 320x240, largest 320x240",
            *(step["text"] for step in found["next_steps"]),
            *(step["command"] for step in found["next_steps"]),
        ):
            assert line in text, line
    for each in found["classes"]:
        cells = [str(value) for value in (*each["by_shorter_side"].values(), each["faces"], each["photos"])]
        assert [each["name"], *cells] in page.rows
        assert any(row.split() == [each["name"], *cells] for row in out.splitlines())
    for title, key in (("faces", "faces_per_photo"), ("splits", "photos_by_split")):
        for name, count in found[key].items():
            assert [name, str(count), ""] in page.rows, title


def test_every_item_is_on_the_page_and_the_first_ones_in_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = [("with_mask", FACE), ("without_mask", (10, 10, -5, 5))]
    code, found = check(write_part(tmp_path / "data", {f"p{i}.png": (i, faces) for i in range(8)}))
    assert code == 1 and found["refused_faces"] == 8 and len(found["incomplete"]) == 8
    out = capsys.readouterr().out
    page = read_page(Path("check.html").read_text(encoding="utf-8"))
    assert "refused, 8 times, 8 faces lost: image …: annotation N has an empty or inverted box (…); left out:" in out
    assert out.count("inverted box (10, 10, 5, 15)") == 5 and "  and 3 more\n" in out
    assert sum("inverted box (10, 10, 5, 15)" in row[-1] for row in page.rows) == 8


def test_a_dataset_without_a_fault(two_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(two_classes)
    assert code == found["exit_code"] == 0 and found["near_duplicates"] == []
    out, err = capsys.readouterr()
    assert "No annotation was refused." in out and "No photos show the same." in out and "wrote check.html" in out
    assert err == ""
    assert "No box is conspicuous." in read_page(Path("check.html").read_text(encoding="utf-8")).text


def test_two_runs_write_the_same_page(two_classes: Path) -> None:
    pages = []
    for seed in ("0", "0"):
        main(["--data", str(two_classes), "--seed", seed])
        pages.append(Path("check.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_datasets_own_split_is_kept(tmp_path: Path) -> None:
    faces = [("with_mask", FACE), ("without_mask", (150, 60, 40, 50))]
    for number, part in enumerate(("train", "valid", "test")):
        write_part(tmp_path / "data" / part, {f"{part}.png": (number, faces)})
    code, found = check(tmp_path / "data")
    assert code == 0
    split, train = (step["command"] for step in found["next_steps"])
    assert split == f"python -m pipeline.split --data {tmp_path / 'data'} --out splits.csv --keep-folders"
    assert train == f"python -m pipeline.train_all --data {tmp_path / 'data'} --splits splits.csv --out my-bundle"


def test_the_next_command_runs(two_classes: Path) -> None:
    from pipeline.data.split import main as split

    _, found = check(two_classes)
    command = found["next_steps"][0]["command"].split()
    assert command[:3] == ["python", "-m", "pipeline.split"]
    assert split(command[3:]) == 0 and Path("splits.csv").is_file()


def test_class_names_that_cannot_be_folders_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["facemask check"])
    data = write_part(tmp_path / "data", {"a.png": (1, [("mask/no", FACE)]), "b.png": (2, [("Mask", FACE)])})
    _, found = check(data)
    steps = found["next_steps"]
    assert "'mask/no' cannot be a folder's name" in steps[1]["text"]
    renames = "--rename Mask=with_mask mask/no=mask_no"
    assert [step["command"] for step in steps[1:]] == [
        f"facemask check --data {data} {renames}",
        f"facemask split --data {data} --out splits.csv {renames}",
        f"facemask train-all --data {data} --splits splits.csv --out my-bundle {renames}",
    ]
    _, renamed = check(data, *renames.split())
    assert {each["name"] for each in renamed["classes"] if each["faces"]} == {"with_mask", "mask_no"}


def test_class_names_that_should_be_one_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["facemask check"])
    photos = {"a.png": (1, [("Mask", FACE)]), "b.png": (2, [("mask", FACE)]), "c.png": (3, [("no-mask", FACE)])}
    data = write_part(tmp_path / "two words", photos)
    _, found = check(data)
    assert any("differ only in case" in note for note in found["notes"])
    renames = "--rename Mask=with_mask mask=with_mask no-mask=without_mask"
    assert found["next_steps"][0]["command"] == f"facemask check --data '{data}' {renames}"
    assert found["next_steps"][1]["command"] == f"facemask split --data '{data}' --out splits.csv {renames}"
    _, renamed = check(data, *renames.split())
    assert [(each["name"], each["faces"]) for each in renamed["classes"]] == [
        ("with_mask", 2),
        ("without_mask", 1),
        ("mask_weared_incorrect", 0),
    ]
    assert renamed["next_steps"][0]["command"] == f"facemask split --data '{data}' --out splits.csv {renames}"


def test_a_class_name_that_cannot_be_typed(tmp_path: Path) -> None:
    photos = {f"{i}.png": (i, [(name, FACE)]) for i, name in enumerate(("b=c", "B=c", "-d", "-D"))}
    code, found = check(write_part(tmp_path / "data", photos), "--skip-duplicates")
    assert code == 0 and not any("--rename" in step["command"] for step in found["next_steps"])
    read_page(Path("check.html").read_text(encoding="utf-8"))


def test_photos_without_a_label_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    data = tmp_path / "data"
    photos = write_part(data / "images", {f"p{i}.png": (i, []) for i in range(8)})
    (photos / "_annotations.coco.json").unlink()
    (data / "labels").mkdir()
    for i in range(2):
        (data / "labels" / f"p{i}.txt").write_text(f"{i} 0.5 0.5 0.25 0.5\n")
    (data / "data.yaml").write_text("train: images\nnames: [with_mask, without_mask]\n")
    code, found = check(data)
    assert code == 0 and found["unlabelled"] == [f"p{i}" for i in range(2, 8)] and found["photos"] == 8
    assert found["faces_per_photo"]["0"] == 6
    out = capsys.readouterr().out
    assert "6 photos without a label file, taken as face-free; --unlabelled skip leaves them out:" in out
    assert "  p6\n" in out and "  p7\n" not in out and "  and 1 more\n" in out
    page = read_page(Path("check.html").read_text(encoding="utf-8"))
    assert all(f"p{i}" in page.items for i in range(2, 8))


def test_one_class_only_is_noted(tmp_path: Path) -> None:
    _, found = check(write_part(tmp_path / "data", {"a.png": (1, [("with_mask", FACE)])}))
    assert "'with_mask' is the only class; stage 2 needs two classes or more" in found["notes"]


def test_where_the_page_is_written(two_classes: Path) -> None:
    for out, file in (("page.html", "page.html"), ("new/folder", "new/folder/check.html"), (".", "check.html")):
        assert main(["--data", str(two_classes), "--out", out, "--skip-duplicates"]) == 0
        assert Path(file).is_file()


def test_without_a_page_and_without_duplicates(two_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(two_classes, "--no-page", "--skip-duplicates")
    assert code == 0 and found["near_duplicates"] is None and found["near_duplicates_in_several_splits"] is None
    assert "Near-duplicates were not looked for." in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["check.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "splits.csv"], "splits.csv: is not the name of a page; give a name that ends in .html, or a folder"),
        (["--out", "a.html", "--no-page"], "--out and --no-page exclude each other; give one of them"),
        (["--json", "numbers.txt"], "--json numbers.txt: give a name that ends in .json"),
        (["--json", "DATA/x.json"], "would be read as data; give another --json"),
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--rename", "Mask"], "--rename 'Mask': is not OLD=NEW"),
    ],
)
def test_wrong_options_are_one_line(
    two_classes: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option.replace("DATA", str(two_classes)) for option in options]
    assert main(["--data", str(two_classes), *options]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_dataset_that_cannot_be_read_lists_all_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_part(tmp_path / "data", {f"p{i}.png": (i, [("with_mask", (10, 10, -5, 5))]) for i in range(9)})
    assert main(["--data", str(data), "--json", "check.json"]) == 1
    out, err = capsys.readouterr()
    *problems, error = err.splitlines()
    assert out == "" and len(problems) == 9 and all(line.startswith("warning: ") for line in problems)
    assert error.startswith(f"error: {data}: no image has a face; 9 problems")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("with_face_free", [False, True])
def test_no_photo_with_a_face_can_be_decoded(
    tmp_path: Path, with_face_free: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    face_free: dict[str, tuple[int, list[Face]]] = {"b.png": (2, [])} if with_face_free else {}
    data = write_part(tmp_path / "data", {"a.jpg": (1, [("with_mask", FACE)]), **face_free})
    (data / "a.jpg").write_bytes((data / "a.jpg").read_bytes()[:2000])
    assert main(["--data", str(data)]) == 1
    problem, error = capsys.readouterr().err.splitlines()
    assert problem.startswith(f"warning: {data}/a.jpg: is truncated or broken")
    what = "no photo that can be read has a face" if with_face_free else "none of its 1 photos can be read"
    assert error == f"error: {data}: {what}; give other --data"
    assert list(Path().iterdir()) == []


def test_a_missing_dataset_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "nothing"]) == 1
    assert capsys.readouterr().err == "error: nothing: not found; give the folder of an annotated dataset\n"


def test_without_the_training_packages(
    two_classes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("jinja2", "imagehash", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "pipeline.check.page", raising=False)
    code, found = check(two_classes)
    out, err = capsys.readouterr()
    assert code == 0 and found["photos"] == 4 and found["near_duplicates"] is None and "4 photos, 4 faces" in out
    install = "in the project's folder, run `make install`, or `pip install '.[train]'` in an environment of your own"
    assert err.splitlines() == [
        f"warning: no page is written: this needs the package 'jinja2'; {install}",
        f"warning: near-duplicates are not looked for: this needs the package 'imagehash'; {install}",
    ]
    assert [path.name for path in Path().iterdir()] == ["check.json"]
    assert main(["--data", str(two_classes), "--out", "page.html"]) == 1  # asked for: an error, before the work
    assert capsys.readouterr().err == f"error: this needs the package 'jinja2'; {install}\n"
