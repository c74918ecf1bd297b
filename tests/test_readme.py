"""What the README and the documentation tell people to type: quick commands run as written, flags and modules exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.image_writer import write_image
from tests.helpers.planted_data import FACE, Face, write_part
from tests.helpers.video.made_videos import blob_video

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "README.ko.md",
    "CONTRIBUTING.md",
    "MODEL_CARD.md",
    "docs/course.md",
    "docs/datasets.md",
    "docs/deploy.md",
    "docs/evaluation.md",
    "docs/figures.md",
    "docs/inputs.md",
    "docs/label_noise.md",
    "docs/outputs.md",
    "docs/scale.md",
    "docs/serving.md",
    "docs/tour.md",
    "docs/sources.md",
    "docs/videos.md",
)
# Needs a network, a camera, a cluster, minutes of training, or does not end by itself.
NOT_QUICK = (
    "make ",
    "pip ",
    "curl",
    "pipeline.serve",
    "--camera",
    "rtsp:",
    "s3:",
    "--address",
    "finetune",
    "baseline",
    "train",
    "crossval",
    "--web",
)
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    "PYTHONPATH": str(ROOT),
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands(page: str) -> list[str]:
    """Every line of the page's shell blocks, continued lines joined, without comments."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


QUICK = [line for line in commands("README.md") if not any(word in line for word in NOT_QUICK)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the README's commands name."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("photo.jpg", "party.jpg", "holiday/a.jpg", "cam/1.png", "cam/2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_image(folder / name, synthetic_photo(400, 300, 2, seed=1))
    blob_video(folder / "door.mp4", frames=5)
    faces: list[Face] = [("with_mask", FACE), ("without_mask", (150, 60, 40, 50))]
    write_part(folder / "my-photos", {"a.png": (1, faces), "b.png": (2, faces)})
    return folder


def test_the_readme_has_quick_commands() -> None:
    text = "\n".join(QUICK)
    assert len(QUICK) >= 4
    assert "pipeline.detect photo.jpg" in text and "facemask detect" in text and "door.mp4" in text and "--blur" in text


@pytest.mark.parametrize(
    "command", [pytest.param(line, marks=pytest.mark.slow if "pipeline.export" in line else ()) for line in QUICK]
)
def test_a_quick_command_runs_as_written(command: str, folder: Path) -> None:
    # The installed console script may be of an earlier version.
    command = re.sub(r"^facemask ", "python -m common.facemask ", command)
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = re.search(r"export --\w+ (\S+)", command)
    name = written[1] if written else "check.html" if "pipeline.check" in command else "detections"
    assert (folder / name).exists()


def test_the_python_example_runs(folder: Path) -> None:
    # tests/pipeline/export/test_ten_lines.py runs the block that needs an exported file.
    for code in (block for block in blocks("README.md", "python") if "onnxruntime" not in block):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "with" in done.stdout


def named(page: str) -> set[tuple[str, str]]:
    """(module, flag) for each `python -m MODULE ... --flag` on a page, in blocks and in the text."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = set()
    for code in [*commands(page), *re.findall(r"`([^`]*python -m [^`]*)`", text)]:
        for module, rest in re.findall(r"python -m ([\w.]+)(.*?)(?=python -m|$)", " ".join(code.split())):
            flags = re.findall(r"(?<!\S)(--[a-z][a-z0-9-]*)", rest)
            found |= {(module, flag) for flag in flags or [""]}
    return found


@cache
def help_of(module: str) -> str:
    """What a command says to --help, in wide lines."""
    words = [*shlex.split(module), *(["show"] if module == "pipeline.bundle" else []), "--help"]
    wide = {**ENVIRONMENT, "COLUMNS": "400"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=wide, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{module}: {done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_modules_and_flags_exist(page: str) -> None:
    for module, flag in sorted(named(page)):
        text = help_of(module)
        negated = f"--{flag.removeprefix('--no-')}"
        assert re.search(rf"{flag}(?![\w-])|{negated}(?![\w-])", text), f"{page}: {module} has no {flag}"
