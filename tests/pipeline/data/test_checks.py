"""Photos that cannot be used are reported and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import AnnotatedImage, Annotations
from common.errors import UserError
from pipeline.data.checks import check_dataset


def test_unusable_photos_are_reported(tmp_path: Path) -> None:
    def annotated(name: str, size: tuple[int, int]) -> AnnotatedImage:
        return AnnotatedImage(tmp_path / name, name, size, np.zeros((0, 4), np.float32), ())

    for name in ("good.png", "turned.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    images = (annotated("broken.png", (8, 6)), annotated("good.png", (8, 6)), annotated("turned.png", (6, 8)))
    lines: list[str] = []
    kept = check_dataset(tmp_path, Annotations(images, ()), lines.append)
    assert [image.image_id for image in kept] == ["good.png"]
    assert len(lines) == 2 and "broken.png" in lines[0] and lines[0].endswith("; left out")
    assert lines[1].endswith("turned.png: is 8x6 when decoded, 6x8 by its header; left out")
    with pytest.raises(UserError, match="none of its 1 photos can be used"):
        check_dataset(tmp_path, Annotations(images[:1], ()), lines.append)
