"""pipeline.bench's part torch: the nets of a training run in PyTorch; speed itself is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from pipeline.bench.command import main
from pipeline.bench.torch_nets import ONNX, TorchBundle, training_nets
from pipeline.detect.demo.command import portrait
from pipeline.inference.bundle import Bundle
from stage1_faces.training.nets import build_net, normalize_pixels
from stage1_faces.training.run_folder import NETS, FinetuneFolder
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import ModelMeta, save_model


def write_run(training: Path, name: str, input_size: int, margin: float) -> None:
    """Write a run of random weights with the outputs of the default bundle's classifier."""
    meta = Bundle.load().meta
    header = ModelMeta(
        model="small_cnn_half",
        class_names=meta.class_names,
        input_size=input_size,
        margin=margin,
        mean=meta.mean,
        std=meta.std,
        dropout=0.0,
        epoch=1,
        experiment=name,
        metrics={},
        has_objectness=True,
        has_box=True,
    )
    (training / "runs" / name).mkdir(parents=True)
    model = build_model(header.model, header.heads.outputs)
    save_model(training / "runs" / name / "best.safetensors", model.state_dict(), header)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Return the folder of a training with random weights, whose crops are those of the default bundle."""
    torch.manual_seed(0)
    folder = FinetuneFolder(tmp_path / "part" / "cascade")
    folder.claim({"format": 1})
    for name in NETS:
        folder.save_net(name, build_net(name), {})
    meta = Bundle.load().meta
    write_run(tmp_path / "part", "wide", meta.input_size, meta.margin)
    write_run(tmp_path / "part", "inner", 48, 0.1)
    return tmp_path / "part"


def test_the_nets_are_those_of_the_training(training: Path) -> None:
    bundle = Bundle.load()
    nets = training_nets(training, bundle)
    made = TorchBundle(bundle, nets)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    scores, deltas = made.graph("rnet")(pixels)
    with torch.no_grad():
        expected = nets["rnet"].net(normalize_pixels(torch.from_numpy(pixels)))
    np.testing.assert_allclose(scores, torch.sigmoid(expected[:, 0]), atol=1e-6)
    np.testing.assert_allclose(deltas, expected[:, 1:], atol=1e-6)
    side = bundle.meta.input_size
    probs, face, box = made.graph("classifier")(np.zeros((4, 3, side, side), np.float32))
    assert (probs.shape, face.shape, box.shape) == ((4, 3), (4,), (4, 4))
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


def test_each_number_of_photos_is_timed(training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for k in range(3):
        Image.fromarray(portrait()).resize((160 + 8 * k, 132)).save(tmp_path / "photos" / f"{k}.png")
    flags = ["--data", str(tmp_path / "photos"), "--rounds", "1", "--min-face", "40", "--parts", "torch"]
    assert main([*flags, "--training", str(training)]) == 0
    shown = capsys.readouterr().out.splitlines()
    record = json.loads(shown[-1])["torch"]
    names = [(each["name"], each["batch"]) for each in record["detectors"]]
    assert names == [(ONNX, 1), *(("PyTorch, cpu", batch) for batch in (1, 3, 3))]
    assert record["gpu"] is None and record["photos"] == 3 and all(each["mean_ms"] > 0 for each in record["detectors"])
    assert any("Nets in PyTorch" in line for line in shown)


def test_other_crops_than_the_bundles_are_refused(training: Path) -> None:
    (training / "runs" / "wide" / "best.safetensors").unlink()
    (training / "runs" / "wide").rmdir()
    with pytest.raises(UserError, match="its input_size 48 differs from the bundle's 80; give --bundle"):
        training_nets(training, Bundle.load())


def test_a_training_without_runs_is_refused(training: Path) -> None:
    (training / "runs").rename(training / "other")
    with pytest.raises(UserError, match="has no folder `runs` with finished runs"):
        training_nets(training, Bundle.load())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--parts torch: needs --training"),
        pytest.param(
            ["--training", "part", "--device", "cuda"],
            "--device cuda: PyTorch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_what_cannot_be_timed_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parts", "torch", *flags]) == 1
    assert message in capsys.readouterr().err
