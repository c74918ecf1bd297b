"""Ways to split photos that all show the same, parts without faces or classes, and what always holds of a split."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common.annotations import AnnotatedImage
from common.errors import UserError
from common.splits import SPLITS, read_splits
from pipeline.data.build_crops import main as build_crops
from pipeline.data.split import main
from pipeline.data.split_checks import small_parts
from pipeline.data.splitting import SplitRow, TooFewGroupsError, make_folds, make_split, split_by_time
from pipeline.training.train_all import main as train_all

CASES = Path(__file__).resolve().parents[3].parent / "shared/cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases are not at {CASES}")
WITH, WITHOUT, WRONG = "with_mask", "without_mask", "mask_weared_incorrect"
FOLDERS = {"train": "train", "valid": "val", "test": "test"}


def scene(seed: int) -> Image.Image:
    """Return a photo-like picture with corners: random rectangles."""
    rng = np.random.default_rng(seed)
    pixels = np.full((160, 240, 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(120):
        x, y, w, h = (int(v) for v in rng.integers((0, 0, 4, 4), (240, 160, 40, 40)))
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def write_set(root: Path, photos: dict[str, Image.Image], labels: dict[str, Sequence[str]]) -> Path:
    """Write photos as NAME.png next to one COCO file per folder; a photo has a face of each of its labels."""
    classes = [WITH, WITHOUT, WRONG]
    for folder in {Path(name).parent for name in photos}:
        names = [name for name in photos if Path(name).parent == folder]
        images = [{"id": i, "file_name": f"{Path(name).name}.png"} for i, name in enumerate(names)]
        faces = [(i, classes.index(label)) for i, name in enumerate(names) for label in labels.get(name, [])]
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            photos[name].save(root / f"{name}.png")
        content = {
            "images": images,
            "annotations": [
                {"id": k, "image_id": i, "category_id": label, "bbox": [20 + 60 * label, 20, 40, 40]}
                for k, (i, label) in enumerate(faces)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        }
        (root / folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def camera(root: Path, names: Sequence[str], labels: dict[str, Sequence[str]] | None = None) -> Path:
    """Write frames of one camera: the same picture but for a small square. Each has both classes unless told."""
    photos = {}
    for i, name in enumerate(names):
        photos[name] = scene(0)
        photos[name].paste((i, 255 - i, 0), (5 + i, 5, 15 + i, 15))
    return write_set(root, photos, labels or {name: [WITH, WITHOUT] for name in names})


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of splits.csv by image id."""
    with file.open(newline="") as f:
        return {row["image_id"]: row for row in csv.DictReader(f)}


def images_of(faces: Sequence[Sequence[str]]) -> list[AnnotatedImage]:
    """Return images with faces of the given classes; their files do not exist."""
    boxes = [np.tile(np.array([[0, 0, 9, 9]], np.float32), (len(labels), 1)) for labels in faces]
    return [
        AnnotatedImage(Path(f"a{i}.png"), f"a{i}", (50, 50), boxes[i], tuple(labels)) for i, labels in enumerate(faces)
    ]


FRAMES = [f"f{i}" for i in range(12)]


def test_frames_of_one_camera_end_with_the_ways_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = camera(tmp_path / "my data", FRAMES), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 12 photos make 1 group of different ones, too few for 3 parts; ")
    assert error.count("\n") == 1 and not out.exists()
    assert all(f"{way} (" in error for way in ("--by-time", "--group-by REGEX", "--keep-folders"))

    assert main(["--data", str(data), "--out", str(out), "--folds", "4"]) == 1
    error = capsys.readouterr().err
    assert "too few for 4 parts; use --group-by REGEX (" in error and "or --by-time (" in error
    assert "--keep-folders" not in error and not list(tmp_path.glob("*.csv"))

    command = f"run `python -m pipeline.split --data '{data}' --out "
    assert build_crops(["--data", str(data), "--out", str(tmp_path / "crops"), "--splits", str(out)]) == 1
    error = capsys.readouterr().err
    assert f"{command}{out}` with --by-time (" in error and f"then give --splits {out}\n" in error
    assert not (tmp_path / "crops").exists()

    work = ["--work-dir", str(tmp_path / "work"), "--out", str(tmp_path / "bundle")]
    assert train_all(["--data", str(data), *work]) == 1
    error = capsys.readouterr().err
    assert f"{command}splits.csv` with --by-time (" in error and "then give --splits splits.csv\n" in error


