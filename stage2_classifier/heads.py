"""The meaning of a network's outputs: class logits, then the logit of being a face, then the box deltas."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """The outputs of a network."""

    classes: int  # number of classes; each has a logit
    has_objectness: bool = False  # whether one more output is the logit of being a face
    has_box: bool = False  # whether four more outputs are box deltas

    @property
    def outputs(self) -> int:
        """Return the number of outputs per crop."""
        return self.classes + int(self.has_objectness) + 4 * int(self.has_box)

    def class_logits(self, outputs: Tensor) -> Tensor:
        """Return the class logits (N, C) of outputs (N, outputs)."""
        return outputs[:, : self.classes]

    def face_logit(self, outputs: Tensor) -> Tensor:
        """Return the logits of being a face (N,) of outputs (N, outputs); only with has_objectness."""
        return outputs[:, self.classes]

    def box_deltas(self, outputs: Tensor) -> Tensor:
        """Return the box deltas (N, 4), as in cropping.box_deltas, of outputs (N, outputs); only with has_box."""
        return outputs[:, self.outputs - 4 :]
