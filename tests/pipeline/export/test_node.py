"""The exported detector in Node, by onnxruntime-node and by the WebAssembly of onnxruntime-web."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from common.boxes import iou
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.export.command import main
from pipeline.inference.predictor import Predictor
from tests.helpers.js_runtime import NODE, NODE_MODULES, needs_node

pytestmark = [pytest.mark.slow, needs_node]

SCRIPT = """
import fs from "node:fs";
const [runtime, threads, minScore] = process.argv.slice(2);
const module = await import(runtime);
const ort = module.default ?? module;
if (ort.env.wasm && threads) ort.env.wasm.numThreads = Number(threads);
const [height, width] = JSON.parse(fs.readFileSync("shape.json", "utf8"));
const options = { logSeverityLevel: 3 };
const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync("detector.onnx")), options);
const scalar = (value) => new ort.Tensor("float32", [value], []);
const image = new ort.Tensor("uint8", new Uint8Array(fs.readFileSync("image.rgb")), [height, width, 3]);
const more = minScore ? { min_score: scalar(Number(minScore)), min_face: scalar(0) } : {};
const { boxes, scores, labels } = await session.run({ image, ...more });
console.log(JSON.stringify({ boxes: [...boxes.data], scores: [...scores.data], labels: [...labels.data].map(Number) }));
process.exit(0);
"""


@pytest.mark.parametrize(
    ("package", "threads"),
    [("onnxruntime-node/dist/index.js", ""), ("onnxruntime-web/dist/ort.wasm.min.mjs", "1")],
)
@pytest.mark.parametrize("all_inputs", [False, True])
def test_the_answers_of_the_predictor(tmp_path: Path, package: str, threads: str, all_inputs: bool) -> None:
    options = ["--all-inputs"] if all_inputs else []
    assert main(["--out", str(tmp_path / "detector.onnx"), *options]) == 0
    image = synthetic_photo(641, 427, 6)
    (tmp_path / "image.rgb").write_bytes(image.tobytes())
    (tmp_path / "shape.json").write_text(json.dumps(image.shape))
    (tmp_path / "run.mjs").write_text(SCRIPT)
    assert NODE is not None
    command = [NODE, "run.mjs", str(NODE_MODULES / package), threads, *(["0.3"] if all_inputs else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = Predictor.default().detect(image, 0.3 if all_inputs else None)
    boxes = np.reshape(found["boxes"], (-1, 4)).astype(np.float32)
    partner = iou(expected.boxes, boxes).argmax(axis=1)  # faces of almost the same score may change places
    assert sorted(partner) == list(range(len(boxes))) and len(expected) > 3
    assert [found["labels"][k] for k in partner] == expected.label_ids.tolist()
    np.testing.assert_allclose(boxes[partner], expected.boxes, atol=1.5)
    np.testing.assert_allclose([found["scores"][k] for k in partner], expected.scores, atol=0.03)
