"""The trunk's activations, and that both stages' nets share its layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.training.onet_trunk import mean_leaky_relu
from stage1_faces.training.nets import OutputNet
from stage2_classifier.models import FaceTrunk


def test_mean_leaky_relu_has_the_mean_slope() -> None:
    prelu = nn.PReLU(3)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.1, 0.2, 0.6]))
    assert mean_leaky_relu(prelu)(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([-0.3, 2.0])


def test_stage_2_starts_from_stage_1s_weights() -> None:
    """All tensors but the head's have the same names and shapes, and give the same features."""
    onet, trunk = OutputNet().eval(), FaceTrunk(8).eval()
    state = {name: value for name, value in onet.state_dict().items() if not name.startswith("head.")}
    missing, unexpected = trunk.load_state_dict(state, strict=False)
    assert sorted(missing) == ["head.bias", "head.weight"] and not unexpected
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = [super(type(net), net).forward(pixels) for net in (onet, trunk)]
    assert torch.equal(*features) and features[0].shape == (2, 256)
