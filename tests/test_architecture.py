"""The rules that hold the shape: who may import whom, how large things are, and what inference may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import pytest

from common.facemask import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "stage1_faces", "stage2_classifier", "pipeline")
# Who may import whom, besides itself: the longest matching prefix of a module counts. "A" allows A and all below it.
STAGES = ("stage1_faces", "stage2_classifier")
DETECTORS = (
    *("stage1_faces.cascade_config", "stage1_faces.detector", "stage1_faces.face_logits", "stage1_faces.faces"),
    "stage1_faces.stock",
)
# The constants of the cascade.
CASCADE = tuple(f"stage1_faces.{m}" for m in ("cascade_config", "detector", "face_logits", "proposals"))
ALLOWED: dict[str, tuple[str, ...]] = {
    "common": (),
    "stage1_faces": ("common",),
    "stage2_classifier": ("common",),
    "stage2_classifier.data": ("common", "stage2_classifier.cropping"),
    "stage2_classifier.augment": ("common", "stage2_classifier.config", "stage2_classifier.cropping"),
    "pipeline": ("common.launcher",),  # the doors
    "pipeline.inference": ("common", *DETECTORS, "stage2_classifier.cropping"),
    "pipeline.video": ("common", "pipeline.inference"),
    "pipeline.detect": ("common", "stage2_classifier.data.mask_drawing", "pipeline.inference", "pipeline.video"),
    "pipeline.serve": ("common", "pipeline.inference"),
    "pipeline.batch": ("common", "pipeline.inference"),
    "pipeline.bundle": ("common", "stage1_faces.cascade_config", "pipeline.inference"),
    "pipeline.export": (
        *("common", *CASCADE, "stage1_faces.pyramid", "stage1_faces.roi_crop", "pipeline.inference"),
        *("pipeline.bundle", "pipeline.serve.page_files"),
    ),
    "pipeline.data": ("common", *STAGES),
    "pipeline.check": (
        *("common", "pipeline.inference.draw", "pipeline.data.checks", "pipeline.data.duplicates"),
        "pipeline.check.suspects",
    ),
    "pipeline.check.suspects": ("common", "pipeline.inference.predictor", "pipeline.check.photo_reading"),
    "pipeline.evaluate": ("common", *STAGES, "pipeline.inference", "pipeline.data"),
    "pipeline.evaluate.videos": (
        *("common", "pipeline.data.checks", "pipeline.evaluate.report", "pipeline.evaluate.selection"),
        *("pipeline.inference", "pipeline.video"),
    ),
    "pipeline.training": (
        *("common", *STAGES, "pipeline.inference", "pipeline.bundle", "pipeline.data", "pipeline.evaluate"),
    ),
    "pipeline.baseline": ("common", *STAGES, "pipeline.data", "pipeline.evaluate", "pipeline.bench"),
    "pipeline.bench": (
        *("common", "stage1_faces", "pipeline.inference", "pipeline.evaluate", "pipeline.detect", "pipeline.video"),
        "pipeline.export",
        "pipeline.training.packing.classifier_source",
    ),
}
HEAVY = ("torch", "torchvision", "timm", "albumentations", "facenet_pytorch", "sklearn", "scipy", "matplotlib")
# What inference loads, as modules; each command among them is also run below.
TORCH_FREE = (
    *(
        "pipeline.inference.predictor",
        "pipeline.inference.bundle",
        "pipeline.inference.draw",
        "pipeline.detect.command",
    ),
    *("pipeline.detect.demo.command", "pipeline.serve.command", "pipeline.serve.app", "pipeline.video.process"),
    *("pipeline.check.command", "pipeline.check.page", "pipeline.check.suspects.run"),
    *("pipeline.batch.command", "pipeline.batch.worker", "stage1_faces.detector", "stage1_faces.stock.mtcnn"),
)
# Pipes between processes of our own, which nobody else holds.
OWN_PIPES = ("pipeline.batch.child_process", "pipeline.batch.ray_pool")
MOST_ENTRIES = {"pipeline": 20}
MOST_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 16, 400, 60


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """All modules of the product by name; a package is its __init__.py."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def imported(module: str) -> frozenset[str]:
    """Names that a module imports anywhere: at the top, in functions and under TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else str(node.module))
    return frozenset(names)


def ours(module: str) -> frozenset[str]:
    return frozenset(name for name in imported(module) if name in modules())


def below(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_follow_the_table(module: str) -> None:
    folder = max((prefix for prefix in ALLOWED if below(module, prefix)), key=len)
    if module == "pipeline":  # Predictor and Detections, loaded when they are used
        allowed: tuple[str, ...] = ("common", "pipeline.inference")
    else:
        allowed = ALLOWED[folder]
    within = folder if folder != "pipeline" else module
    wrong = [name for name in ours(module) if not any(below(name, prefix) for prefix in (within, *allowed))]
    assert not wrong, f"{module} imports {wrong}; the table allows {allowed}"


def test_the_table_has_no_entry_that_nobody_needs() -> None:
    for folder, allowed in ALLOWED.items():
        inside = [module for module in modules() if max((p for p in ALLOWED if below(module, p)), key=len) == folder]
        used = {name for module in inside for name in ours(module)}
        unused = [prefix for prefix in allowed if not any(below(name, prefix) for name in used)]
        assert not unused, f"{folder}: {unused}"


def test_no_import_circle() -> None:
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if module in path:
            yield (*path[path.index(module) :], module)
        elif module not in done:
            for name in sorted(ours(module)):
                yield from walk(name, (*path, module))
            done.add(module)

    circles = [" -> ".join(circle) for module in sorted(modules()) for circle in walk(module, ())]
    assert not circles, circles


def test_folders_modules_and_functions_are_small() -> None:
    for folder in {file.parent for file in modules().values()}:
        entries = [path for path in folder.iterdir() if path.name != "__pycache__"]
        most = MOST_ENTRIES.get(str(folder.relative_to(ROOT)))
        if most is not None:
            assert len(entries) <= most, folder
        else:
            assert sum(path.suffix == ".py" for path in entries) <= MOST_MODULES, folder
    for module, file in modules().items():
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MOST_LINES, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_FUNCTION_LINES, f"{module}.{node.name}: {lines} lines"


def test_other_files_are_small_too() -> None:
    for folder in ("tests", "docs", "pipeline/serve/static"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".js", ".css", ".html"):
                assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, file


def test_a_class_name_is_used_once() -> None:
    places: dict[str, list[str]] = {}
    for module, file in modules().items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_every_command_is_a_door() -> None:
    for command, (module, what) in COMMANDS.items():
        door = modules().get(f"{module}.__main__") or modules()[module]
        assert 'if __name__ == "__main__":\n    start("' in door.read_text(encoding="utf-8"), command
        assert what


@pytest.mark.parametrize("module", TORCH_FREE)
def test_inference_modules_do_not_import_the_training_packages(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_predictor_does_not_load_onnx_runtime() -> None:
    code = "import sys; from pipeline import Predictor; print('onnxruntime' in sys.modules, Predictor.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False Predictor\n"


def test_detecting_never_loads_torch(tmp_path: Path) -> None:
    # The whole command, not only its imports: something could still load torch on the way.
    from PIL import Image

    photo = tmp_path / "grey.png"
    Image.new("RGB", (120, 90), "grey").save(photo)
    code = (
        "import sys; from pipeline.detect.command import main; "
        f"code = main([{str(photo)!r}, '--out', {str(tmp_path / 'out')!r}]); "
        f"print('loaded', [m for m in {HEAVY!r} if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert (tmp_path / "out" / "detections.json").is_file()


@pytest.mark.parametrize(
    "module",
    ["stage1_faces.finetune", "stage2_classifier.train", "stage2_classifier.report", "stage2_classifier.transforms"],
)
def test_without_the_training_extra_a_command_is_one_line(module: str) -> None:
    code = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_module({module!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    how = "in the project's folder, run `make install`, or `pip install '.[train]'` in an environment of your own"
    assert done.stderr == f"error: this needs the package 'torch'; {how}\n"


@pytest.mark.parametrize("module", sorted(modules()))
def test_nothing_from_users_is_unpickled(module: str) -> None:
    pickles = {"pickle", "cPickle", "dill", "shelve", "joblib", "marshal"} & imported(module)
    assert module in OWN_PIPES or not pickles
    for call in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"{module}:{call.lineno}"
        assert given.get("allow_pickle", "False") == "False", f"{module}:{call.lineno}"
        assert name not in ("yaml.load", "yaml.unsafe_load", "eval", "exec"), f"{module}:{call.lineno}"
