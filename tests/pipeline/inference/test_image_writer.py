"""Pictures written as JPEG and PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError
from common.images import read_image
from pipeline.inference.image_writer import write_image

# 2 rows x 3 columns of colours: R G B, white grey black. JPEG preserves blocks of 8 x 8 pixels.
COLOURS = np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (128, 128, 128), (0, 0, 0)]], np.uint8)
SCENE = COLOURS.repeat(8, axis=0).repeat(8, axis=1)


def test_write_image(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "a.png", SCENE)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png"), SCENE)
    write_image(tmp_path / "a.JPG", SCENE)
    assert Image.open(tmp_path / "a.JPG").format == "JPEG"
    centres = read_image(tmp_path / "a.JPG")[4::8, 4::8]
    assert np.abs(centres.astype(int) - COLOURS.astype(int)).max() <= 10
    with pytest.raises(MediaError, match=r"a\.xyz: cannot be written in this format; end its name with"):
        write_image(tmp_path / "a.xyz", SCENE)
    with pytest.raises(MediaError, match="too large for JPEG"):
        write_image(tmp_path / "wide.jpg", np.zeros((1, 65501, 3), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPG", "new"]
