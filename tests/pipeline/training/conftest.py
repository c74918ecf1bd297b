"""Fixtures of the tests that pack bundles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.detect.demo.command import portrait
from pipeline.inference.bundle import GRAPHS, Bundle
from pipeline.training.packing import classifier_source, pack
from stage1_faces.stock.mtcnn import MtcnnDetector
from stage1_faces.training.export import FINE_TUNED, STOCK, export_cascade, onnx_function, stock_nets
from stage1_faces.training.nets import build_net
from stage1_faces.training.run_folder import FinetuneFolder
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model
from stage2_classifier.training.checkpoint import save_model
from tests.helpers.training.packing import ALL, META, TILES, mean_colour_graph


@pytest.fixture(scope="module")
def cascade():
    """Export the stock cascade once for all tests here."""
    graphs = export_cascade(stock_nets(), STOCK)
    real = export_cascade
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "export_cascade", lambda nets, how: dict(graphs) if how is STOCK else real(nets, how))
        yield graphs


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a fine-tuning run with untrained nets."""
    folder = FinetuneFolder(tmp_path_factory.mktemp("runs") / "tuned")
    folder.claim({"format": 1, "recipe": {"pnet_steps": 1}, "data": "abc"})
    torch.manual_seed(0)
    for name in FINE_TUNED:
        folder.save_net(name, build_net(name), {})
    return folder.path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the run of an untrained network that calls everything without_mask."""
    folder = tmp_path_factory.mktemp("runs") / "try"
    torch.manual_seed(0)
    model = build_model("small_cnn_half", 3)
    with torch.no_grad():
        model.head.bias[1] += 100
    save_model(folder / "best.safetensors", model.state_dict(), META)
    (folder / "config.json").write_text(json.dumps({"class_counts": {"train": {"with_mask": 7}}}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cascade: dict[str, bytes]) -> Path:
    """Write two photos of 25 small portraits each, annotated with larger boxes than the cascade's, and a split."""
    root = tmp_path_factory.mktemp("data")
    tile = Image.fromarray(portrait()).resize((128, 105))
    # The stock cascade's box, extended on top by a quarter of its height.
    detector = MtcnnDetector(**{name: onnx_function(graph) for name, graph in cascade.items()})
    box = detector.detect(np.asarray(tile.resize((512, 420)))).boxes[0] / 4
    box[1] -= (box[3] - box[1]) / 4
    pixels = np.tile(np.asarray(tile), (TILES, TILES, 1))
    rows = []
    for i, name in enumerate(("t.png", "v.png")):
        Image.fromarray(pixels).save(root / name)
        for k in range(TILES**2):
            x, y = box[0] + 128 * (k % TILES), box[1] + 105 * (k // TILES)
            sides = box[2:] - box[:2]
            rows.append({"id": len(rows), "image_id": i, "category_id": 1, "bbox": [float(v) for v in (x, y, *sides)]})
    images = [{"id": i, "file_name": name} for i, name in enumerate(("t.png", "v.png", "gone.png"))]
    categories = [{"id": 1, "name": "without_mask"}]
    coco = {"images": images, "categories": categories, "annotations": rows}
    (root / "_annotations.coco.json").write_text(json.dumps(coco))
    (root / "splits.csv").write_text("image_id,split\nt,train\nv,val\n")
    return root


@pytest.fixture
def objectness_run(tmp_path: Path) -> Path:
    """Write a run whose network has objectness and box heads, too."""
    folder = tmp_path / "objectness"
    model = build_model("small_cnn_half", ALL.outputs)
    save_model(folder / "best.safetensors", model.state_dict(), replace(META, has_objectness=True, has_box=True))
    return folder


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the exports by the default bundle's cascade and a classifier by mean colours."""
    graphs = {name: Bundle.load().graph_bytes(name) for name in GRAPHS}

    def export(models: list[torch.nn.Module], input_size: int, heads: Heads) -> bytes:
        assert input_size == 32
        return mean_colour_graph(heads)

    monkeypatch.setattr(classifier_source, "export_classifier", export)
    monkeypatch.setattr(pack, "export_cascade", lambda nets, how: {name: graphs[name] for name in how})
