"""The networks: our SmallCNN and FaceTrunk, and any timm model by name.

A network takes float32 (N, 3, S, S) and returns float32 (N, outputs): a logit for each of the C classes, then, where
the training has them, the face logit and four box deltas (`stage2_classifier.heads.Heads`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from common.cli import console
from common.errors import UserError, first_line
from common.training.onet_trunk import FEATURES, OnetTrunk
from stage2_classifier.config import FACE_TRUNK
from stage2_classifier.pretrained import PACKAGES, load_package_weights

# Channels of the first layer of each SmallCNN.
OWN_MODELS = {"small_cnn": 32, "small_cnn_half": 16}
# Standard deviation of a new head's weights on a trained backbone, as in Faster R-CNN (Ren et al. 2015). timm's start
# for a head of 8 outputs gives logits and box deltas of several units: a loss of 11 instead of 2.
NEW_HEAD_STD = 0.01


def _conv_bn(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016); halves height and width.

    The shortcut averages 2x2 pixels before the 1x1 convolution, so that every pixel counts (ResNet-D, He et al. 2019).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _conv_bn(inputs, outputs, stride=2)
        self.second = _conv_bn(outputs, outputs)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), *_conv_bn(inputs, outputs, kernel=1))
        # A block that starts as its shortcut trains more steadily (Goyal et al. 2017).
        nn.init.zeros_(self.second.get_parameter("1.weight"))  # gamma of the last batch norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (N, outputs, ceil(H / 2), ceil(W / 2)) of features (N, inputs, H, W)."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class SmallCNN(nn.Module):
    """A small residual network for face crops: 0.6 million weights at width 32, 24 million multiply-adds at 64 pixels.

    It has only layers that ONNX Runtime runs fast: 3x3 and 1x1 convolutions, batch norm and ReLU. Channel counts are
    multiples of 16. Global average pooling at the end takes any input of 32 pixels or more.

    Args:
        num_classes: number of outputs, those other than the classes included.
        dropout: probability that a feature is dropped before the last layer.
        width: channels of the first layer; later ones have more.
    """

    def __init__(self, num_classes: int, dropout: float = 0.0, width: int = 32) -> None:
        super().__init__()
        channels = [math.ceil(width * ratio / 16) * 16 for ratio in (1, 1.5, 3, 5)]  # multiples of 16
        self.stem = nn.Sequential(*_conv_bn(3, channels[0], stride=2), nn.ReLU())
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(channels)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the last layer; the method's name is timm's."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (N, num_classes) of crops (N, 3, S, S)."""
        x = self.blocks(self.stem(x))  # (N, C, S / 16, S / 16)
        return self.head(self.dropout(x.mean(dim=(2, 3))))


class FaceTrunk(OnetTrunk):
    """O-Net's layers under a new head: 48x48 crops, 0.4 million weights, 13 million multiply-adds.

    The pretrained weights come with facenet-pytorch, so they need no download.

    Args:
        num_classes: number of outputs, those other than the classes included.
        dropout: probability that a feature is dropped before the last layer.
        pretrained: whether the layers start from facenet-pytorch's weights.
    """

    pretrained_cfg: ClassVar[dict[str, Any]] = {"input_size": (3, 48, 48)}  # as timm's models have it

    def __init__(self, num_classes: int, dropout: float = 0.0, pretrained: bool = True) -> None:
        from facenet_pytorch.models.mtcnn import ONet

        super().__init__(ONet(), dropout)
        self.head = nn.Linear(FEATURES, num_classes)
        if not pretrained:  # the slopes stay: no checkpoint holds them
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.reset_parameters()

    def get_classifier(self) -> nn.Module:
        """Return the last layer; the method's name is timm's."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (N, num_classes) of crops (N, 3, 48, 48)."""
        return self.head(super().forward(x))


def build_model(
    name: str, num_classes: int, pretrained: bool = False, weights: str = "", dropout: float = 0.0
) -> nn.Module:
    """Return a network by name.

    Args:
        name: one of OWN_MODELS, "face_trunk" or any timm model.
        num_classes: number of outputs. The head is new unless the trained weights have a head of this size.
        pretrained: start from trained weights: of an installed package (stage2_classifier.pretrained), or of the hub.
        weights: a local file of weights; "" for none.
        dropout: probability before the last layer.

    Raises:
        UserError: the name is unknown, there are no pretrained weights, or `weights` does not fit the model.
    """
    if name in OWN_MODELS:
        if pretrained:
            raise UserError(f"pretrained: {name} has no pretrained weights; use --weights FILE")
        model: nn.Module = SmallCNN(num_classes, dropout, OWN_MODELS[name])
    elif name == FACE_TRUNK:
        model = FaceTrunk(num_classes, dropout, pretrained)
    else:
        model = _timm_model(name, num_classes, pretrained, dropout)
        own_head = pretrained and num_classes == (getattr(model, "pretrained_cfg", None) or {}).get("num_classes")
        if (pretrained or weights) and not own_head:
            _start_head_near_zero(model)
    if weights:
        load_weights(model, weights)
    return model


