"""The stock cascade, facenet-pytorch's MTCNN, to hold ours against."""

from __future__ import annotations

from common.cli import requires_extra
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

# Chosen for the stock weights on training and validation photos, between finding most and speed (EXPERIMENTS.md).
SEARCH = MtcnnConfig(min_face=12, pnet_threshold=0.6, rnet_threshold=0.3)


def stock_detector(threads: int = 1) -> MtcnnDetector:
    """The stock cascade at SEARCH, its boxes as they are. Raises UserError when PyTorch is not installed."""
    with requires_extra("train"):
        from stage1_faces.training.export import STOCK, export_cascade, runtime, stock_nets
    nets = {name: runtime(graph, threads) for name, graph in export_cascade(stock_nets(), STOCK).items()}
    return MtcnnDetector(**nets, config=SEARCH)
