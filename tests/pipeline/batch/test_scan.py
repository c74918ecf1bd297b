from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.paths import canonical_path, find_images
from pipeline.batch.chunk import Chunk, PhotoRef
from pipeline.batch.photo_source import ParquetColumns
from pipeline.batch.results import DigestSet
from pipeline.batch.scan import MIN_CHUNK, ScanConfig, find_chunks
from pipeline.batch.storage import LOCAL, FolderEntry
from pipeline.batch.table import METADATA_KEY
from tests.helpers.fake_predictor import write_picture


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def chunks(*sources: str, processed: DigestSet | None = None, **options: object) -> tuple[list[Chunk], list[str]]:
    """Return all chunks, and the problems."""
    problems: list[str] = []
    config = ScanConfig(sources, **{"max_chunk": 256, "workers": 1, **options})  # type: ignore[arg-type]
    found = list(find_chunks(config, processed or DigestSet(), lambda error: problems.append(str(error))))
    return found, problems


def names(*sources: str, processed: DigestSet | None = None, **options: object) -> list[str]:
    found, problems = chunks(*sources, processed=processed, **options)
    assert problems == []
    return [name for chunk in found for name in chunk.names]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(os.path.realpath(tmp_path))


TREE = ("p/a.jpg", "p/b.PNG", "p/note.txt", "p/.hidden.jpg", "p/.h/c.jpg", "p/x/d.jpg", "p/x/y.jpg/e.webp", "p/x/f.gif")


@pytest.mark.parametrize(
    "sources",
    [["p"], ["p/"], ["./p/x"], ["p/*.jpg"], ["p/**/*.jpg"], ["p/*"], ["p/x/**"], ["p/?.*"], ["p/note.txt"], ["p/[ab]*"],
     ["p/.h/*"], ["p/x", "p", "p/a.jpg", "p/*"], ["p/x/d.jpg", "p/x/y.jpg"], ["p/**/y.jpg"]],
)  # fmt: skip
def test_the_same_photos_as_detect_finds(sources: list[str]) -> None:
    touch(*TREE)
    found, problems = find_images(sources)
    assert problems == [] and found
    scanned = names(*sources)
    assert sorted(scanned) == sorted(canonical_path(image.path) for image in found)


def test_videos_are_left_out_and_counted(here: Path) -> None:
    touch("p/a.jpg", "p/b.mp4", "p/x/c.MOV", "p/.d.mp4", "p/.h/e.mp4", "p/note.txt")
    for sources, expected in (
        (["p"], ["b.mp4", "c.MOV"]), (["p/*"], ["b.mp4", "c.MOV"]), (["p/*.mp4", "p/a.jpg"], ["b.mp4"])
    ):  # fmt: skip
        videos: list[str] = []
        found = list(find_chunks(ScanConfig(sources, 256, 1), DigestSet(), lambda _: None, videos.append))
        assert [len(chunk) for chunk in found] == [1]
        assert [Path(video).name for video in videos] == expected
    found, problems = chunks("p/b.mp4", "p/a.jpg")
    assert len(found) == 1 and problems == ["p/b.mp4: is a video; process it with `python -m pipeline.detect`"]


def test_links_are_followed_once(here: Path) -> None:
    touch("p/a.jpg", "q/b.jpg")
    Path("p/round").symlink_to("../p")
    Path("p/q").symlink_to(here / "q")
    Path("p/q2").symlink_to(here / "q")
    Path("p/lost.jpg").symlink_to("nowhere")
    assert sorted(names("p")) == [f"{here}/p/a.jpg", f"{here}/p/lost.jpg", f"{here}/q/b.jpg"]
    assert sorted(names("p/**")) == sorted(names("p"))


def test_a_name_that_looks_like_a_pattern(here: Path) -> None:
    touch("a[1].jpg", "a1.jpg")
    assert names("a[1].jpg") == [f"{here}/a[1].jpg"]


def test_names_that_are_not_utf8_stay_different(here: Path) -> None:
    touch("p/" + os.fsdecode(b"caf\xe9.jpg"), "p/" + os.fsdecode(b"caf\xe8.jpg"))
    assert sorted(names("p")) == [f"{here}/p/caf\\xe8.jpg", f"{here}/p/caf\\xe9.jpg"]
    (chunk,) = chunks("p")[0]
    assert all(Path(item.path).exists() for item in chunk.photos)


