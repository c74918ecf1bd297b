from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from common.errors import UserError
from pipeline.batch.storage import LOCAL, Storage, find_place


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/b"):
        system.rm("/b", recursive=True)


def test_names_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_place("a/../b") == (LOCAL, os.path.join(os.getcwd(), "b"))  # noqa: PTH109, PTH118
    assert find_place("file:///a%20b/c") == find_place("file://localhost/a b/c") == (LOCAL, "/a b/c")
    place, path = find_place("s3://bucket/a/b/?region=eu-west-1")
    assert (place.is_local, place.is_private, path) == (False, False, "bucket/a/b")
    assert place.name(path) == "s3://bucket/a/b" and pickle.loads(pickle.dumps(place)) == place
    assert find_place("memory://b/c")[0].is_private


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nosuch://x", "cannot be opened (Protocol not known: nosuch); check the address"),
        ("s3://", "names no file or folder; write a path behind it"),
        ("s3://a b/c", "cannot be opened (Cannot parse URI: 's3://a b/c' due to syntax error at character ' ' "
         "(position 6)); check the address"),
        ("file://host/x", "names the machine 'host'; write file:///PATH with three slashes"),
    ],
)  # fmt: skip
def test_bad_addresses(address: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        find_place(address)
    assert str(raised.value) == f"{address}: {says}"


def test_files_at_an_address(memory: Any) -> None:
    place, path = find_place("memory://b/out")
    assert place.kind(path) == "none"
    place.make_folder(path)
    place.write(f"{path}/one", b"1")
    place.write(f"{path}/one", b"2")
    memory.pipe("/b/out/x/two", b"3")
    assert place.kind(path) == "folder" and place.kind(f"{path}/one") == "file"
    assert [(entry.name, entry.is_folder) for entry in place.entries(path)] == [("one", False), ("x", True)]
    assert place.read(f"{path}/one") == b"2"
    place.delete(f"{path}/one")
    place.delete(f"{path}/one")
    assert place.kind(f"{path}/one") == "none"
    with pytest.raises(OSError, match="one"):
        place.read(f"{path}/one")


def test_files_here(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b")
    LOCAL.make_folder(path)
    LOCAL.write(f"{path}/one", b"1")
    assert LOCAL.read(f"{path}/one") == b"1" and LOCAL.kind(path) == "folder"
    assert [entry.name for entry in LOCAL.entries(path)] == ["one"]
    LOCAL.delete(f"{path}/one")
    LOCAL.delete(f"{path}/one")
    assert LOCAL.kind(f"{path}/one") == "none"


def test_a_file_is_whole_or_not_there(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, path = find_place("memory://b/out")
    place.make_folder(path)
    monkeypatch.setattr(type(memory), "mv", broken)
    with pytest.raises(OSError, match="pulled"):
        place.write(f"{path}/part", b"1")
    assert [entry.name for entry in place.entries(path)] == [".part.tmp"]


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the plug was pulled\nsecond line")


def test_a_place_is_made_anew_from_its_address() -> None:
    assert Storage("memory://b")._fs is Storage("memory://b")._fs
