"""Photos that cannot be used are named, and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.annotations import AnnotatedImage, Annotations, Problem
from common.errors import UserError
from pipeline.data.checks import usable_images


def test_photos_of_no_use_are_named(tmp_path: Path) -> None:
    def annotated(name: str, size: tuple[int, int]) -> AnnotatedImage:
        return AnnotatedImage(tmp_path / name, name, size, np.zeros((0, 4), np.float32), ())

    for name in ("good.png", "turned.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    images = (annotated("broken.png", (8, 6)), annotated("good.png", (8, 6)), annotated("turned.png", (6, 8)))
    problems = tuple(Problem(Path(f"p{i}.xml"), "is no XML") for i in range(7))
    said: list[str] = []
    kept = usable_images(tmp_path, Annotations(images, (), problems), said.append)
    assert [image.image_id for image in kept] == ["good.png"]
    assert said[:2] == ["warning: p0.xml: is no XML", "warning: p1.xml: is no XML"]
    assert said[5] == "warning: and 2 more problems in the data"
    assert "broken.png" in said[6] and said[6].endswith("; left out")
    assert said[7].endswith("turned.png: is 8x6 when decoded, 6x8 by its header; left out")
    with pytest.raises(UserError, match="not one of its 1 photos can be used"):
        usable_images(tmp_path, Annotations(images[:1], ()), said.append)