def test_problems_are_reported_and_the_rest_is_found(here: Path) -> None:
    touch("p/a.jpg", "empty/note.txt")
    found, problems = chunks("missing", "empty", "p/*.tif", "p", "no/*.jpg", "nosuch://x/y", "file://server/p")
    assert [name for chunk in found for name in chunk.names] == [f"{here}/p/a.jpg"]
    assert problems == [
        "missing: not found; check the name",
        "empty: holds no pictures; name a folder that does",
        "p/*.tif: matches no pictures; check the pattern",
        "no/*.jpg: matches no pictures; check the pattern",
        "nosuch://x/y: cannot be opened (Protocol not known: nosuch); check the address",
        "file://server/p: names the machine 'server'; write file:///PATH with three slashes",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search everything")
def test_a_folder_that_cannot_be_searched(here: Path) -> None:
    touch("p/a.jpg", "p/x/b.jpg")
    Path("p/x").chmod(0)
    try:
        found, problems = chunks("p")
    finally:
        Path("p/x").chmod(0o700)
    assert len(found[0]) == 1 and problems == [f"{here}/p/x: cannot be searched (Permission denied)"]


def test_processed_photos_and_the_results_are_skipped(here: Path) -> None:
    touch("p/a.jpg", "p/b.jpg", "p/faces.parquet/strange.jpg")
    known = DigestSet([f"{here}/p/a.jpg"])
    assert names("p", processed=known, skip_folder=f"{here}/p/faces.parquet") == [f"{here}/p/b.jpg"]
    assert names("p/*", processed=known, skip_folder=f"{here}/p/faces.parquet") == [f"{here}/p/b.jpg"]
    # No error for a source whose photos are all processed.
    assert names("p/a.jpg", processed=known) == []


def test_chunks_grow_with_the_photos_found() -> None:
    touch(*(f"p/{i:04}.jpg" for i in range(1000)))
    sizes = [len(chunk) for chunk in chunks("p", max_chunk=100, workers=2)[0]]
    assert sum(sizes) == 1000 and sizes[:8] == [MIN_CHUNK] * 8
    assert sizes[:-1] == sorted(sizes[:-1]) and max(sizes) <= 100 and sizes[-2] == 100
    assert [len(chunk) for chunk in chunks("p", max_chunk=3)[0]] == [3] * 333 + [1]


def test_the_key_of_a_chunk_depends_on_its_photos(here: Path) -> None:
    first, same, other = (Chunk(LOCAL, tuple(map(PhotoRef, paths))) for paths in ("ab", "ab", "ba"))
    assert first.key == same.key != other.key
    assert [single.photos for single in first.split()] == [(PhotoRef("a"),), (PhotoRef("b"),)]


def write_rows(path: str, count: int, group: int, metadata: dict[bytes, bytes] | None = None) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    column = pa.array([b"x"] * count, pa.binary())
    pq.write_table(pa.table({"image": column}).replace_schema_metadata(metadata), path, row_group_size=group)


def test_rows_of_parquet_files(here: Path) -> None:
    write_rows("p/t.parquet", 3, 3)
    touch("p/a.jpg", "p/_meta.parquet")
    assert names("p") == [f"{here}/p/a.jpg", *(f"{here}/p/t.parquet#{i}" for i in range(3))]
    assert names("p/t.parquet", processed=DigestSet([f"{here}/p/t.parquet#1"])) == [
        f"{here}/p/t.parquet#0",
        f"{here}/p/t.parquet#2",
    ]
    found, _ = chunks("p")
    assert [[item.row for item in chunk.photos] for chunk in found] == [[None], [0, 1, 2]]


def test_chunks_of_rows_end_with_row_groups() -> None:
    write_rows("t.parquet", 100, 10)
    write_rows("u.parquet", 5, 5)
    found, _ = chunks("t.parquet", "u.parquet", max_chunk=16)
    assert [len(chunk) for chunk in found] == [10] * 10 + [5]
    assert [len(chunk) for chunk in chunks("t.parquet", max_chunk=4)[0]][:6] == [4, 4, 2, 4, 4, 2]


def test_results_are_not_taken_for_photos(here: Path) -> None:
    write_rows("p/faces.parquet/part-1.parquet", 3, 3, {METADATA_KEY: b"{}"})
    touch("p/a.jpg")
    assert names("p") == [f"{here}/p/a.jpg"]
    assert chunks("p/faces.parquet")[1] == ["p/faces.parquet: holds no pictures; name a folder that does"]
    assert chunks("p/faces.parquet/part-1.parquet")[1] == ["p/faces.parquet/part-1.parquet: holds no photos"]


def test_parquet_files_without_photos(here: Path) -> None:
    touch("p/empty.parquet")
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), "p/numbers.parquet")
    pq.write_table(pa.table({"a": [[b"1", b"2"]], "b": [[{"bytes": b"x"}]], "c": [["t"]]}), "p/lists.parquet")
    pq.write_table(pa.table({"a": [b"1"], "b": [b"x"]}), "p/two.parquet")
    found, problems = chunks("p")
    assert found == []
    assert problems == [
        f"{here}/p/empty.parquet: is not a readable Parquet file (Parquet file size is 0 bytes); copy it again",
        f"{here}/p/lists.parquet: has no column of bytes, only lists (a, b); write a file with one row per picture",
        f"{here}/p/numbers.parquet: has no column of bytes, so no photos; leave it out or name another file",
        f"{here}/p/two.parquet: has several columns of bytes (a, b); name one with --column",
    ]
    assert len(names("p/two.parquet", columns=ParquetColumns("b"))) == 1
    assert chunks("p/two.parquet", columns=ParquetColumns("c"))[1] == [
        f"{here}/p/two.parquet: has no column 'c'; its columns are a, b"
    ]
    assert chunks("p/numbers.parquet", columns=ParquetColumns("a"))[1] == [
        f"{here}/p/numbers.parquet: column 'a' holds no bytes; name a column of bytes with --column"
    ]
    assert chunks("p/two.parquet", columns=ParquetColumns("a", "x.y"))[1] == [
        f"{here}/p/two.parquet: has no column 'x.y'; its columns are a, b"
    ]


