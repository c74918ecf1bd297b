"""Splits: shares, whole groups, folds, the dataset's own folders; the command on small datasets."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.annotations import AnnotatedImage
from common.errors import UserError
from common.splits import read_splits
from pipeline.data.split import main
from pipeline.data.splitting import SplitRow, make_folds, make_split, split_by_folder, write_splits
from pipeline.data.stratify import stratify_groups


def images_of(faces: list[list[str]], split: str | None = None) -> list[AnnotatedImage]:
    """Return images a000, a001 and so on with faces of the given classes."""
    return [
        AnnotatedImage(
            Path(f"a{i:03d}.png"),
            f"a{i:03d}",
            (50, 50),
            np.tile(np.array([[0, 0, 9, 9]], np.float32), (len(labels), 1)),
            tuple(labels),
            split,
        )
        for i, labels in enumerate(faces)
    ]


def scene(seed: int, size: tuple[int, int] = (240, 160)) -> Image.Image:
    """Return a photo-like picture with corners: random rectangles."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), rng.integers(60, 200, 3), np.uint8)
    for _ in range(120):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        w, h = rng.integers(4, 40, 2)
        pixels[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def write_set(root: Path, photos: dict[str, Image.Image], labels: dict[str, str] | None = None) -> Path:
    """Write a Kaggle-like dataset with one face per photo, of class with_mask unless `labels` has another."""
    for folder in ("images", "annotations"):
        (root / folder).mkdir(parents=True)
    for name, photo in photos.items():
        photo.save(root / "images" / f"{name}.png")
        (root / "annotations" / f"{name}.xml").write_text(
            f"<annotation><object><name>{(labels or {}).get(name, 'with_mask')}</name><bndbox><xmin>2</xmin>"
            "<ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
        )
    return root


def test_shares_of_every_class_and_of_images() -> None:
    images = images_of([["with_mask"]] * 60 + [["without_mask"] * 2] * 20 + [["mask_weared_incorrect"]] * 20)
    rows = make_split(images, list(range(100)))
    counts = Counter((row.split, image.labels[0]) for row, image in zip(rows, images, strict=True))
    for label, total in {"with_mask": 60, "without_mask": 20, "mask_weared_incorrect": 20}.items():
        assert [counts[s, label] for s in ("train", "val", "test")] == [0.7 * total, 0.15 * total, 0.15 * total]


def test_the_rarest_class_reaches_every_split() -> None:
    images = images_of([["with_mask"] * 5] * 97 + [["mask_weared_incorrect"]] * 3)
    splits = {row.split for row in make_split(images, list(range(100)), (0.4, 0.3, 0.3))[-3:]}
    assert splits == {"train", "val", "test"}


def test_groups_stay_whole_and_the_seed_decides() -> None:
    rng = np.random.default_rng(1)
    images = images_of([["with_mask"] * int(n) for n in rng.integers(0, 6, 90)])
    groups = [int(g) for g in rng.integers(0, 40, 90)]
    rows = make_split(images, groups, seed=3)
    assert max(Counter((row.group, row.split) for row in rows).values()) > 1
    assert len({(row.group, row.split) for row in rows}) == len(set(groups))
    assert rows == make_split(images, groups, seed=3)
    assert rows != make_split(images, groups, seed=4)


def test_folds_test_and_validate_every_image_once() -> None:
    images = images_of([["with_mask"], ["without_mask"]] * 10)
    splits = make_folds(images, list(range(20)), 4)
    for of_image in zip(*splits, strict=True):
        assert Counter(row.split for row in of_image) == {"train": 2, "val": 1, "test": 1}
    for rows, following in zip(splits, splits[1:] + splits[:1], strict=True):
        assert [r.image_id for r in rows if r.split == "val"] == [r.image_id for r in following if r.split == "test"]
        tested = Counter(i.labels[0] for i, r in zip(images, rows, strict=True) if r.split == "test")
        assert max(tested.values()) - min(tested.values()) <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=30),
    st.integers(0, 5),
)
def test_every_group_has_a_part_and_no_part_is_empty(counts: list[list[int]], seed: int) -> None:
    parts = stratify_groups(np.array(counts, float), (0.7, 0.15, 0.15), seed)
    assert len(parts) == len(counts) and set(parts) == {0, 1, 2}


def test_one_huge_group_goes_to_the_largest_part() -> None:
    assert stratify_groups(np.array([[1.0], [1.0], [98.0]]), (0.15, 0.7, 0.15), 0)[2] == 1


