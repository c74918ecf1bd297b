"""Errors of the fine-tuning command, each in one line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from common.errors import UserError
from common.run_folder import lock_folder
from stage1_faces.training import finetune
from stage1_faces.training.finetune import main
from stage1_faces.training.finetune_config import CHOICES, FinetuneConfig
from tests.helpers.drawn_photos import write_dataset
from tests.helpers.training.quick_finetune import RECIPE, run
from tests.stage1_faces.training.finetune_checks import result


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line that the command ends in, with exit code 1."""
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert captured.out == ""
    return captured.err


def test_a_run_is_not_written_among_the_photos(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "runs" / "cascade"
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", out)
    assert line.startswith(f"error: {out}: ") and "would be read as data" in line and "--out" in line
    assert not (data / "runs").exists()


def test_missing_data_and_splits(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    line = failed(capsys, "--data", tmp_path / "nowhere", "--splits", data / "splits.csv", "--out", out)
    assert str(tmp_path / "nowhere") in line
    line = failed(capsys, "--data", data, "--splits", tmp_path / "none.csv", "--out", out)
    assert f"{tmp_path / 'none.csv'}: not found; make it with" in line
    (tmp_path / "empty").mkdir()
    line = failed(capsys, "--data", tmp_path / "empty", "--splits", data / "splits.csv", "--out", out)
    assert str(tmp_path / "empty") in line
    assert not out.exists()


def test_no_face_to_learn_from(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "splits.csv").write_text("image_id,split\np0,val\np1,val\np2,val\np3,test\n")
    line = failed(capsys, "--data", data, "--splits", tmp_path / "splits.csv", "--out", tmp_path / "run")
    assert "splits.csv: split 'train' has no photo" in line and "make the split again" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(
            (f"--{f.name.replace('_', '-')}", "0")
            for f in fields(FinetuneConfig)
            if f.name not in ("seed", "weight_decay", *CHOICES)
        ),
        ("--pnet-steps", "-5"),
        ("--passes", "-1"),
        ("--onet-rate", "nan"),
        ("--pnet-rate", "inf"),
        ("--weight-decay", "-0.1"),
        ("--weight-decay", "nan"),
        ("--seed", "-1"),
        ("--rnet-batch", "1"),
        ("--onet-batch", "1"),
        ("--pnet-width", "40"),
        ("--pnet-width", "512"),
        ("--hidden-factor", "nan"),
    ],
)
def test_bad_recipes(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    value: str,
) -> None:
    monkeypatch.setattr(finetune, "finetune", lambda *_, **__: pytest.fail("was accepted"))
    where = ["--data", data, "--splits", data / "splits.csv", "--out", tmp_path / "run"]
    assert flag in failed(capsys, *where, f"{flag}={value}")
    assert not (tmp_path / "run").exists()


def test_another_recipe_in_the_same_folder(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result(unbroken)
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", unbroken, "--seed", "3")
    assert f"{unbroken}: holds a fine-tuning with another recipe" in line and "--overwrite" in line
    # Another split is other data.
    (tmp_path / "splits.csv").write_text("image_id,split\np0,train\np1,val\np2,val\np3,test\n")
    with pytest.raises(UserError, match="another data"):
        finetune.finetune(data, tmp_path / "splits.csv", unbroken, RECIPE)
    assert result(unbroken) == before


def test_a_folder_of_something_else(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", tmp_path)
    assert "holds other files and no fine-tuning" in line
    line = failed(capsys, "--data", data, "--splits", data / "splits.csv", "--out", tmp_path / "notes.txt")
    assert "notes.txt" in line


def test_interrupted_by_hand(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "finetune", interrupted)
    assert main(["--data", str(data), "--out", "run"]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command to resume\n"


@pytest.mark.usefixtures("quick")
def test_a_photo_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", ("train", "train", "val"))
    pixels = (data / "p1.png").read_bytes()
    (data / "p1.png").write_bytes(pixels[: len(pixels) // 2])
    run(data, tmp_path / "run")
    assert (tmp_path / "run" / "onet.safetensors").is_file()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "p1.png: is truncated or broken" in warnings[0]
    assert warnings[0].endswith("left out")


@pytest.mark.usefixtures("quick")
def test_a_photo_that_is_readable_again_makes_another_run(tmp_path: Path) -> None:
    # Mined windows count the photos: one more would shift them all.
    data = write_dataset(tmp_path / "data", ("train", "train", "val"))
    pixels = (data / "p1.png").read_bytes()
    (data / "p1.png").write_bytes(pixels[: len(pixels) // 2])
    run(data, tmp_path / "run")
    (data / "p1.png").write_bytes(pixels)
    with pytest.raises(UserError, match="holds a fine-tuning with another data"):
        run(data, tmp_path / "run")


@pytest.mark.usefixtures("quick")
def test_one_process_per_folder(data: Path, tmp_path: Path) -> None:
    out = run(data, tmp_path / "run")
    with lock_folder(out), pytest.raises(UserError, match="works here; wait for it or end it"):
        run(data, out)
    run(data, out)
