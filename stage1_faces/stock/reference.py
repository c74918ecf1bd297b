"""The stock cascade, facenet-pytorch's MTCNN, as a reference for comparisons."""

from __future__ import annotations

from common.cli import requires_extra
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

# Chosen for the stock weights on training and validation photos, between recall and speed (EXPERIMENTS.md).
STOCK_CONFIG = MtcnnConfig(min_face=12, pnet_threshold=0.6, rnet_threshold=0.3)


def stock_detector(threads: int = 1) -> MtcnnDetector:
    """Return the stock cascade at SEARCH, with unshifted boxes. Raise UserError when PyTorch is not installed."""
    with requires_extra("train"):
        from stage1_faces.training.export import STOCK, export_cascade, onnx_function, stock_nets
    nets = {name: onnx_function(graph, threads) for name, graph in export_cascade(stock_nets(), STOCK).items()}
    return MtcnnDetector(**nets, config=STOCK_CONFIG)
