"""A YOLO11n-sized one-stage net with random weights, to time where no file of a one-stage detector is at hand.

YOLO11n (Ultralytics, 2024) is published with 2.6 million weights and 6.5 billion operations, 3.2 billion
multiply-adds, at 640x640. This net has as many multiply-adds, in the same kinds of layers: 3x3 and 1x1 convolutions
with SiLU, cross-stage blocks, features at strides 8, 16 and 32 joined up and down; one head for each. Its weights do
not change its time; its outputs mean nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stage1_faces.training.export import to_onnx

SIDE = 640
OUTPUTS = 64 + 3  # per cell: a distribution over each box edge, three classes


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


class _CrossStage(nn.Module):
    """Half of the channels pass two convolutions with a shortcut; all are joined (CSPNet, Wang et al. 2020)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.side = outputs // 2
        self.first = _conv(inputs, outputs, 1)
        self.inner = nn.Sequential(_conv(self.side, self.side // 2), _conv(self.side // 2, self.side))
        self.last = _conv(outputs + self.side, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = self.first(x)
        passed = both[:, self.side :]
        return self.last(torch.cat([both, passed + self.inner(passed)], dim=1))


class Yolo11nSizedNet(nn.Module):
    """(N, 3, 640, 640) -> (N, 67, 8400): outputs of each cell at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.to_8 = nn.Sequential(
            _conv(3, 16, stride=2), _conv(16, 32, stride=2), _CrossStage(32, 48),
            _conv(48, 64, stride=2), _CrossStage(64, 128),
        )  # fmt: skip
        self.to_16 = nn.Sequential(_conv(128, 128, stride=2), _CrossStage(128, 128))
        self.to_32 = nn.Sequential(_conv(128, 256, stride=2), _CrossStage(256, 256), _CrossStage(256, 256))
        self.up_16, self.up_8 = _CrossStage(256 + 128, 128), _CrossStage(128 + 128, 64)
        self.step_16, self.down_16 = _conv(64, 64, stride=2), _CrossStage(64 + 128, 128)
        self.step_32, self.down_32 = _conv(128, 128, stride=2), _CrossStage(128 + 256, 256)
        self.heads = nn.ModuleList(
            nn.Sequential(_conv(channels, 64), _conv(64, 64), nn.Conv2d(64, OUTPUTS, 1)) for channels in (64, 128, 256)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        at_8 = self.to_8(pixels)
        at_16 = self.to_16(at_8)
        at_32 = self.to_32(at_16)
        up_16 = self.up_16(torch.cat([F.interpolate(at_32, scale_factor=2.0), at_16], dim=1))
        out_8 = self.up_8(torch.cat([F.interpolate(up_16, scale_factor=2.0), at_8], dim=1))
        out_16 = self.down_16(torch.cat([self.step_16(out_8), up_16], dim=1))
        out_32 = self.down_32(torch.cat([self.step_32(out_16), at_32], dim=1))
        outputs = [head(x).flatten(2) for head, x in zip(self.heads, (out_8, out_16, out_32), strict=True)]
        return torch.cat(outputs, dim=2)


def yolo11n_sized_graph() -> bytes:
    """Return the net as an ONNX graph for one picture of 640x640."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Yolo11nSizedNet().eval()
    return to_onnx(net, (1, 3, SIDE, SIDE), {}, ("answers",))
