"""torchvision's box detectors by name, adapted to small faces: anchors, input size, and weights to start from.

SSD (Liu et al. 2016), SSDLite (Howard et al. 2019), RetinaNet (Lin et al. 2017), FCOS (Tian et al. 2019) and Faster
R-CNN (Ren et al. 2015), which itself has two stages. Sizes are in pixels of the network's input.
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

MIN_SCORE, MAX_DETECTIONS = 0.01, 300  # of a detection's score, above; of detections in a photo, at most
# RetinaNet's anchors begin at 32 px, at cells of 8 px; half of the Kaggle set's faces are under 24 px. A quarter of
# that size is the smallest that cells of 8 px can separate.
ANCHOR_SCALE = 0.25
# SSD's default boxes as shares of the input's side, by level; torchvision's begin at 0.07, SSDLite's at 0.2.
SSD_SCALES = (0.04, 0.1, 0.2, 0.35, 0.55, 0.8, 1.0)
# A training photo's shorter side, as shares of the input size. SSD's side is fixed; there the crops change the scale.
SCALE_JITTER = (0.75, 0.875, 1.125, 1.25)
BATCH_COUNTER = "num_batches_tracked"  # in batch norms, but not in torchvision's frozen ones; has no effect here


def box_detectors() -> list[str]:
    """Return the names of torchvision's detectors that find only boxes."""
    return [name for name in list_models(module=detection) if not name.startswith(("keypointrcnn", "maskrcnn"))]


def check_model_name(name: str) -> None:
    """Raise UserError, with similar names, when torchvision has no box detector of that name."""
    known = box_detectors()
    if name not in known:
        close = [n for n in known if name.lower() in n][:3] or difflib.get_close_matches(name, known)
        hint = f"did you mean {', '.join(close)}?" if close else f"choose one of {', '.join(known)}"
        raise UserError(f"--model: {name!r} is not a box detector of torchvision; {hint}")


def build_detector(name: str, classes: int, size: int | None = None, small_anchors: bool = True) -> nn.Module:
    """Return a torchvision detector with new weights.

    Args:
        name: the detector's name in torchvision.models.detection.
        classes: number of classes, labelled from 1 on (0 is background).
        size: pixels of the network's input; None for the model's default.
        small_anchors: anchors for small faces.

    Returns:
        In train mode, the detector takes photos float (3, H, W) in 0..1 of any size and targets (boxes xyxy in the
        photos' pixels, labels), and returns losses. In eval mode, it takes photos, and returns boxes, scores and labels
        after non-maximum suppression by class.

    Raises:
        UserError: the name is unknown, or the model does not take the size.
    """
    check_model_name(name)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": classes + 1}
    if name.startswith("fasterrcnn"):
        options |= dict.fromkeys(("box_score_thresh", "rpn_score_thresh"), MIN_SCORE)
        options |= dict.fromkeys(("box_detections_per_img", "rpn_post_nms_top_n_test"), MAX_DETECTIONS)
        options["rpn_pre_nms_top_n_test"] = 1000
    model = get_model(name, **options)
    if not isinstance(model, FasterRCNN):
        model.score_thresh, model.detections_per_img = MIN_SCORE, MAX_DETECTIONS
        model.topk_candidates = max(model.topk_candidates, MAX_DETECTIONS)
    if small_anchors:
        _shrink_anchors(model)
    _resize(model, size)
    if size is not None:
        _check_size(model, name, size)
    return model.to(memory_format=torch.channels_last)  # a fifth faster on CPUs


def _shrink_anchors(model: nn.Module) -> None:
    """Replace the anchors by smaller ones, the same number at each place, so that pretrained weights still fit."""
    if isinstance(model, SSD):
        boxes = model.anchor_generator
        model.anchor_generator = DefaultBoxGenerator(boxes.aspect_ratios, scales=list(SSD_SCALES), steps=boxes.steps)
    elif isinstance(model, RetinaNet):
        model.anchor_generator = _scaled_anchors(model.anchor_generator)
    elif isinstance(model, FasterRCNN):
        model.rpn.anchor_generator = _scaled_anchors(model.rpn.anchor_generator)