def test_the_way_out_leads_to_crops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = camera(tmp_path / "data", FRAMES), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out), "--by-time"]) == 0
    assert build_crops(["--data", str(data), "--out", str(tmp_path / "crops"), "--splits", str(out)]) == 0
    assert len(list((tmp_path / "crops").glob("*/*/*.png"))) == 2 * len(FRAMES)


def test_a_cut_in_order_of_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = camera(tmp_path / "data", FRAMES), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out), "--by-time", "--ratios", "0.5", "0.25", "0.25"]) == 0
    splits = read_splits(out)
    assert [splits[name] for name in FRAMES] == ["train"] * 6 + ["val"] * 3 + ["test"] * 3  # f9 before f10
    printed = capsys.readouterr()
    assert "cut in order of name between f5 and f6; f8 and f9" in printed.out
    assert "warning: --by-time: photos next to a cut show nearly the same" in printed.err
    assert "warning: 1 groups of photos that show the same are in more than one split, e.g. f0 (train)" in printed.err
    assert "for a clean split" not in printed.err  # there is none
    assert {row["group"] for row in rows_of(out).values()} == {"0"}

    assert main(["--data", str(data), "--out", str(out), "--by-time", "--folds", "4"]) == 0
    for k in range(4):
        splits = read_splits(tmp_path / f"s.fold{k}.csv")
        assert [name for name in FRAMES if splits[name] == "test"] == FRAMES[3 * k : 3 * k + 3]
        assert Counter(splits.values()) == {"train": 6, "val": 3, "test": 3}


def test_groups_by_a_part_of_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [f"cam{c}_{i}" for c in range(4) for i in range(3)]
    data, out = camera(tmp_path / "data", frames), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out), "--group-by", r"(cam\d)_"]) == 0
    rows = rows_of(out)
    assert all(rows[name]["group"] == name[3] for name in frames)
    assert len({(row["group"], row["split"]) for row in rows.values()}) == 4
    assert {row["split"] for row in rows.values()} == set(SPLITS)
    printed = capsys.readouterr()
    assert "--group-by makes 4 groups: 'cam0' (3), 'cam1' (3), 'cam2' (3), ..." in printed.out
    assert "warning: 1 groups of photos that show the same are in more than one split" in printed.err

    assert main(["--data", str(data), "--out", str(out), "--group-by", r"cam\d", "--folds", "4"]) == 0
    tested = [
        name for k in range(4) for name, part in read_splits(tmp_path / f"s.fold{k}.csv").items() if part == "test"
    ]
    assert sorted(tested) == sorted(frames)
    capsys.readouterr()
    assert main(["--data", str(data), "--out", str(out), "--group-by", "cam"]) == 1
    error = capsys.readouterr().err
    assert "12 photos make 1 group of different ones, too few for 3 parts; use another --group-by or --by-time" in error


def test_keep_folders_of_one_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [f"{folder}/f{i}{folder}" for folder in FOLDERS for i in range(2)]
    data, out = camera(tmp_path / "data", frames), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out), "--keep-folders"]) == 0
    assert all(split == FOLDERS[name[2:]] for name, split in read_splits(out).items())
    err = capsys.readouterr().err
    assert "1 groups of photos that show the same are in more than one split" in err
    assert "Remove --keep-folders" not in err  # the photos make no other split

    (data / "test").rename(tmp_path / "test")
    assert main(["--data", str(data), "--out", str(out), "--keep-folders"]) == 0
    assert "warning: no photos for test: the data has no folder for it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--by-time", "--keep-folders"], "--by-time and --keep-folders exclude each other"),
        (["--by-time", "--group-by", "f"], "--by-time and --group-by exclude each other"),
        (["--group-by", "f", "--keep-folders"], "--group-by and --keep-folders exclude each other"),
        (["--by-time", "--ratios", "1", "1", "1"], "sum is 1"),
        (["--by-time", "--folds", "2"], "--folds 2: give 3 or more"),
        (["--by-time", "--folds", "5"], "4 photos are too few for 5 parts"),
        (["--group-by", "(f"], "--group-by '(f': is not a regular expression"),
        (
            ["--group-by", "f[01]"],
            "--group-by 'f[01]': is not in the names of 2 of 4 photos, e.g. f2, f3; use a pattern",
        ),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    data = camera(tmp_path / "data", FRAMES[:4])
    assert main(["--data", str(data), "--out", str(tmp_path / "s.csv"), *flags]) == 1
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not list(tmp_path.glob("*.csv"))


