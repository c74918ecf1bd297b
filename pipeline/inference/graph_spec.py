"""The input and output shapes of stage 1's nets: a graph that declares others is refused when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from stage1_faces import detector
from stage1_faces.stock import mtcnn

Shape = tuple[int | None, ...]  # None: an axis of any length
PROBE_SIDE = 48  # px: a small input that the P-Net of either cascade takes


@dataclass(frozen=True)
class GraphSpec:
    """The shapes of one net of a cascade."""

    cascade: str  # the cascade's name, as bundle.json has it
    input_shape: Shape  # shape of the input
    output_shapes: tuple[Shape, ...]  # shape of each output
    cells: int | None = None
    """P-Net only: cells per side of its output for a square of PROBE_SIDE pixels; the shapes do not show it."""

    def mismatch(self, session: ort.InferenceSession) -> str | None:
        """Return how the shapes that a graph declares differ, or None; an open axis of the graph matches any length."""
        inputs, outputs = session.get_inputs(), session.get_outputs()
        expected, declared = (self.input_shape, *self.output_shapes), (*inputs, *outputs)
        if (
            len(inputs) == 1
            and len(expected) == len(declared)
            and all(node.type == "tensor(float)" for node in declared)
            and all(_agree(shape, node.shape) for shape, node in zip(expected, declared, strict=True))
        ):
            return None
        takes, gives = (_as_text(node.shape for node in nodes) for nodes in (inputs, outputs))
        needs = f"takes {_as_text([self.input_shape])} and gives {_as_text(self.output_shapes)}"
        return f"takes {takes} and gives {gives}, the {self.cascade} cascade's {needs}"


def graph_specs(cascade: str) -> dict[str, GraphSpec]:
    """Return the specs of a cascade's nets by name; the cascade is "fine-tuned" or "stock"."""
    if cascade == "stock":
        r_size, o_size, cells = mtcnn.R_SIZE, mtcnn.O_SIZE, (PROBE_SIDE - mtcnn.CELL) // mtcnn.STRIDE + 1
    else:
        r_size, o_size, cells = detector.R_SIZE, detector.O_SIZE, PROBE_SIDE // detector.STRIDE
    score_and_box: tuple[Shape, ...] = ((None,), (None, 4))
    return {
        "pnet": GraphSpec(cascade, (None, 3, None, None), ((None, None, None), (None, 4, None, None)), cells),
        "rnet": GraphSpec(cascade, (None, 3, r_size, r_size), score_and_box),
        "onet": GraphSpec(cascade, (None, 3, o_size, o_size), (*score_and_box, (None, 5, 2))),
    }


def _agree(shape: Shape, declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(
        actual == length for length, actual in zip(shape, declared, strict=True) if isinstance(actual, int)
    )


def _as_text(shapes: Iterable[Sequence[int | str | None]]) -> str:
    """Return shapes as text such as ?x3x24x24, where ? is an axis of any length."""
    return ", ".join("x".join(str(n) if isinstance(n, int) else "?" for n in shape) or "a number" for shape in shapes)
