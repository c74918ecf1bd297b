"""O-Net's layers below its head, which both stages fine-tune: stage 1's O-Net, and stage 2's face trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from facenet_pytorch.models.mtcnn import ONet

FEATURES = 256  # outputs of the last layer


class OnetTrunk(nn.Module):
    """O-Net (Zhang et al. 2016) without its last layers: pixels (N, 3, 48, 48) -> features (N, 256).

    The weights come with facenet-pytorch, which trained them on faces and landmarks of WIDER FACE and CelebA. A mean
    replaces each layer's PReLU slopes. Stage 2 starts from stage 1's fine-tuned weights, so both name the layers
    `features` and `dense`, and their own last layer `head`.

    Args:
        stock: facenet-pytorch's net, whose layers become this net's.
        dropout: probability that a feature is dropped after the last layer.
    """

    def __init__(self, stock: ONet, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            stock.conv1, mean_leaky_relu(stock.prelu1), stock.pool1,
            stock.conv2, mean_leaky_relu(stock.prelu2), stock.pool2,
            stock.conv3, mean_leaky_relu(stock.prelu3), stock.pool3,
            stock.conv4, mean_leaky_relu(stock.prelu4),
        )  # fmt: skip
        self.dense = nn.Sequential(stock.dense5, mean_leaky_relu(stock.prelu5), nn.Dropout(dropout))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (N, 256) of pixels (N, 3, 48, 48)."""
        # The stock dense layer counts columns first, then rows, then channels.
        return self.dense(self.features(pixels).permute(0, 3, 2, 1).flatten(1))


def mean_leaky_relu(prelu: nn.PReLU) -> nn.LeakyReLU:
    """Return a PReLU with one fixed mean slope: ONNX Runtime fuses that into the convolution before it."""
    return nn.LeakyReLU(float(prelu.weight.detach().mean()))
