"""The crop manifest: exact when read again, refused by name when damaged, never a mix of two sets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from stage2_classifier.data import crop_manifest
from stage2_classifier.data.crop_manifest import BACKGROUND, CropRecord, CropSet, read_crop_set, write_crop_set

HEADER = "path,label,split,image_id,x1,y1,x2,y2\n"
WITH_LANDMARKS = HEADER.replace("y2", "y2,landmarks")
NEGATIVES = (CropRecord("rejects/train/z.png", BACKGROUND, "train", "photo, one", (7.0, 8.0, 9.5, 20.0)),)


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    # An edge as float32 boxes have it: six digits would not restore it.
    edge = float(np.float32(1234.5678))
    rows = (
        CropRecord("train/a/x.png", "a", "train", "photo, one", (0.0, 1.5, edge, 20.0)),
        CropRecord("test/b/y.png", "b", "test", "train/ä", (3.0, 4.0, 5.0, 6.0)),
    )
    crops = CropSet(tmp_path, rows, ("b", "a"), 0.2)
    write_crop_set(crops)
    return crops


def test_a_set_is_read_as_written(crops: CropSet) -> None:
    assert read_crop_set(crops.root) == crops
    assert [record.path for record in crops.split("test")] == ["test/b/y.png"]
    assert {file.name for file in crops.root.iterdir()} == {"crops.csv", "crops.json"}


def test_hard_negatives_and_landmarks_are_read_as_written(crops: CropSet) -> None:
    seen = replace(crops.records[0], landmarks=tuple(float(v) / 4 for v in range(10)))
    given = replace(crops, records=(seen, crops.records[1]), hard_negatives=NEGATIVES)
    write_crop_set(given)
    assert read_crop_set(crops.root) == given
    assert {file.name for file in crops.root.iterdir()} == {"crops.csv", "crops.json", "rejects.csv"}
    assert [r.path for r in given.split("train")] == [seen.path]  # without the hard negatives


def test_an_old_table_of_hard_negatives_is_removed(crops: CropSet) -> None:
    write_crop_set(replace(crops, hard_negatives=NEGATIVES))
    write_crop_set(crops)
    assert not (crops.root / "rejects.csv").exists()
    assert read_crop_set(crops.root).hard_negatives == ()


def test_a_hard_negative_with_another_label_is_refused(crops: CropSet) -> None:
    write_crop_set(replace(crops, hard_negatives=(*NEGATIVES, replace(NEGATIVES[0], label="a"))))
    with pytest.raises(UserError, match=rf"rejects\.csv: holds another label than {BACKGROUND}; build"):
        read_crop_set(crops.root)


def test_a_hard_negative_among_the_faces_is_refused(crops: CropSet) -> None:
    write_crop_set(replace(crops, records=(*crops.records, *NEGATIVES)))
    with pytest.raises(UserError, match=rf"crops\.csv: labels \['{BACKGROUND}'\] are not among the classes"):
        read_crop_set(crops.root)


def test_a_damaged_table_of_hard_negatives_is_named(crops: CropSet) -> None:
    (crops.root / "rejects.csv").write_text(HEADER + f"x.png,{BACKGROUND},train,p,0,0,5\n")
    with pytest.raises(UserError) as raised:
        read_crop_set(crops.root)
    place = f"{crops.root / 'rejects.csv'}, line 2"
    assert str(raised.value) == f"{place}: a box edge or landmark is not a number; build the crops again"


def test_an_old_table_without_landmarks_is_read(crops: CropSet) -> None:
    (crops.root / "crops.csv").write_text(HEADER + "x.png,a,train,p,0,0,5,5\n")
    assert read_crop_set(crops.root).records == (CropRecord("x.png", "a", "train", "p", (0, 0, 5, 5)),)


def test_a_split_without_crops_is_refused(crops: CropSet) -> None:
    with pytest.raises(UserError, match=r"crops\.csv: no crops in split 'val'"):
        crops.split("val")


@pytest.mark.parametrize("name", ["crops.csv", "crops.json"])
def test_a_missing_file_says_what_to_run(crops: CropSet, name: str) -> None:
    (crops.root / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: not found; make it with `python -m pipeline\.build_crops"):
        read_crop_set(crops.root)


COLUMNS_LACK = ": needs the columns path, label, split, image_id, x1, y1, x2, y2"
NOT_A_NUMBER = "a box edge or landmark is not a number"
LANDMARKS = ", line 2: crop x.png: landmarks must be ten numbers or empty"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", COLUMNS_LACK),
        ("path,label\nx.png,a\n", COLUMNS_LACK),
        (HEADER + "x.png,a,train,p,0,0,5\n", f", line 2: {NOT_A_NUMBER}"),
        (HEADER + "x.png,a,train,p,0,0,5,5\n\ny.png,a,train,p,0,0,5,wide\n", f", line 4: {NOT_A_NUMBER}"),
        (
            HEADER + "x.png,a,train,p,0,0,nan,5\n",
            ", line 2: crop x.png: box (0.0, 0.0, nan, 5.0) is empty or not a number",
        ),
        (WITH_LANDMARKS + "x.png,a,train,p,0,0,5,5,1 2 3\n", LANDMARKS),
        (WITH_LANDMARKS + f"x.png,a,train,p,0,0,5,5,{'nan ' * 10}\n", LANDMARKS),
        (WITH_LANDMARKS + "x.png,a,train,p,0,0,5,5,here\n", f", line 2: {NOT_A_NUMBER}"),
        (
            HEADER + "x.png,a,train,p,5,0,5,5\n",
            ", line 2: crop x.png: box (5.0, 0.0, 5.0, 5.0) is empty or not a number",
        ),
        (
            HEADER + "w.png,a,train,p,0,0,5,5\nx.png,a,valid,p,0,0,5,5\n",
            ", line 3: crop x.png: split 'valid' is unknown; use train, val, test",
        ),
        (HEADER + "x.png,,train,p,0,0,5,5\n", ", line 2: crop x.png: the label is empty"),
        (HEADER + "x.png,c,train,p,0,0,5,5\n", ": labels ['c'] are not among the classes of {meta}"),
        (HEADER + "x\udcff.png,a,train,p,0,0,5,5\n", ": not CSV text (...)"),  # "..." stands for Python's words
    ],
)
def test_a_damaged_table_is_named(crops: CropSet, text: str, what: str) -> None:
    table = crops.root / "crops.csv"
    table.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError) as raised:
        read_crop_set(crops.root)
    line = re.escape(f"{table}{what.format(meta=crops.root / 'crops.json')}; build the crops again")
    assert re.fullmatch(line.replace(re.escape("..."), ".+"), str(raised.value))


@pytest.mark.parametrize("meta", ["", "[]", '{"margin": 0.2}', '{"class_names": ["a"], "margin": "wide"}'])
def test_damaged_metadata_is_named(crops: CropSet, meta: str) -> None:
    (crops.root / "crops.json").write_text(meta)
    with pytest.raises(UserError, match=r"crops\.json: malformed .* build the crops again"):
        read_crop_set(crops.root)


def test_a_killed_writer_leaves_no_mix_of_two_sets(crops: CropSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = crop_manifest.write_text

    def killed(path: Path, text: str) -> None:
        write_text(path, text)
        raise KeyboardInterrupt

    write_crop_set(replace(crops, hard_negatives=NEGATIVES))
    monkeypatch.setattr(crop_manifest, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        write_crop_set(replace(crops, margin=0.5))
    assert json.loads((crops.root / "crops.json").read_text())["margin"] == 0.5
    assert not (crops.root / "rejects.csv").exists()
    with pytest.raises(UserError, match=r"crops\.csv: not found"):
        read_crop_set(crops.root)
