"""The fine-tuned cascade's nets: P-Net and R-Net re-made for small faces, O-Net from facenet-pytorch's weights.

P-Net and R-Net are plain 3x3 convolutions with batch normalisation (Ioffe & Szegedy 2015; ONNX Runtime folds it away)
and ReLU, channels in multiples of 16: ONNX Runtime's fast layout. They see a face with its surroundings, which
small faces need most (Hu & Ramanan, "Finding Tiny Faces", 2017).
"""

from __future__ import annotations

import torch
from facenet_pytorch.models.mtcnn import ONet
from torch import Tensor, nn
from torch.nn import functional as F

from stage1_faces.detector import R_SIZE
from stage1_faces.roi_crop import GREY

PRIOR_LOGIT = -4.0  # of a cell before training: faces are rare (Lin et al., "Focal Loss", 2017)


def block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; padded so that stride 1 keeps the size."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ProposalNet(nn.Module):
    """P-Net: normalised (N, 3, H, W), sides multiples of 8 -> (N, 5, H/4, W/4): face logit, box numbers.

    Cells at stride 4 see 15 px closely and, through features at stride 8, 63 px coarsely.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide = width * 3 // 2
        self.near = nn.Sequential(block(3, 16, 2), block(16, width, 2), block(width, width))
        self.far = nn.Sequential(
            block(width, wide, 2), block(wide, wide), block(wide, wide), block(wide, width, kernel=1)
        )
        self.joined = block(width, width)
        self.head = nn.Conv2d(width, 5, 1)
        nn.init.normal_(self.head.weight, std=0.01)
        self.head.bias = nn.Parameter(torch.tensor([PRIOR_LOGIT, 0, 0, 0, 0]))

    def forward(self, pixels: Tensor) -> Tensor:
        near = self.near(pixels)
        far = F.interpolate(self.far(near), scale_factor=2.0, mode="nearest")
        return self.head(self.joined(near + far))


class RefineNet(nn.Module):
    """R-Net: normalised (N, 3, 32, 32) -> (N, 5): face logit, box numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 16, 2), block(16, 32, 2), block(32, 32), block(32, 64, 2), block(64, 64), nn.Flatten()
        )
        self.dense = nn.Sequential(nn.Dropout(0.2), nn.Linear(64 * (R_SIZE // 8) ** 2, 64), nn.ReLU())
        self.head = nn.Linear(64, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dense(self.features(pixels)))


def leaky(learned: nn.PReLU) -> nn.LeakyReLU:
    """A PReLU with one slope for all channels, fixed: ONNX Runtime fuses that into the convolution before it."""
    return nn.LeakyReLU(float(learned.weight.detach().mean()))


class OutputNet(nn.Module):
    """O-Net: normalised (N, 3, 48, 48) -> (N, 15): face logit, box numbers, five landmarks (x, y) from the centre.

    Layers and weights are facenet-pytorch's O-Net (trained on WIDER FACE and CelebA), so that it starts with what that
    one knows of bare faces; each layer's PReLU slopes are replaced by their mean, and the last layer is new but for
    its face logit.
    """

    def __init__(self) -> None:
        super().__init__()
        stock = ONet()
        self.features = nn.Sequential(
            stock.conv1, leaky(stock.prelu1), stock.pool1,
            stock.conv2, leaky(stock.prelu2), stock.pool2,
            stock.conv3, leaky(stock.prelu3), stock.pool3,
            stock.conv4, leaky(stock.prelu4),
        )  # fmt: skip
        self.dense = nn.Sequential(stock.dense5, leaky(stock.prelu5), nn.Dropout(0.2))
        self.head = nn.Linear(256, 15)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            # Softmax of two logits is the sigmoid of their difference.
            self.head.weight[0] = stock.dense6_1.weight[1] - stock.dense6_1.weight[0]
            self.head.bias[0] = stock.dense6_1.bias[1] - stock.dense6_1.bias[0]

    def forward(self, pixels: Tensor) -> Tensor:
        # The stock dense layer counts columns first, then rows, then channels.
        return self.head(self.dense(self.features(pixels).permute(0, 3, 2, 1).flatten(1)))


def build_net(name: str) -> nn.Module:
    """A "pnet" or "rnet" with random weights, or an "onet" with stock ones."""
    kinds: dict[str, type[nn.Module]] = {"pnet": ProposalNet, "rnet": RefineNet, "onet": OutputNet}
    return kinds[name]()


def normalised(pixels: Tensor) -> Tensor:
    """Pixels 0..255 to about -1..1, with the grey outside a photo at 0."""
    return (pixels - GREY) / 128


class ExportWrapper(nn.Module):
    """A net as inference wants it: pixels of 0..255 -> face probability, box numbers and, of O-Net, landmarks.

    The shapes are those that `stage1_faces.detector` names.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        numbers = self.net(normalised(pixels))
        found = (torch.sigmoid(numbers[:, 0]), numbers[:, 1:5])
        return found if numbers.shape[1] == 5 else (*found, numbers[:, 5:].reshape(-1, 5, 2))
