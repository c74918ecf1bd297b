"""splits.csv is read, or refused with the file, the line and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.splits import missing_line, read_splits


def save(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "splits.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_other_columns_and_their_order_are_ignored(tmp_path: Path) -> None:
    file = save(tmp_path, 'group,split,image_id\n1,train,"a,b"\n1,val,train/c\n2,test,ä\n')
    assert read_splits(file) == {"a,b": "train", "train/c": "val", "ä": "test"}


def test_a_file_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    assert read_splits(save(tmp_path, "image_id,split\r\na,val\r\n", "utf-8-sig")) == {"a": "val"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the columns image_id and split"),
        ("image,split\na,train\n", "needs the columns image_id and split"),
        ("image_id,split\na,train\nb,valid\n", "line 3: split 'valid' is not in train, val, test"),
        ("image_id,split\na\n", "line 2: split None is not in"),
        ("image_id,split\n\n\na,trian\n", "line 4: split 'trian' is not in"),
        ("split,image_id\ntrain\n", "line 2: has no image_id"),
        ("image_id,split\na,train\na,test\n", "line 3: image 'a' is listed twice"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_splits(save(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/splits.csv")


def test_a_missing_file_and_a_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"splits\.csv: not found; make it with `python -m pipeline\.split"):
        read_splits(tmp_path / "splits.csv")
    (tmp_path / "splits.csv").write_bytes(b"image_id,split\n\xff\xfe,train\n")
    with pytest.raises(UserError, match=r"is not CSV text .* make it again"):
        read_splits(tmp_path / "splits.csv")


def test_photos_that_the_data_lacks_are_counted_and_named() -> None:
    splits = {"a": "train", "b": "val", "c": "test"}
    assert missing_line(Path("splits.csv"), splits, {"a", "b", "c", "d"}) is None
    line = missing_line(Path("splits.csv"), splits, {"b"})
    assert line == "warning: splits.csv: 2 of its 3 photos are not in the data, or refused: a, c"