def _timm_model(name: str, num_classes: int, pretrained: bool, dropout: float) -> nn.Module:
    """Return a timm model; raise UserError as build_model does."""
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        close = difflib.get_close_matches(name, [*OWN_MODELS, FACE_TRUNK, *timm.list_models()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists all"
        raise UserError(f"model: {name!r} is unknown to us and to timm; {hint}")
    package = PACKAGES.get(name) if pretrained else None
    from_hub = pretrained and package is None
    try:
        model: nn.Module = timm.create_model(name, pretrained=from_hub, num_classes=num_classes, drop_rate=dropout)
    except Exception as error:  # the hub's client and timm raise many kinds
        reason = first_line(error)
        if not from_hub:
            raise UserError(f"model: timm cannot build {name} ({reason})") from error
        fix = "download them where the hub can be reached, then use --no-pretrained --weights FILE"
        offline = f"or a model whose weights come with a package: {', '.join(PACKAGES)}"
        raise UserError(f"pretrained: no weights for {name} ({reason}); {fix}, {offline}") from error
    if package is not None:
        load_package_weights(model, package)
    return model


def _head_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return what get_classifier() returns, as a tuple."""
    heads = model.get_classifier()  # type: ignore[operator]  # timm's convention, unknown to nn.Module
    return tuple(heads) if isinstance(heads, tuple) else (heads,)


def _start_head_near_zero(model: nn.Module) -> None:
    """Give the head small random weights and a bias of 0."""
    for parameter in split_parameters(model)[1]:
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=NEW_HEAD_STD)
        else:
            nn.init.zeros_(parameter)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of the backbone and of the head; the head is what get_classifier() returns."""
    head = [p for module in _head_modules(model) for p in module.parameters()]
    ids = {id(p) for p in head}
    return [p for p in model.parameters() if id(p) not in ids], head


def backbone_modules(model: nn.Module) -> list[nn.Module]:
    """Return every module without children (such as convolutions and norms) outside the head."""
    head = {id(m) for module in _head_modules(model) for m in module.modules()}
    return [m for m in model.modules() if id(m) not in head and not list(m.children())]


def input_stats(model: nn.Module) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std per channel of the model's input, for pixels of 0..1: timm's values, 0.5 and 0.5 for ours."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return _triple(config.get("mean")), _triple(config.get("std"))


def _triple(values: Iterable[float] | None) -> tuple[float, float, float]:
    r, g, b = (0.5, 0.5, 0.5) if values is None else (float(v) for v in values)
    return r, g, b


def check_input_size(model: nn.Module, input_size: int) -> None:
    """Raise UserError when the model does not take square inputs of that side."""
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, input_size, input_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        own = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 64, 64))[-1]
        raise UserError(f"input_size: the model does not take {input_size} pixels; try {own}") from error
    finally:
        model.train(was_training)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a local file of weights into `model`; a head of another class count is skipped, with a printed line.

    Pickles are read with weights_only, which runs no code. Raises UserError when the file is missing or damaged, or
    has other tensors than the model.
    """
    path = Path(path)
    found = read_tensors(path)
    own = model.state_dict()
    head_ids = {id(p) for p in split_parameters(model)[1]}
    heads = {name for name, p in model.named_parameters() if id(p) in head_ids}
    if dropped := sorted(n for n in heads if n not in found or found[n].shape != own[n].shape):
        console().print(f"{path}: its head does not fit {len(own[dropped[0]])} outputs; a fresh one is trained")
        found = {name: t for name, t in found.items() if name not in dropped}
    if wrong := mismatched_tensors({name: t for name, t in own.items() if name not in dropped}, found):
        shown = f"{len(wrong)} tensors differ, such as {', '.join(wrong[:3])}"
        raise UserError(f"{path}: weights of another model ({shown}); use this model's weights")
    check_finite(path, found)
    model.load_state_dict(found, strict=False)


def mismatched_tensors(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that only one of the two has, then of those whose shapes differ."""
    shared = own.keys() & found.keys()
    return sorted(own.keys() ^ found.keys()) + sorted(name for name in shared if own[name].shape != found[name].shape)


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError when a file has weights that are NaN or infinite."""
    for name, tensor in sorted(tensors.items()):
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: its weights are not finite numbers ({name}); train or download it again")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a local file by name, without the usual wrappers; raise UserError as load_weights does."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights; check the name")
    try:
        safe = path.suffix == ".safetensors"
        loaded: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds: SafetensorError, UnpicklingError, zip errors
        raise UserError(f"{path}: not readable as weights; it may be cut short, download it again") from error
    for key in ("state_dict", "model"):  # the usual wrappers around a state dict
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    entries: Iterable[tuple[Any, Any]] = loaded.items() if isinstance(loaded, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in entries):
        raise UserError(f"{path}: holds no dictionary of tensors; save model.state_dict() instead")
    return {name.removeprefix("module."): tensor for name, tensor in entries}