def test_a_part_without_a_face_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = camera(tmp_path / "data", FRAMES, {"f0": [WITH], "f1": [WITHOUT]}), tmp_path / "s.csv"
    assert main(["--data", str(data), "--out", str(out), "--by-time"]) == 1
    error = capsys.readouterr().err
    counts = "train 8 photos with 2 faces, val 2 photos with 0 faces, test 2 photos with 0 faces"
    assert f"error: no face in part val ({counts}); annotate more photos, or leave out --by-time\n" == error
    assert not out.exists()

    frames = [f"{folder}/f{i}{folder}" for folder in FOLDERS for i in range(2)]
    folders = camera(tmp_path / "folders", frames, {"train/f0train": [WITH], "valid/f1valid": [WITHOUT]})
    assert main(["--data", str(folders), "--out", str(out), "--keep-folders"]) == 1
    error = capsys.readouterr().err
    assert "no face in part test (train 2 photos with 1 faces, val 2 photos with 1 faces, test 2 photos" in error
    assert "leave out --keep-folders" in error and not out.exists()


def test_groups_without_faces_are_not_enough() -> None:
    images = images_of([[WITH], [WITHOUT], [WITH], *[[]] * 7])
    with pytest.raises(TooFewGroupsError, match=r"10 photos make 9 groups of different ones, 2 with faces, too few"):
        make_split(images, [0, 1, 1, *range(2, 9)])
    with pytest.raises(UserError, match=r"9 groups of different ones, 2 with faces, .*; use more photos with faces"):
        make_split([*images[:2], *images[3:]], list(range(9)))
    with pytest.raises(UserError, match="none of the 9 photos has an annotated face; give photos with faces"):
        make_split(images_of([[]] * 9), list(range(9)))


@pytest.mark.parametrize("seed", range(5))
def test_few_faces_reach_every_part(seed: int) -> None:
    images = images_of([[WITH]] * 3 + [[]] * 97)
    rows = make_split(images, list(range(100)), seed=seed)
    assert {row.split for row in rows[:3]} == set(SPLITS)


def test_warnings_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = {f"p{i}": scene(i) for i in range(6)}
    labels: dict[str, Sequence[str]] = {name: [WITH] for name in photos}
    out = ["--out", str(tmp_path / "s.csv")]
    assert main(["--data", str(write_set(tmp_path / "one", photos, labels)), *out]) == 0
    err = capsys.readouterr().err
    assert err == (
        "warning: all 6 faces are of class with_mask: a classifier cannot be learned from one class, "
        "the face detector can\n"
    )
    labels["p3"] = [WITHOUT]
    assert main(["--data", str(write_set(tmp_path / "two", photos, labels)), *out]) == 0
    lines = capsys.readouterr().err.splitlines()
    lacking = [split for split in SPLITS if split != read_splits(tmp_path / "s.csv")["p3"]]
    assert [line.split(" has ")[0] for line in lines] == [f"warning: part {split}" for split in lacking]
    assert all("has no face of class without_mask (1 of without_mask in all)" in line for line in lines)