def _scaled_anchors(anchors: AnchorGenerator) -> AnchorGenerator:
    sizes = tuple(tuple(size * ANCHOR_SCALE for size in level) for level in anchors.sizes)
    return AnchorGenerator(sizes, anchors.aspect_ratios)


def _resize(model: nn.Module, size: int | None) -> None:
    """Make the model scale photos to `size` or its default, with jitter in training where the size is not fixed."""
    scaling: Any = model.transform
    default = scaling.min_size[-1]
    size = size or default
    if scaling.fixed_size is not None:
        scaling.fixed_size, scaling.min_size, scaling.max_size = (size, size), (size,), size
    else:
        # Training draws one of these for each photo; detection takes the last one.
        scaling.max_size = round(size * scaling.max_size / default)
        scaling.min_size = (*(round(size * share) for share in SCALE_JITTER), size)


def _check_size(model: nn.Module, name: str, size: int) -> None:
    try:
        with torch.no_grad():
            model.eval()([torch.zeros(3, size, size)])
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        text = f"{name} does not take it; give a larger size, or leave out --size"
        raise UserError(f"--size is {size}: {text}") from error
    finally:
        model.train()


def load_pretrained(model: nn.Module, name: str) -> None:
    """Load torchvision's COCO weights from the hub, without the head, because the head has other classes.

    Raises UserError, with the address and the option for a local file, when the weights cannot be downloaded.
    """
    weights = get_model_weights(name).DEFAULT
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # the hub's client raises many types
        fix = f"download {weights.url} where it can be reached and give --weights FILE"
        raise UserError(f"--pretrained: no weights for {name} ({first_line(error)}); {fix}") from error
    _load_detector(model, tensors, "--pretrained")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a local state dict of such a detector (with `backbone.` in its names) or of its backbone alone.

    Tensors of the head and of a backbone's last blocks that do not fit are left out, and a line says so. Pickles are
    read with weights_only, which runs no code. Raises UserError when the file is missing, damaged, or another model's.
    """
    tensors = read_tensors(path)
    if any(name.startswith("backbone.") for name in tensors):
        _load_detector(model, tensors, str(path))
    else:
        _load_backbone(model, tensors, path)


def _load_detector(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    own = _without_counters(model.state_dict())
    fitting = {name: t for name, t in tensors.items() if name in own and t.shape == own[name].shape}
    missing = sorted(own.keys() - fitting.keys())
    wrong = [name for name in missing if name.startswith("backbone.")]
    if wrong:
        difference = f"{len(wrong)} tensors of the backbone differ: {wrong[0]}, ..."
        raise UserError(f"{source}: holds another model's weights ({difference})")
    model.load_state_dict(fitting, strict=False)
    if missing:
        console().print(f"{source}: the head does not fit these classes; a new head is trained", markup=False)


def _load_backbone(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load an image classifier's tensors by their order: torchvision's detectors rename them, but keep the order."""
    given = [(n, t) for n, t in _without_counters(tensors).items() if not re.match(r"(fc|classifier|head)\.", n)]
    own_state = _without_counters(model.state_dict())
    own_state.pop("backbone.scale_weight", None)  # in SSD's VGG, before the classifier's tensors
    own = [(n, t) for n, t in own_state.items() if n.startswith("backbone.")]
    loaded: dict[str, Tensor] = {}
    for (name, tensor), (own_name, own_tensor) in zip(given, own, strict=False):
        if tensor.shape != own_tensor.shape or name.rpartition(".")[2] != own_name.rpartition(".")[2]:
            break  # SSDLite from scratch has narrower last blocks than the classifier (Howard et al. 2019, table 6)
        loaded[own_name] = tensor
    if len(loaded) < len(given) / 2 or not given:
        raise UserError(f"{path}: holds another model's weights (only {len(loaded)} of {len(given)} tensors fit)")
    model.load_state_dict(loaded, strict=False)
    text = f"{path}: {len(loaded)} of {len(given)} tensors of the backbone are loaded; the others start new"
    console().print(text, markup=False, highlight=False)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(BATCH_COUNTER)}
