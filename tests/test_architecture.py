"""The rules that hold the shape: who may import whom, and what inference may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Which of our packages each may import.
ALLOWED = {
    "stage1_faces": {"stage1_faces"},
    "stage2_classifier": {"stage2_classifier"},
    "pipeline": {"pipeline", "stage1_faces", "stage2_classifier"},
}
HEAVY = ("torch", "torchvision", "timm", "albumentations", "facenet_pytorch", "sklearn", "scipy", "matplotlib")


def imported(file):
    """Top-level names that a file imports anywhere in it, functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = set(imported(file)) & set(ALLOWED)
        assert ours <= ALLOWED[package], f"{file} imports {ours - ALLOWED[package]}"


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.detect",
        "pipeline.inference.predictor",
        "pipeline.bundle",
        "pipeline.inference.image_writer",
        "pipeline.demo",
        "pipeline.serve",
        "pipeline.serve.app",
        "pipeline.video.process",
        "pipeline.batch",
        "pipeline.batch.worker",
        "pipeline.batch.work",
        "stage1_faces.detector",
        "stage1_faces.stock.mtcnn",
    ],
)
def test_inference_modules_do_not_import_the_training_packages(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_detecting_never_loads_torch(tmp_path):
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
    assert done.stderr == "error: this needs the package 'torch'; install it with `pip install -e '.[train]'`\n"


# What goes between processes of our own, through pipes that nobody else holds.
OWN_PIPES = ("child_process.py", "ray_pool.py")


def test_nothing_from_users_is_unpickled() -> None:
    for file in [file for package in ALLOWED for file in (ROOT / package).rglob("*.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert file.name in OWN_PIPES or not {"pickle", "cPickle", "dill", "shelve", "joblib", "marshal"} & set(
            imported(file)
        ), file
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            name = ast.unparse(call.func)
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load":
                assert said.get("weights_only") == "True", f"{file}:{call.lineno}"
            assert said.get("allow_pickle", "False") == "False", f"{file}:{call.lineno}"
            assert name not in ("yaml.load", "yaml.unsafe_load", "eval", "exec"), f"{file}:{call.lineno}"
