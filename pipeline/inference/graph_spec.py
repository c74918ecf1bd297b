"""What the nets of stage 1 take and give, held against what a graph declares: a wrong one is refused when loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from stage1_faces import detector
from stage1_faces.stock import mtcnn

Shape = tuple[int | None, ...]  # None: an axis of any length
SIDE = 48  # px: small, and taken by either cascade's P-Net


@dataclass(frozen=True)
class GraphSpec:
    """A net of a cascade, as its detector calls it.

    cells: of P-Net, how many it makes a side of a square of SIDE pixels; how far apart they lie stands in no shape.
    """

    cascade: str
    takes: Shape
    gives: tuple[Shape, ...]
    cells: int | None = None

    def mismatch(self, session: ort.InferenceSession) -> str | None:
        """What a graph declares and should, or None if it fits; an axis that it leaves open is let pass."""
        inputs, outputs = session.get_inputs(), session.get_outputs()
        wanted, declared = (self.takes, *self.gives), (*inputs, *outputs)
        if (
            len(inputs) == 1
            and len(wanted) == len(declared)
            and all(node.type == "tensor(float)" for node in declared)
            and all(_agree(shape, node.shape) for shape, node in zip(wanted, declared, strict=True))
        ):
            return None
        takes, gives = (_shown(node.shape for node in nodes) for nodes in (inputs, outputs))
        own = f"the {self.cascade} cascade's takes {_shown([self.takes])} and gives {_shown(self.gives)}"
        return f"takes {takes} and gives {gives}, {own}"


def graph_specs(cascade: str) -> dict[str, GraphSpec]:
    """The nets of a cascade, "fine-tuned" or "stock"."""
    if cascade == "stock":
        r_size, o_size, cells = mtcnn.R_SIZE, mtcnn.O_SIZE, (SIDE - mtcnn.CELL) // mtcnn.STRIDE + 1
    else:
        r_size, o_size, cells = detector.R_SIZE, detector.O_SIZE, SIDE // detector.STRIDE
    judged: tuple[Shape, ...] = ((None,), (None, 4))
    return {
        "pnet": GraphSpec(cascade, (None, 3, None, None), ((None, None, None), (None, 4, None, None)), cells),
        "rnet": GraphSpec(cascade, (None, 3, r_size, r_size), judged),
        "onet": GraphSpec(cascade, (None, 3, o_size, o_size), (*judged, (None, 5, 2))),
    }


def _agree(shape: Shape, declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(
        there == length for length, there in zip(shape, declared, strict=True) if isinstance(there, int)
    )


def _shown(shapes: Iterable[Sequence[int | str | None]]) -> str:
    """Shapes for people: in ?x3x24x24 the question mark is an axis of any length."""
    return ", ".join("x".join(str(n) if isinstance(n, int) else "?" for n in shape) or "a number" for shape in shapes)
