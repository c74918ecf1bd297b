"""torchvision's box detectors by name, fitted to small faces: anchors, input size, and weights to start from.

SSD (Liu et al. 2016), SSDLite (Howard et al. 2019), RetinaNet (Lin et al. 2017), FCOS (Tian et al. 2019) and, of two
stages itself, Faster R-CNN (Ren et al. 2015). Sizes are in pixels of the network's input.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights, list_models
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from common.cli import console
from common.errors import UserError, first_line
from stage2_classifier.models import read_tensors

FLOOR, MOST = 0.01, 300  # detections have a score above FLOOR, and a photo has at most MOST
# RetinaNet's anchors begin at 32 px, at cells of 8 px; half of the Kaggle set's faces are under 22 px. A quarter of
# the size is as small as cells of that stride can tell apart.
ANCHOR_SHARE = 0.25
# SSD's default boxes as shares of the input's side, level by level; torchvision's begin at 0.07 and, SSDLite's, 0.2.
SSD_SCALES = (0.04, 0.1, 0.2, 0.35, 0.55, 0.8, 1.0)
# A training photo's shorter side, as shares of the input size; SSD's is fixed, there the crops change the scale.
SCALE_JITTER = (0.75, 0.875, 1.125, 1.25)
COUNTER = "num_batches_tracked"  # of batch norms; torchvision's frozen ones lack it, and it counts for nothing here


def box_detectors() -> list[str]:
    """Names of torchvision's detectors that find boxes and nothing else."""
    return [name for name in list_models(module=detection) if not name.startswith(("keypointrcnn", "maskrcnn"))]


def check_name(name: str) -> None:
    """Raises UserError, with close names, when torchvision has no box detector of that name."""
    known = box_detectors()
    if name not in known:
        close = [n for n in known if name.lower() in n][:3] or difflib.get_close_matches(name, known)
        hint = f"did you mean {', '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise UserError(f"--model: {name!r} is no box detector of torchvision; {hint}")


def build_detector(name: str, classes: int, size: int | None = None, small_anchors: bool = True) -> nn.Module:
    """A torchvision detector with fresh weights for `classes` classes, labelled from 1 on (0 is background).

    In train mode it takes photos float (3, H, W) in 0..1 of any size and targets (boxes xyxy in their pixels, labels),
    and gives losses; in eval mode it takes photos, and gives boxes in their pixels, scores and labels after
    non-maximum suppression by class. Raises UserError on an unknown name and a size that the model does not take.
    """
    check_name(name)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": classes + 1}
    if name.startswith("fasterrcnn"):
        options |= {"box_score_thresh": FLOOR, "box_detections_per_img": MOST, "rpn_score_thresh": FLOOR}
        options |= {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": MOST}
    model = get_model(name, **options)
    if not isinstance(model, FasterRCNN):
        model.score_thresh, model.detections_per_img = FLOOR, MOST
        model.topk_candidates = max(model.topk_candidates, MOST)
    if small_anchors:
        _shrink_anchors(model)
    _resize(model, size)
    if size is not None:
        _check_size(model, name, size)
    return model.to(memory_format=torch.channels_last)  # a fifth faster on CPUs


def _shrink_anchors(model: nn.Module) -> None:
    """Replaces the anchors by smaller ones, as many at each place, so that weights for the others still fit."""
    if isinstance(model, SSD):
        boxes = model.anchor_generator
        model.anchor_generator = DefaultBoxGenerator(boxes.aspect_ratios, scales=list(SSD_SCALES), steps=boxes.steps)
    elif isinstance(model, RetinaNet):
        model.anchor_generator = _quartered(model.anchor_generator)
    elif isinstance(model, FasterRCNN):
        model.rpn.anchor_generator = _quartered(model.rpn.anchor_generator)


def _quartered(anchors: AnchorGenerator) -> AnchorGenerator:
    sizes = tuple(tuple(size * ANCHOR_SHARE for size in level) for level in anchors.sizes)
    return AnchorGenerator(sizes, anchors.aspect_ratios)


def _resize(model: nn.Module, size: int | None) -> None:
    """Has the model scale photos to `size`, or to its own, with jitter in training where it is not fixed."""
    scaling: Any = model.transform
    own = scaling.min_size[-1]
    size = size or own
    if scaling.fixed_size is not None:
        scaling.fixed_size, scaling.min_size, scaling.max_size = (size, size), (size,), size
    else:
        # One is drawn for each photo in training; the last one counts otherwise.
        scaling.max_size = round(size * scaling.max_size / own)
        scaling.min_size = (*(round(size * share) for share in SCALE_JITTER), size)


def _check_size(model: nn.Module, name: str, size: int) -> None:
    try:
        with torch.no_grad():
            model.eval()([torch.zeros(3, size, size)])
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"--size is {size}: {name} does not take it; give a larger one or none") from error
    finally:
        model.train()


