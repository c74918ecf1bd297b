from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from common.errors import UserError
from pipeline.batch.storage import LOCAL, resolve_storage


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/b"):
        system.rm("/b", recursive=True)


def test_names_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_storage("a/../b") == (LOCAL, os.path.join(os.getcwd(), "b"))  # noqa: PTH109, PTH118
    assert resolve_storage("file:///a%20b/c") == resolve_storage("file://localhost/a b/c") == (LOCAL, "/a b/c")
    storage, path = resolve_storage("s3://bucket/a/b/?region=eu-west-1")
    assert (storage.is_local, storage.is_private, path) == (False, False, "bucket/a/b")
    assert storage.name(path) == "s3://bucket/a/b" and pickle.loads(pickle.dumps(storage)) == storage
    assert resolve_storage("memory://b/c")[0].is_private


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nosuch://x", "cannot be opened (Protocol not known: nosuch); check the address"),
        ("s3://", "names no file or folder; add a path to it"),
        ("s3://a b/c", "cannot be opened (Cannot parse URI: 's3://a b/c' due to syntax error at character ' ' "
         "(position 6)); check the address"),
        ("file://host/x", "names the machine 'host'; write file:///PATH with three slashes"),
    ],
)  # fmt: skip
def test_bad_addresses(address: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve_storage(address)
    assert str(raised.value) == f"{address}: {message}"


def test_files_at_an_address(memory: Any) -> None:
    storage, path = resolve_storage("memory://b/out")
    assert storage.kind(path) == "none"
    storage.make_folder(path)
    storage.write(f"{path}/one", b"1")
    storage.write(f"{path}/one", b"2")
    memory.pipe("/b/out/x/two", b"3")
    assert storage.kind(path) == "folder" and storage.kind(f"{path}/one") == "file"
    assert [(entry.name, entry.is_folder) for entry in storage.entries(path)] == [("one", False), ("x", True)]
    assert storage.read(f"{path}/one") == b"2"
    storage.delete(f"{path}/one")
    storage.delete(f"{path}/one")
    assert storage.kind(f"{path}/one") == "none"
    with pytest.raises(OSError, match="one"):
        storage.read(f"{path}/one")


def test_files_here(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b")
    LOCAL.make_folder(path)
    LOCAL.write(f"{path}/one", b"1")
    assert LOCAL.read(f"{path}/one") == b"1" and LOCAL.kind(path) == "folder"
    assert [entry.name for entry in LOCAL.entries(path)] == ["one"]
    LOCAL.delete(f"{path}/one")
    LOCAL.delete(f"{path}/one")
    assert LOCAL.kind(f"{path}/one") == "none"


def test_a_file_is_written_as_a_whole_or_not_at_all(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, path = resolve_storage("memory://b/out")
    storage.make_folder(path)
    monkeypatch.setattr(type(memory), "mv", broken)
    with pytest.raises(OSError, match="pulled"):
        storage.write(f"{path}/part", b"1")
    assert [entry.name for entry in storage.entries(path)] == [".part.tmp"]


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the plug was pulled\nsecond line")
