"""The console script `facemask`, and what `import pipeline` loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from common.facemask import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("numpy", "cv2", "onnxruntime", "torch", "tyro", "rich", "PIL")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_list_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("usage: facemask COMMAND")
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(line.split()[1:] for line in lines)


def test_the_list_into_a_pipe_that_has_ended() -> None:
    """As in `facemask | head -1`."""
    lister = subprocess.Popen(
        [sys.executable, "-m", "common.facemask"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert lister.stdout is not None and lister.stderr is not None
    lister.stdout.close()
    assert lister.stderr.read() == b"" and lister.wait() == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("detct", "did you mean 'detect'?"),
        ("build_crop", "did you mean 'build-crops'?"),
        ("xyz", "run `facemask` for the list"),
    ],
)
def test_an_unknown_command_is_one_line(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "photo.jpg"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {name!r} is not a command; {hint}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_door(name: str) -> None:
    module = COMMANDS[name][0]
    spec = find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:  # a package
        spec = find_spec(f"{module}.__main__")
    assert spec is not None and spec.origin is not None
    door = Path(spec.origin).read_text(encoding="utf-8")
    target = door.split('start("')[1].split('"')[0]
    assert 'if __name__ == "__main__":' in door and find_spec(target.partition(":")[0]) is not None


@pytest.mark.parametrize("typed", ["detect", "build-crops", "build_crops"])
def test_help_shows_the_command_as_typed(typed: str) -> None:
    code = f"import sys; sys.argv = ['facemask', {typed!r}, '--help']; from common.facemask import main; main()"
    assert f"usage: facemask {typed.replace('_', '-')} " in run_python(code)


def test_the_list_loads_nothing_heavy() -> None:
    code = f"import sys; from common.facemask import main; main([]); print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python(code).splitlines()[-1] == "[]"


def test_the_package_loads_nothing_until_a_name_is_used() -> None:
    loaded = f"print([m for m in {HEAVY} if m in sys.modules])"
    code = f"import sys, pipeline; {loaded}; from pipeline import Detections, Predictor; print(Predictor.__module__)"
    assert run_python(code).splitlines() == ["[]", "pipeline.inference.predictor"]


def test_an_unknown_name_of_the_package_is_an_error() -> None:
    with pytest.raises(ImportError, match="Nothing"):
        from pipeline import Nothing  # type: ignore[attr-defined]  # noqa: F401