def load_pretrained(model: nn.Module, name: str) -> None:
    """Loads torchvision's COCO weights from the hub; the head is left out, as its classes are others.

    Raises UserError, naming the address and the way with a local file, when they cannot be had.
    """
    weights = get_model_weights(name).DEFAULT
    try:
        found = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # the hub's client raises many kinds
        reason = first_line(error)
        raise UserError(
            f"--pretrained: no weights for {name} ({reason}); download {weights.url} where it can be reached "
            "and give --weights FILE"
        ) from error
    _load_detector(model, found, "--pretrained")


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a local state dict of such a detector (with `backbone.` in its names) or of its backbone alone.

    Of the detector's head, and of a backbone whose last blocks differ, what does not fit is left out, and said.
    Pickles are read with weights_only, which runs no code. Raises UserError when the file is missing or
    damaged, UserError when it holds another model's weights.
    """
    found = read_tensors(path)
    if any(name.startswith("backbone.") for name in found):
        _load_detector(model, found, str(path))
    else:
        _load_backbone(model, found, path)


def _load_detector(model: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    own = _tensors(model.state_dict())
    fitting = {name: t for name, t in found.items() if name in own and t.shape == own[name].shape}
    left = sorted(own.keys() - fitting.keys())
    wrong = [name for name in left if name.startswith("backbone.")]
    if wrong:
        raise UserError(
            f"{source}: holds another model's weights ({len(wrong)} tensors of the backbone differ: {wrong[0]}, ...)"
        )
    model.load_state_dict(fitting, strict=False)
    if left:
        console().print(f"{source}: its head does not fit these classes; a fresh one is trained", markup=False)


def _load_backbone(model: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    """Loads an image classifier's tensors, in their order: torchvision's detectors rename them, but keep the order."""
    given = [(n, t) for n, t in _tensors(found).items() if not re.match(r"(fc|classifier|head)\.", n)]
    # Of SSD's VGG, this one tensor comes before the classifier's.
    own = [(n, t) for n, t in _tensors(model.state_dict()).items() if n.startswith("backbone.")]
    own = [(n, t) for n, t in own if n != "backbone.scale_weight"]
    loaded: dict[str, Tensor] = {}
    for (name, tensor), (own_name, own_tensor) in zip(given, own, strict=False):
        if tensor.shape != own_tensor.shape or name.rpartition(".")[2] != own_name.rpartition(".")[2]:
            break  # SSDLite from scratch has narrower last blocks than the classifier (Howard et al. 2019, table 6)
        loaded[own_name] = tensor
    if len(loaded) < len(given) / 2 or not given:
        raise UserError(f"{path}: holds another model's weights (only {len(loaded)} of {len(given)} tensors fit)")
    model.load_state_dict(loaded, strict=False)
    text = f"{path}: {len(loaded)} of {len(given)} tensors of the backbone are loaded; the rest is trained afresh"
    console().print(text, markup=False, highlight=False)


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}
