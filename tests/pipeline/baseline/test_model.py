"""torchvision's detectors as baselines: names, anchors, sizes, and weights to start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v3_large, vgg16

from common.errors import UserError
from pipeline.baseline import model as baseline_model
from pipeline.baseline.model import box_detectors, build_detector, check_model_name, load_pretrained, load_weights

NAME = "ssdlite320_mobilenet_v3_large"
HEAD = "head.classification_head"


@pytest.fixture(scope="module")
def three() -> nn.Module:
    """A detector of three classes. Tests only read it."""
    torch.manual_seed(1)
    return build_detector(NAME, 3)


@pytest.fixture
def two() -> nn.Module:
    """A detector of two classes."""
    torch.manual_seed(2)
    return build_detector(NAME, 2)


def equal_weights(a: nn.Module, b: nn.Module) -> set[str]:
    """Return the names of equal weight tensors of both models, without norms, which all start equal."""
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    fitting = {n for n in ours.keys() & theirs.keys() if ours[n].shape == theirs[n].shape}
    return {n for n in fitting if ours[n].ndim > 1 and torch.equal(ours[n], theirs[n])}


def test_the_names_are_those_of_box_detectors() -> None:
    names = box_detectors()
    assert {NAME, "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"} <= set(names)
    assert not any("mask" in name or "keypoint" in name for name in names)
    with pytest.raises(UserError, match=f"did you mean {NAME}"):
        check_model_name("ssdlite")
    with pytest.raises(UserError, match="choose one of fasterrcnn_mobilenet_v3_large_320_fpn, "):
        check_model_name("zzz")


def smallest_ssd(model: Any) -> float:
    return float(min(pairs.min() for pairs in model.anchor_generator._wh_pairs)) * model.transform.fixed_size[0]


def smallest_retinanet(model: Any) -> float:
    return min(float(a[:, 3].min()) * 2 for a in model.anchor_generator.cell_anchors)


def smallest_faster_rcnn(model: Any) -> float:
    return min(float(a[:, 3].min()) * 2 for a in model.rpn.anchor_generator.cell_anchors)


@pytest.mark.parametrize(
    ("name", "smallest", "share"),
    [
        (NAME, smallest_ssd, 0.2),
        ("retinanet_resnet50_fpn", smallest_retinanet, 0.25),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", smallest_faster_rcnn, 0.25),
    ],
)
def test_anchors_suit_small_faces_unless_switched_off(
    name: str, smallest: Callable[[nn.Module], float], share: float
) -> None:
    with torch.device("meta"):  # weights do not matter
        small, stock = build_detector(name, 2), build_detector(name, 2, small_anchors=False)
    assert smallest(small) == pytest.approx(share * smallest(stock), rel=0.1)
    shapes = [{n: t.shape for n, t in model.state_dict().items()} for model in (small, stock)]
    assert shapes[0] == shapes[1]  # the weights of one fit the other


def test_size_is_the_networks_input() -> None:
    model: Any = build_detector(NAME, 2, size=96)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    with torch.no_grad():
        found = model.eval()([torch.rand(3, 60, 80)])[0]
    assert seen == [(1, 3, 96, 96)]
    assert found["boxes"][:, [0, 2]].max() <= 80  # in the photo's pixels
    assert len(found["boxes"]) <= 300
    assert found["scores"].min() > 0.01
    assert set(found["labels"].tolist()) <= {1, 2}
    with torch.device("meta"):
        scaled: Any = build_detector("fasterrcnn_mobilenet_v3_large_320_fpn", 2)
    assert scaled.transform.min_size[-1] == 320  # the model's default; training also draws sizes around it
    assert min(scaled.transform.min_size) < 320 < max(scaled.transform.min_size)


@pytest.mark.slow
def test_a_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="--size is 64: ssd300_vgg16 does not take it"):
        build_detector("ssd300_vgg16", 2, size=64)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_head_of_other_classes_is_left_out_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], three: nn.Module, two: nn.Module, suffix: str
) -> None:
    file = tmp_path / f"w{suffix}"
    tensors = {name: tensor.contiguous() for name, tensor in three.state_dict().items()}
    save_file(tensors, file) if suffix == ".safetensors" else torch.save({"model": tensors}, file)
    assert not equal_weights(two, three)
    load_weights(two, file)
    assert "the head does not fit these classes" in capsys.readouterr().out
    left = {name for name, p in two.named_parameters() if p.ndim > 1} - equal_weights(two, three)
    assert left
    assert all(name.startswith(HEAD) for name in left)


def test_a_head_of_the_same_number_of_classes_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], three: nn.Module
) -> None:
    torch.save(three.state_dict(), tmp_path / "w.pth")
    torch.manual_seed(3)
    other = build_detector(NAME, 3)
    load_weights(other, tmp_path / "w.pth")
    for name, tensor in three.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert not capsys.readouterr().out


def test_a_classifiers_weights_become_the_backbones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], two: nn.Module
) -> None:
    torch.manual_seed(4)
    classifier = mobilenet_v3_large(weights=None).eval()
    for norm in (m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.weight.data.uniform_(0.5, 1.5)
    torch.save(classifier.state_dict(), tmp_path / "mobilenet.pth")
    load_weights(two, tmp_path / "mobilenet.pth")
    assert "214 of 262 tensors of the backbone are loaded" in capsys.readouterr().out
    photo = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        stages: Any = two.eval().backbone
        ours = stages.features[0](photo)  # up to the widening of the 13th block
        theirs = classifier.features[13].block[0](classifier.features[:13](photo))
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_backbone_with_extra_tensors_takes_a_classifiers_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):  # only shapes matter
        given = vgg16(weights=None).state_dict()
        detector = build_detector("ssd300_vgg16", 2)
    monkeypatch.setattr(baseline_model, "read_tensors", lambda path: given)
    load_weights(detector, Path("vgg16.pth"))
    assert "vgg16.pth: 26 of 26 tensors of the backbone are loaded" in capsys.readouterr().out


@pytest.mark.slow
def test_other_models_and_damaged_files_are_refused(tmp_path: Path, three: nn.Module, two: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    lacking = {n: t for n, t in three.state_dict().items() if not n.startswith("backbone.extra")}
    torch.save(lacking, tmp_path / "lacking.pth")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    torch.save({"weights": [1]}, tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    for name, message in [
        ("lacking.pth", r"holds another model's weights \(\d+ tensors of the backbone differ"),
        ("resnet.pth", "holds another model's weights"),
        ("list.pth", "holds no dictionary of tensors"),
        ("cut.safetensors", "not readable as weights"),
        ("none.pth", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            load_weights(two, tmp_path / name)
    assert all(torch.equal(two.state_dict()[name], tensor) for name, tensor in before.items())


def test_coco_weights_come_without_their_head(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], three: nn.Module, two: nn.Module
) -> None:
    urls = []

    def hub(url: str, **options: Any) -> dict[str, torch.Tensor]:
        urls.append(url)
        return three.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", hub)
    load_pretrained(two, NAME)
    assert len(urls) == 1
    assert NAME in urls[0]
    assert "--pretrained: the head does not fit" in capsys.readouterr().out
    assert "backbone.extra.0.0.0.weight" in equal_weights(two, three)