@pytest.mark.parametrize("ratios", [(0.7, 0.2, 0.2), (1.0, 0.0, 0.0), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_bad_ratios(ratios: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="ratios"):
        make_split(images_of([["with_mask"]] * 9), list(range(9)), ratios)


def test_too_few_groups_or_folds() -> None:
    images = images_of([["with_mask"]] * 9)
    with pytest.raises(UserError, match="too few"):
        make_split(images, [0] * 5 + [1] * 4)
    with pytest.raises(UserError, match="too few"):
        make_folds(images, list(range(9)), 10)
    with pytest.raises(UserError, match="3 or more"):
        make_folds(images, list(range(9)), 2)


def test_split_by_the_datasets_own_folders() -> None:
    images = images_of([["with_mask"]] * 2, split="val")
    assert [row.split for row in split_by_folder(images, [0, 1])] == ["val", "val"]
    with pytest.raises(UserError, match=r"a000\.png.*keep-folders"):
        split_by_folder(images_of([["with_mask"]]), [0])


def test_written_splits_are_sorted_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "splits.csv"
    write_splits(path, [SplitRow("b", "test", 1), SplitRow("a", "train", 0)])
    assert path.read_text().splitlines() == ["image_id,split,group", "a,train,0", "b,test,1"]
    assert read_splits(path) == {"a": "train", "b": "test"}
    assert [p.name for p in path.parent.iterdir()] == ["splits.csv"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = {f"p{i}": scene(i) for i in range(6)}
    photos["copy"] = photos["p0"].copy()
    photos["zoom"] = photos["p0"].crop((60, 20, 200, 140)).resize((280, 240))
    data = write_set(tmp_path / "data", photos)
    (data / "images/lost.png").write_bytes((data / "images/p1.png").read_bytes())
    out = tmp_path / "splits.csv"
    assert main(["--data", str(data), "--out", str(out)]) == 0
    rows = {row["image_id"]: row for row in csv.DictReader(out.open())}
    assert len(rows) == 8
    assert len({rows[name]["group"] for name in ("p0", "copy", "zoom")}) == 1
    assert len({row["group"] for row in rows.values()}) == 6
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}
    printed = capsys.readouterr()
    assert "1 groups of photos that show the same, 3 photos" in printed.out
    assert "with_mask" in printed.out
    assert "lost.png: no annotation" in printed.err

    assert main(["--data", str(data), "--out", str(out), "--folds", "3"]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.csv")) == [
        "splits.csv",
        *(f"splits.fold{k}.csv" for k in range(3)),
    ]


def test_command_names_unreadable_photos_and_splits_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_set(tmp_path / "data", {f"p{i}": scene(i) for i in range(5)})
    cut = data / "images/p2.png"
    cut.write_bytes(cut.read_bytes()[:500])
    out = tmp_path / "splits.csv"
    assert main(["--data", str(data), "--out", str(out)]) == 1
    assert sorted(read_splits(out)) == ["p0", "p1", "p3", "p4"]
    assert "p2.png" in capsys.readouterr().err


def test_names_that_are_not_utf8_are_text_in_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_set(tmp_path / "data", {f"p{i}": scene(i) for i in range(4)})
    for file in (data / "images/p2.png", data / "annotations/p2.xml"):
        file.rename(os.fsdecode(os.fsencode(file.parent) + b"/caf\xe9" + os.fsencode(file.suffix)))
    out = tmp_path / "splits.csv"
    assert main(["--data", str(data), "--out", str(out)]) == 0
    assert sorted(read_splits(out)) == ["caf\\xe9", "p0", "p1", "p3"]
    [warning] = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: all 4 faces are of class with_mask")


def test_command_warns_of_a_photo_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, seeds in {"train": (0, 1), "valid": (0, 2), "test": (3,)}.items():
        made = write_set(tmp_path / "made" / folder, {f"{folder}{s}": scene(s) for s in seeds})
        (tmp_path / "data" / folder).mkdir(parents=True)
        for file in (*made.glob("*/*.png"), *made.glob("*/*.xml")):
            file.rename(tmp_path / "data" / folder / file.name)
    out = tmp_path / "splits.csv"
    assert main(["--data", str(tmp_path / "data"), "--out", str(out), "--keep-folders"]) == 0
    assert read_splits(out)["valid0"] == "val"
    err = capsys.readouterr().err
    assert "train0 (train), valid0 (val)" in err

    assert main(["--data", str(tmp_path / "data"), "--out", str(out)]) == 0
    assert read_splits(out)["valid0"] == read_splits(out)["train0"]
    assert "more than one split" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ratios", "0.5", "0.1", "0.1"], "sum is 1"),
        (["--folds", "9"], "too few"),
        (["--folds", "2"], "--folds 2: give 3 or more"),
        (["--folds", "3", "--keep-folders"], "exclude each other"),
        (["--seed", "-1"], "give 0 or more"),
        (["--workers", "0"], "give 1 or more"),
        (["--keep-folders"], "in no train, valid or test folder"),
    ],
)
def test_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    data = write_set(tmp_path / "data", {f"p{i}": scene(i) for i in range(4)})
    out = tmp_path / "splits.csv"
    assert main(["--data", str(data), "--out", str(out), *flags]) == 1
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not list(tmp_path.glob("*.csv"))


