"""CascadeConfig refuses values out of range."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from stage1_faces.cascade_config import CascadeConfig

COUNTS = ("min_face", "max_side", "max_pnet", "max_rnet", "max_onet2")

SHARES = (
    *("pnet_threshold", "rnet_threshold", "onet2_threshold", "score_threshold"),
    *("nms_pnet", "nms_rnet", "nms_onet", "box_voting_iou"),
)

WRONG = {
    **dict.fromkeys(COUNTS, (0, 0.99, -1, math.nan)),
    **dict.fromkeys(SHARES, (-0.01, 1.01, math.nan)),
    "soft_nms_sigma": (-0.01, math.inf, math.nan),
    "slope": (0, -1, math.inf, math.nan),
    "intercept": (math.inf, -math.inf, math.nan),
    "second_look": (),  # a truth value
}


@pytest.mark.parametrize("name", [f.name for f in fields(CascadeConfig)])
def test_config_refuses_values_out_of_range(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=name):
            CascadeConfig(**{name: value})
