"""The static site: its files, its policy, what is refused, and that a folder of another kind stays as it is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import UserError
from pipeline.export import runtime, site
from pipeline.export.command import main
from pipeline.export.folders import write_folder
from pipeline.export.site import SITE
from pipeline.inference.bundle import Bundle
from pipeline.serve.page_files import STATIC, checked_device_folder


@pytest.fixture
def made_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with files in place of the runtime's, which are the expected ones."""
    folder = tmp_path / "runtime" / "dist"
    folder.mkdir(parents=True)
    for name in runtime.FILES:
        (folder / name).write_bytes(name.encode())
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in runtime.FILES}
    monkeypatch.setattr(runtime, "FILES", digests)
    return folder.parent


def test_the_site_is_complete(made_runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    assert main(["--web", str(out), "--runtime", str(made_runtime)]) == 0
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert f"{len(files)} files" in capsys.readouterr().out
    assert {f"static/{path.name}" for path in STATIC.iterdir()} - files == {"static/index.html"}
    assert {f"device/{name}" for name in ("model.json", "mask-detector.onnx", *runtime.FILES)} < files
    html = (out / "index.html").read_text(encoding="utf-8")
    assert html.index("Content-Security-Policy") < html.index("<link")  # it counts for what comes after it
    assert "connect-src 'self';" in html and 'data-backends="device"' in html
    described = json.loads((out / "device/model.json").read_text(encoding="utf-8"))
    assert described["bundle"] == Bundle.load().describe()
    loaded = ("mask-detector.onnx", "ort-wasm-simd-threaded.wasm")
    assert described["bytes"] == sum((out / "device" / name).stat().st_size for name in loaded)
    worker = (out / "service-worker.js").read_text(encoding="utf-8")
    kept = json.loads(re.findall(r"const FILES = (\[.*?\]);", worker, re.DOTALL)[0])
    assert set(kept) == files - {"index.html", "service-worker.js"} | {"./"}
    assert checked_device_folder(out) == out / "device"


def test_another_content_has_another_version() -> None:
    files = {"index.html": b"a", "static/a.js": b"b"}
    versions = {
        re.findall(rb"const VERSION = '(.*?)'", site._service_worker(each))[0]
        for each in (files, {**files, "static/a.js": b"c"}, {**files, "static/b.js": b"b"})
    }
    assert len(versions) == 3


def site_of(names: Sequence[str], content: bytes = b"") -> dict[str, bytes]:
    """Return a small site with these files."""
    files = dict.fromkeys(("index.html", "device/model.json", *names), content)
    return {**files, "service-worker.js": site._service_worker(files)}


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_site_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    """A site of an earlier version, whose files have other names, is replaced, too."""
    out = tmp_path / "site"
    write_folder(out, site_of(["static/old.js", "device/old.wasm"]), SITE)
    new = site_of(["static/new.js"])
    write_folder(out, new, SITE)
    assert files_of(out) == set(new)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    (out / "service-worker.js").unlink()
    with pytest.raises(UserError, match="is not a site of this command"):
        write_folder(out, new, SITE)
    assert (out / "static/new.js").is_file()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is not a site of this command"):
        write_folder(file, {}, SITE)


@pytest.mark.parametrize("worker", ["", "const FILES = [1;]", 'const FILES = ["./"];', "const FILES = [[]];"])
def test_a_site_of_others_is_not_replaced(tmp_path: Path, worker: str) -> None:
    (tmp_path / "index.html").write_text("theirs")
    (tmp_path / "service-worker.js").write_text(f"{worker}\n")
    with pytest.raises(UserError, match="is not a site of this command"):
        write_folder(tmp_path, site_of([]), SITE)
    assert files_of(tmp_path) == {"index.html", "service-worker.js"}


@pytest.mark.parametrize("name", ["CNAME", "static/my-logo.png", "device/photos/me.jpg", "static/index.html"])
def test_a_site_with_other_files_stays(tmp_path: Path, name: str) -> None:
    out, files = tmp_path / "site", site_of(["static/page.js"])
    write_folder(out, files, SITE)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_bytes(b"mine")
    first = "device/photos" if name.startswith("device/") else name
    with pytest.raises(UserError, match=f"also has {first}, which would be lost; move it, or name another folder"):
        write_folder(out, files, SITE)
    assert files_of(out) == {*files, name} and (out / name).read_bytes() == b"mine"


def test_a_site_with_folders_and_links_of_others_stays(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    write_folder(out, site_of(["static/page.js"]), SITE)
    (out / ".git").mkdir()
    with pytest.raises(UserError, match=r"also has \.git, which would be lost"):
        write_folder(out, site_of([]), SITE)
    (out / ".git").rmdir()
    (out / "static").rename(elsewhere)
    (out / "static").symlink_to(elsewhere)
    with pytest.raises(UserError, match="also has static, which would be lost"):
        write_folder(out, site_of([]), SITE)
    assert (out / "static/page.js").is_file()


def test_a_link_to_a_site_is_looked_into(tmp_path: Path) -> None:
    out, link = tmp_path / "site", tmp_path / "link"
    write_folder(out, site_of([]), SITE)
    link.symlink_to(out)
    write_folder(link, site_of(["static/page.js"]), SITE)
    assert link.is_symlink() and (out / "static/page.js").is_file()
    (out / "static/mine.png").touch()
    with pytest.raises(UserError, match=r"also has static/mine\.png, which would be lost"):
        write_folder(link, site_of([]), SITE)


def test_what_finder_leaves_is_ignored(tmp_path: Path) -> None:
    out, files = tmp_path / "site", site_of(["static/page.js"])
    out.mkdir()
    for _ in range(2):  # a folder with nothing else is empty, and a site with it is replaced
        (out / ".DS_Store").touch()
        write_folder(out, files, SITE)
        assert files_of(out) == set(files)
        (out / "static/.DS_Store").touch()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_site_that_cannot_be_replaced_stays(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    write_folder(out, site_of([], b"old"), SITE)
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise error("no")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(error, match="no"):
        write_folder(out, site_of([], b"new"), SITE)
    assert (out / "index.html").read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("folder", ["", "dist"])
def test_the_runtimes_files_may_be_at_two_places(made_runtime: Path, folder: str) -> None:
    assert set(runtime.runtime_files(made_runtime / folder)) == set(runtime.FILES)


def test_a_runtime_that_is_incomplete_or_another_one(
    made_runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--web", str(tmp_path / "site"), "--runtime", str(made_runtime)]
    (made_runtime / "dist/ort.wasm.min.mjs").write_text("changed")
    assert main(command) == 1
    (made_runtime / "dist/ort.wasm.min.mjs").unlink()
    assert main(command) == 1
    other, missing = capsys.readouterr().err.splitlines()
    assert "ort.wasm.min.mjs is not that of version" in other and "ort.wasm.min.mjs cannot be read" in missing
    assert not (tmp_path / "site").exists()


def test_npm_is_missing_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert main(["--web", str(tmp_path / "site")]) == 1
    (tools / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\necho more >&2\nexit 1\n")
    (tools / "npm").chmod(0o755)
    assert main(["--web", str(tmp_path / "site")]) == 1
    (tools / "npm").write_text("#!/bin/sh\necho broken > package.tgz\n")
    assert main(["--web", str(tmp_path / "site")]) == 1
    missing, failed, damaged = capsys.readouterr().err.splitlines()
    assert "npm fetched a damaged package.tgz" in damaged
    assert "is not installed" in missing and "give --runtime DIR" in missing
    assert "(npm error code ENOTFOUND)" in failed and "give --runtime DIR" in failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tools"]


def test_the_makefile_installs_the_same_version() -> None:
    makefile = (Path(__file__).resolve().parents[3] / "Makefile").read_text(encoding="utf-8")
    assert f"{runtime.PACKAGE}@{runtime.VERSION}\n" in makefile


def test_the_server_wants_a_site(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a site; make one with `python -m pipeline\.export --web"):
        checked_device_folder(tmp_path)