def coco_set(root: Path) -> Path:
    """Write photos next to one COCO file; return the folder."""
    root.mkdir()
    for i in range(4):
        scene(i).save(root / f"p{i}.png")
    images = [{"id": i, "file_name": f"p{i}.png"} for i in range(4)]
    faces = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 18, 18]} for i in range(4)]
    content = {"images": images, "annotations": faces, "categories": [{"id": 1, "name": "with_mask"}]}
    (root / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def yolo_set(root: Path) -> Path:
    """Write data.yaml whose photos are outside its folder; return the folder."""
    for folder in ("set", "images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        scene(i).save(root / f"images/p{i}.png")
        (root / f"labels/p{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "set/data.yaml").write_text(f"path: {root}\ntrain: images\nnames: [with_mask]\n")
    return root / "set"


def via_set(root: Path) -> Path:
    """Write a set of VIA whose annotations are a CSV file, as splits.csv is."""
    root.mkdir()
    shape = '"{""name"":""rect"",""x"":2,""y"":2,""width"":18,""height"":18}"'
    rows = [f'p{i}.png,1,{{}},1,0,{shape},"{{""class"":""with_mask""}}"' for i in range(4)]
    for i in range(4):
        scene(i).save(root / f"p{i}.png")
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    (root / "via.csv").write_text("\n".join([head, *rows]))
    return root


@pytest.mark.parametrize(
    ("make", "own"),
    [
        (coco_set, "_annotations.coco.json"),
        (coco_set, "p2.png"),
        (lambda root: coco_set(root) / "_annotations.coco.json", "../_annotations.coco.json"),
        (lambda root: coco_set(root) / "_annotations.coco.json", "../p2.png"),
        (lambda root: write_set(root, {f"p{i}": scene(i) for i in range(4)}), "annotations/p1.xml"),
        (yolo_set, "data.yaml"),
        (yolo_set, "../images/p1.png"),
        (yolo_set, "../labels/p1.txt"),
        (via_set, "via.csv"),
    ],
)
def test_the_datas_own_files_are_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], own: str
) -> None:
    data = make(tmp_path / "data")
    out = Path(os.path.normpath(data / own))
    before = out.read_bytes()
    (tmp_path / "link").symlink_to(out)
    for name in (out, tmp_path / "link"):
        assert main(["--data", str(data), "--out", str(name)]) == 1
        assert f"error: {name}: is one of the data's files" in capsys.readouterr().err
    assert out.read_bytes() == before and (tmp_path / "link").is_symlink()


def test_names_of_the_data_do_not_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_set(tmp_path / "data")
    controls = "\x1b[2J\x1b]0;title\x07"
    content = json.loads((data / "_annotations.coco.json").read_text())
    content["categories"][0]["name"] += controls
    for image in content["images"]:
        name = f"{Path(image['file_name']).stem}{controls}.png"
        (data / image["file_name"]).rename(data / name)
        image["file_name"] = name
    (data / "_annotations.coco.json").write_text(json.dumps(content))
    assert main(["--data", str(data), "--out", str(tmp_path / "splits\x1b[2J.csv"), "--by-time"]) == 0
    printed = capsys.readouterr()
    assert all(c.isprintable() for c in (printed.out + printed.err).replace("\n", ""))
    assert "with_mask\ufffd[2J" in printed.out and "between p1\ufffd[2J" in printed.out
    assert "all 4 faces are of class with_mask\ufffd[2J" in printed.err


def test_folds_are_not_written_over_the_datas_own_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = coco_set(tmp_path / "data")
    own = (data / "_annotations.coco.json").rename(data / "data.fold1.json")
    before = own.read_bytes()
    assert main(["--data", str(own), "--out", str(data / "data.json"), "--folds", "3"]) == 1
    assert f"error: {own}: is one of the data's files" in capsys.readouterr().err
    assert own.read_bytes() == before and not (data / "data.fold0.json").exists()


def test_a_split_in_the_datas_folder_can_be_replaced(tmp_path: Path) -> None:
    data = coco_set(tmp_path / "data")
    (data / "round").symlink_to(data, target_is_directory=True)
    for _ in range(2):
        assert main(["--data", str(data), "--out", str(data / "splits.csv")]) == 0
    assert sorted(read_splits(data / "splits.csv")) == ["p0", "p1", "p2", "p3"]


def test_command_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "no annotated dataset" in capsys.readouterr().err
