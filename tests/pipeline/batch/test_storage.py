from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from common.errors import UserError
from pipeline.batch.storage import LOCAL, resolve_storage, split_tail, without_secrets


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


@pytest.mark.parametrize(
    ("address", "path", "name"),
    [
        # The path has no host.
        ("ftp://u:p@10.0.0.1:2121/cam/", "/cam", "ftp://10.0.0.1:2121/cam/1.jpg"),
        ("ftp://10.0.0.2/cam", "/cam", "ftp://10.0.0.2/cam/1.jpg"),
        ("ftp://cam/cam", "/cam", "ftp://cam/cam/1.jpg"),  # a host with the name of a folder
        ("sftp://u:p@h/a%20b", "/a%20b", "sftp://h/a%20b/1.jpg"),
        ("hdfs://u@h:8020/a", "/a", "hdfs://h:8020/a/1.jpg"),
        ("hdfs:///a", "/a", "hdfs:///a/1.jpg"),
        ("github://me:photos@main/a", "a", "github://me:photos@main/a/1.jpg"),
        ("http://u:p@h:80/a@b/", "http://u:p@h:80/a@b", "http://h:80/a@b/1.jpg"),
        ("http://h:80/a@b/", "http://h:80/a@b", "http://h:80/a@b/1.jpg"),
        # The path begins with the bucket or container.
        ("s3://KEY:hush@b/a%20b?region=r", "b/a b", "s3://b/a b/1.jpg"),
        ("gs://anonymous@b/b", "b/b", "gs://b/b/1.jpg"),
        ("hf://datasets/u/d", "datasets/u/d", "hf://datasets/u/d/1.jpg"),
        ("s3://b/a?scheme=http&endpoint_override=h:9000&region=r", "b/a",
         "s3://b/a/1.jpg?endpoint_override=h:9000&scheme=http"),
        ("s3://b/a?endpoint_override=http://u:p@h&other=x", "b/a", "s3://b/a/1.jpg?endpoint_override=http://h"),
        ("gs://b/a?endpoint_override=h:1", "b/a", "gs://b/a/1.jpg?endpoint_override=h:1"),
        ("abfss://c:hush@acct.dfs.core.windows.net/a", "c/a", "abfss://c@acct.dfs.core.windows.net/a/1.jpg"),
        ("abfs://acct.blob.core.windows.net/c/a?sig=hush", "c/a", "abfs://acct.blob.core.windows.net/c/a/1.jpg"),
        ("abfs://acct:hush@c/a", "c/a", "abfs://acct@c/a/1.jpg"),
        # An archive at an address.
        ("zip://a/::s3://K:hush@b/x.zip?endpoint_override=h", "a", "zip://a/1.jpg::s3://b/x.zip?endpoint_override=h"),
    ],
)  # fmt: skip
def test_a_name_tells_servers_apart_and_holds_no_password(
    monkeypatch: pytest.MonkeyPatch, address: str, path: str, name: str
) -> None:
    monkeypatch.setattr("pipeline.batch.storage._file_system", lambda _: (None, path))
    storage, found = resolve_storage(address)
    assert found == path and storage.name(f"{path}/1.jpg") == name
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_secrets_are_not_shown() -> None:
    shown = {
        "a/b?c=d": "a/b?c=d",
        "ftp://u:p@h:21/a": "ftp://h:21/a",
        "s3://KEY:hu/sh@b/a": "s3://b/a",  # not valid, but users write it
        "ftp://u:12/sh@h/a?b": "ftp://h/a",
        "ftp://u:hu@sh?hush@h/a": "ftp://h/a",
        "ftp://u:hu#sh@h/a": "ftp://h/a",
        "ftp://h/a@b": "ftp://h/a@b",
        "abfs://c@acct/a?client_secret=hush": "abfs://c@acct/a",
        "zip://a/::ftp://u:p@h/x.zip": "zip://a/::ftp://h/x.zip",
    }
    assert {address: without_secrets(address) for address in shown} == shown
    queries = [without_secrets(f"http://h/get?token={token}") for token in ("hush", "hash", "hash")]
    assert "token" not in queries[0] and queries[0] != queries[1] == queries[2]
    with pytest.raises(UserError) as raised:
        resolve_storage("s3://KEY:hu/sh@b/a")
    assert str(raised.value).startswith("s3://b/a: cannot be opened (Cannot parse URI: 's3://b/a' due to")


def test_errors_at_an_address_hold_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def open_input_file(self, path: str) -> None:
            raise RuntimeError(f"ftp://u:hush@h{path}: not allowed")

    monkeypatch.setattr("pipeline.batch.storage._file_system", lambda _: (Server(), "/a"))
    storage, path = resolve_storage("ftp://u:hush@h/a")
    with pytest.raises(OSError, match=r"^ftp://h/a/1.jpg: not allowed$"):
        storage.read(f"{path}/1.jpg")


def test_the_tail_of_an_address() -> None:
    assert split_tail("a/b?c::d://e") == ("a/b?c::d://e", "")
    assert split_tail("s3://b/a?region=x") == ("s3://b/a", "?region=x")
    assert split_tail("zip://a/::simplecache::http://h/x?y") == ("zip://a/", "::simplecache::http://h/x?y")
    assert split_tail("ftp://[::1]:2121/a") == ("ftp://[::1]:2121/a", "")


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