def test_a_large_group_is_pointed_out() -> None:
    splits = ["train"] * 98 + ["val", "test"]
    [warning] = small_parts(splits, [0] * 98 + [1, 2], (0.7, 0.15, 0.15), "--by-time")
    assert warning == (
        "part val has 1 photos instead of 15, part test has 1 photos instead of 15: the largest group has 98 of 100 "
        "photos; for other parts use --by-time"
    )
    assert small_parts(["train"] * 3 + ["val", "test"], range(5), (0.7, 0.15, 0.15), "") == []


FACES = st.lists(st.lists(st.sampled_from((WITH, WITHOUT, WRONG)), max_size=3), min_size=3, max_size=30)


@settings(max_examples=60, deadline=None)
@given(FACES, st.data(), st.integers(0, 3))
def test_each_image_is_in_one_part_and_no_group_is_divided(
    faces: list[list[str]], data: st.DataObject, seed: int
) -> None:
    images = images_of(faces)
    groups = data.draw(st.lists(st.integers(0, 12), min_size=len(images), max_size=len(images)))
    folds = data.draw(st.integers(3, 5))
    holders = {group for group, labels in zip(groups, faces, strict=True) if labels}
    for parts, made in (
        (3, lambda: [make_split(images, groups, seed=seed)]),
        (folds, lambda: make_folds(images, groups, folds, seed)),
    ):
        if len(holders) < parts:
            with pytest.raises(UserError):
                made()
            continue
        for rows in made():
            check_rows(images, rows)
            assert len({(row.group, row.split) for row in rows}) == len(set(groups))
            assert {row.split for row, labels in zip(rows, faces, strict=True) if labels} == set(SPLITS)


@settings(max_examples=60, deadline=None)
@given(FACES, st.one_of(st.none(), st.integers(3, 5)))
def test_each_image_is_in_one_part_by_time(faces: list[list[str]], folds: int | None) -> None:
    images = images_of(faces)
    if len(images) < (folds or 3):
        return
    for rows in split_by_time(images, [0] * len(images), folds=folds)[0]:
        check_rows(images, rows)


def check_rows(images: Sequence[AnnotatedImage], rows: Sequence[SplitRow]) -> None:
    assert [row.image_id for row in rows] == [image.image_id for image in images]
    assert {row.split for row in rows} == set(SPLITS)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_photos_share_a_part(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    photos = {f"p{i}": scene(100 * seed + i) for i in range(8)}
    mirrored = [name for name in photos if rng.random() < 0.6]
    photos |= {f"{name}_flip": ImageOps.mirror(photos[name]) for name in mirrored}
    data = write_set(tmp_path / "data", photos, {name: [WITH, WITHOUT] for name in photos})
    assert main(["--data", str(data), "--out", str(tmp_path / "s.csv"), "--seed", str(seed), "--workers", "1"]) == 0
    rows = rows_of(tmp_path / "s.csv")
    assert rows.keys() == photos.keys()
    assert all(rows[name]["split"] == rows[f"{name}_flip"]["split"] for name in mirrored)
    assert len({row["group"] for row in rows.values()}) == 8


@needs_cases
def test_case_leak_flips(tmp_path: Path) -> None:
    assert main(["--data", str(CASES / "leak_flips"), "--out", str(tmp_path / "s.csv")]) == 0
    parts = defaultdict(set)
    for name, split in read_splits(tmp_path / "s.csv").items():
        parts[name.split("_")[0]].add(split)
    assert len(parts) == 12 and all(len(splits) == 1 for splits in parts.values())


@pytest.mark.slow
@needs_cases
def test_case_fixed_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = str(CASES / "fixed_camera"), tmp_path / "s.csv"
    assert main(["--data", data, "--out", str(out)]) == 1
    assert "24 photos make 1 group of different ones, too few for 3 parts" in capsys.readouterr().err
    for way in (["--by-time"], ["--group-by", "f0(..)"]):
        assert main(["--data", data, "--out", str(out), *way]) == 0
        assert len(read_splits(out)) == 24
        crops = tmp_path / way[0]
        assert build_crops(["--data", data, "--out", str(crops), "--splits", str(out)]) == 0
        assert len(list(crops.glob("*/*/*.png"))) == 24
