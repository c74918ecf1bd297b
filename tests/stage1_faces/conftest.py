"""The stock cascade for the tests, as ONNX Runtime functions; exported once."""

import onnxruntime as ort
import pytest

from stage1_faces.export import export_cascade


@pytest.fixture(scope="session")
def stock_nets():
    def function(graph):
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(None, {"pixels": pixels})

    return {name: function(graph) for name, graph in export_cascade().items()}
