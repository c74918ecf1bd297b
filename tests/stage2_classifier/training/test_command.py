"""The command line of training: experiments, flags and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.training.command import RENAMED_FLAGS, main


def test_command_line(tiny_crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "opt_sgd" in capsys.readouterr().out
    base = [f"--crops={tiny_crops.root}", f"--runs={tmp_path}", "--epochs=1", "--warmup-epochs=0", "--input-size=32"]
    command = [*base, "--experiment=loss_focal", "--batch-size=8", "--augment=none", "--model=small_cnn_half"]
    assert main(command) == 0
    record = json.loads((tmp_path / "loss_focal" / "config.json").read_text())
    assert (record["loss"], record["epochs"], record["label_smoothing"]) == ("focal", 1, 0.0)
    assert "finished; best validation macro-F1" in capsys.readouterr().out
    assert main([*command, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--crops=nowhere"], "crops.csv: not found"),
        (["--experiment=basline"], "did you mean baseline"),
        (["--lr=0"], "lr: 0.0 must be above 0"),
        (["--model=resnet1"], "model: 'resnet1'"),
        (["--optimizer=adamm"], "optimizer: cannot build 'adamm'"),
        (["--mixed-precision=fp16", "--cpu"], "fp16 needs a GPU"),
        (["--resume", "--overwrite"], "overwrite"),
        (["--weights=none.pth"], "none.pth: no such file"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tiny_crops: CropSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--crops={tiny_crops.root}", f"--runs={tmp_path}", *flags]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and err.startswith("error: ")
    assert not any(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(("old", "new"), RENAMED_FLAGS.items())
def test_flags_of_earlier_versions_are_refused_with_the_present_name(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([old], [f"{old}=1"]):
        assert main([f"--runs={tmp_path}", *flags]) == 1
        assert capsys.readouterr().err == f"error: {old}: has a new name; use {new}\n"