def test_file_addresses_are_paths(here: Path) -> None:
    touch("my p/a.jpg", "my p/x/b.jpg")
    both = [f"{here}/my p/a.jpg", f"{here}/my p/x/b.jpg"]
    assert names(f"file://{here}/my p") == both
    assert names(f"file://{here}/my%20p", "my p") == both
    assert names(f"file://{here}/my p/**/*.jpg") == both


def test_addresses(here: Path) -> None:
    memory = fsspec.filesystem("memory")
    photo = write_picture(Path("photo.png")).read_bytes()
    for name in ("a.png", "x/b.png", "x/.h.png", "x/z/c.jpg", "note.txt"):
        memory.pipe(f"/photos/{name}", photo)
    try:
        every = ["memory://photos/a.png", "memory://photos/x/b.png", "memory://photos/x/z/c.jpg"]
        assert names("memory://photos") == every
        assert names("memory://photos/") == every
        assert names("memory://photos/a.png") == every[:1]
        assert names("memory://photos/x/*") == every[1:]
        assert names("memory://photos/**/[bc].*") == every[1:]
        assert names("memory://photos", skip_folder="memory://photos/x") == every[:1]
        found, problems = chunks("memory://photos/x/b.png", "memory://nothing", "memory://photos/*.tif", "memory://")
        # No other process sees this one's memory, so its chunks carry the photos.
        assert found[0].contents is not None and found[0].contents[0].data == photo
        assert problems == [
            "memory://nothing: not found; check the name",
            "memory://photos/*.tif: matches no pictures; check the pattern",
            "memory://: names no file or folder; add a path to it",
        ]
    finally:
        memory.rm("/photos", recursive=True)


def test_patterns_keep_the_options_and_the_host_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def unreachable(name: str) -> None:
        opened.append(name)
        raise UserError(f"{name}: cannot be opened (no network); check the address")

    monkeypatch.setattr("pipeline.batch.scan.resolve_storage", unreachable)
    sources = ("s3://b/a*/x.jpg?endpoint_override=h", "s3://b/*?endpoint_override=h", "ftp://[::1]:2121/a")
    chunks(*sources, "ftp://u:p*@h/a/[bc].jpg")
    assert opened == ["s3://b/?endpoint_override=h", "s3://b/?endpoint_override=h", sources[2], "ftp://u:p*@h/a"]


def test_errors_of_a_source_hold_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.batch.scan.resolve_storage", lambda _: (LOCAL, "/nosuch"))
    assert chunks("ftp://u:hush@h/a", "ftp://u:hush@h/a/*.tif", "ftp://u:hush@h/a/*.tif?endpoint_override=x")[1] == [
        "ftp://h/a: not found; check the name",
        "ftp://h/a/*.tif: matches no pictures; check the pattern",
        "ftp://h/a/*.tif?endpoint_override=x: matches no pictures; check the pattern",
    ]
    monkeypatch.undo()
    assert chunks("nosuch://u:hush@x/y")[1] == [
        "nosuch://x/y: cannot be opened (Protocol not known: nosuch); check the address"
    ]


def test_videos_of_two_servers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        is_local = is_private = False

        def __init__(self, address: str) -> None:
            self._address = address

        def kind(self, path: str) -> str:
            return "folder"

        def entries(self, folder: str) -> list[FolderEntry]:
            return [FolderEntry(f"{folder}/a.mp4", is_folder=False)]

        def name(self, path: str) -> str:
            return f"{self._address}{path}"

    monkeypatch.setattr("pipeline.batch.scan.resolve_storage", lambda name: (Server(name), "/cam"))
    videos: list[str] = []
    config = ScanConfig(("ftp://one", "ftp://two"), 256, 1)
    assert list(find_chunks(config, DigestSet(), lambda _: None, videos.append)) == []
    assert videos == ["ftp://one/cam/a.mp4", "ftp://two/cam/a.mp4"]
