"""The fine-tuned cascade's nets: P-Net and R-Net for small faces, O-Net from facenet-pytorch's weights.

P-Net and R-Net are plain 3x3 convolutions with batch normalisation (Ioffe & Szegedy 2015; ONNX Runtime folds it away)
and ReLU. Channels are multiples of 16, which is ONNX Runtime's fast layout. They see a face with its surroundings,
which small faces need most (Hu & Ramanan, "Finding Tiny Faces", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from facenet_pytorch.models.mtcnn import ONet
from torch import Tensor, nn
from torch.nn import functional as F

from common.training.onet_trunk import FEATURES, OnetTrunk
from stage1_faces.detector import R_SIZE
from stage1_faces.roi_crop import GREY

PRIOR_LOGIT = -4.0  # face logit of a cell before training: faces are rare (Lin et al., "Focal Loss", 2017)


def conv_block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Return convolution, batch normalisation, ReLU; padded so that stride 1 keeps the size."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ProposalNet(nn.Module):
    """P-Net: normalised (N, 3, H, W), sides multiples of 8 -> (N, 5, H/4, W/4): face logit, box deltas.

    Cells at stride 4 see 15 px closely and, through features at stride 8, 63 px coarsely.

    Args:
        width: channels at stride 4; those at stride 8 are half as many again.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = width * 3 // 2
        self.near = nn.Sequential(conv_block(3, 16, 2), conv_block(16, width, 2), conv_block(width, width))
        self.far = nn.Sequential(
            conv_block(width, wide, 2),
            conv_block(wide, wide),
            conv_block(wide, wide),
            conv_block(wide, width, kernel=1),
        )
        self.joined = conv_block(width, width)
        self.head = nn.Conv2d(width, 5, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        self.head.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT, 0, 0, 0, 0]))

    def forward(self, pixels: Tensor) -> Tensor:
        near = self.near(pixels)
        far = F.interpolate(self.far(near), scale_factor=2.0, mode="nearest")
        return self.head(self.joined(near + far))


class RefineNet(nn.Module):
    """R-Net: normalised (N, 3, 32, 32) -> (N, 5): face logit, box deltas."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_block(3, 16, 2),
            conv_block(16, 32, 2),
            conv_block(32, 32),
            conv_block(32, 64, 2),
            conv_block(64, 64),
            nn.Flatten(),
        )
        self.dense = nn.Sequential(nn.Dropout(0.2), nn.Linear(64 * (R_SIZE // 8) ** 2, 64), nn.ReLU())
        self.head = nn.Linear(64, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dense(self.features(pixels)))


class OutputNet(OnetTrunk):
    """O-Net: normalised (N, 3, 48, 48) -> (N, 15): face logit, box deltas, five landmarks (x, y) from the centre.

    The last layer is new, except for the face logit.
    """

    def __init__(self) -> None:
        stock = ONet()
        super().__init__(stock, dropout=0.2)
        self.head = nn.Linear(FEATURES, 15)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            # Softmax of two logits is the sigmoid of their difference.
            self.head.weight[0] = stock.dense6_1.weight[1] - stock.dense6_1.weight[0]
            self.head.bias[0] = stock.dense6_1.bias[1] - stock.dense6_1.bias[0]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(super().forward(pixels))


class BoxOffsets(nn.Module):
    """Learned offsets of other annotators' box deltas from the main source's, one of four numbers per source.

    A source's annotators draw boxes by rules of their own. The loss compares a net's box deltas plus the source's
    offset with that source's boxes. So the net keeps the main source's edges. The offsets are not saved with a net.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.offsets = nn.Parameter(torch.zeros(len(self.sources), 4))  # in anchor units and logarithms

    def forward(self, box_deltas: Tensor, source: Tensor) -> Tensor:
        """Return box deltas (N, 4) with the offsets of sources (N,): indices, -1 for boxes without an offset."""
        return box_deltas + F.pad(self.offsets, (0, 0, 1, 0))[source + 1]


PNET_WIDTH = 32  # channels of P-Net's inner layers


def build_net(name: str, pnet_width: int = PNET_WIDTH) -> nn.Module:
    """Return a "pnet" or "rnet" with random weights, or an "onet" with stock ones."""
    if name == "pnet":
        return ProposalNet(pnet_width)
    kinds: dict[str, type[nn.Module]] = {"rnet": RefineNet, "onet": OutputNet}
    return kinds[name]()


def normalize_pixels(pixels: Tensor) -> Tensor:
    """Map pixels 0..255 to about -1..1, with the grey outside a photo at 0."""
    return (pixels - GREY) / 128


class ExportWrapper(nn.Module):
    """A net as inference calls it: pixels of 0..255 -> face probability, box deltas and, from O-Net, landmarks.

    `stage1_faces.detector` lists the shapes.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = self.net(normalize_pixels(pixels))
        found = (torch.sigmoid(outputs[:, 0]), outputs[:, 1:5])
        return found if outputs.shape[1] == 5 else (*found, outputs[:, 5:].reshape(-1, 5, 2))
