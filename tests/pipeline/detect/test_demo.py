"""The demo command: the portrait, the drawn masks, and the call of pipeline.detect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from pipeline.detect.demo.command import main, portrait, tiled_photo
from pipeline.inference.predictor import Predictor


def test_the_default_photo_shows_more_than_one_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["--out", str(out)]) == 0
    (image,) = json.loads((out / "detections.json").read_text())["images"]
    assert len({face["label"] for face in image["faces"]}) > 1
    assert Path(image["file"]) == out / "demo" / "photo.png"
    screen = capsys.readouterr().out
    assert screen.startswith(f"$ python -m pipeline.detect {out}/demo/photo.png --out {out}\n")
    assert "without_mask" in screen and f"{out}/detections.json" in screen and f"{out}/photo.png" in screen
    assert (out / "photo.png").is_file()


def test_a_given_photo_is_used(tmp_path: Path) -> None:
    Image.fromarray(portrait()).save(tmp_path / "me.png")
    assert main([str(tmp_path / "me.png"), "--out", str(tmp_path / "out")]) == 0
    (image,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]
    assert [face["label"] for face in image["faces"]] == ["without_mask"]
    assert not (tmp_path / "out" / "demo").exists()


def test_a_missing_photo_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "gone.jpg"), "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "gone.jpg: not found" in line


def test_the_tiles_differ_by_the_mask_alone() -> None:
    face = portrait()
    tiles = tiled_photo(Predictor.default(), face)
    bare, masked, nose_out = np.split(tiles, 3, axis=1)
    assert (bare == face).all()
    # The hair is unchanged; the masks differ from the bare face and from each other.
    assert (masked[:60] == face[:60]).all() and (nose_out[:60] == face[:60]).all()
    assert (masked != face).any() and (nose_out != face).any() and (masked != nose_out).any()


def test_no_face_to_draw_on() -> None:
    with pytest.raises(UserError, match="PHOTO="):
        tiled_photo(Predictor.default(), np.full((60, 60, 3), 128, np.uint8))


def test_a_missing_extra_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"'matplotlib'; .* run `make demo`, or `pip install '\.\[demo\]'` in an env"):
        portrait()
