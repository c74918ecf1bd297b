"""The folder of a fine-tuning: nets and states read back, and a damaged file is named."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from common.errors import UserError
from common.training import state_file
from stage1_faces.training import run_folder
from stage1_faces.training.nets import build_net
from stage1_faces.training.run_folder import NETS, FinetuneFolder, load_net, run_facts

RECORD = {"format": 1, "recipe": {"steps": 3, "rate": 0.001}, "data": "abc"}


@pytest.fixture
def folder(tmp_path: Path) -> FinetuneFolder:
    folder = FinetuneFolder(tmp_path / "run")
    folder.claim(RECORD)
    return folder


def names(folder: FinetuneFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


# Python's messages for invalid JSON; "..." replaces their ends.
NO_NAME, NO_TEXT = "Expecting property name enclosed in double quotes: ...", "'utf-8' codec can't decode byte 0xff..."


def assert_says(error: pytest.ExceptionInfo[UserError], line: str) -> None:
    """The message is `line`, in which "..." stands for a library's words."""
    assert re.fullmatch(re.escape(line).replace(re.escape("..."), ".*"), str(error.value)), str(error.value)


def one_line(error: pytest.ExceptionInfo[UserError], file: Path) -> None:
    assert "\n" not in str(error.value) and str(error.value).startswith(str(file))


# The log


@pytest.mark.parametrize("text", ["[]\n", "{}\n", '{"net": "pnet"}\n{"epoch": 2}\n'])
def test_a_log_whose_lines_name_no_net_is_damaged(folder: FinetuneFolder, text: str) -> None:
    (folder.path / "log.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        folder.rows()
    assert_says(error, f"{folder.path}/log.jsonl: damaged (a line names no net); give --overwrite or another --out")


# State and nets


def test_state_reads_back(folder: FinetuneFolder) -> None:
    assert folder.load_state("rnet") is None
    net = build_net("rnet")
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    net(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "history": [{"loss": 0.5}]}
    folder.save_state("rnet", state)
    back = folder.load_state("rnet")
    assert back is not None and (back["epoch"], back["history"]) == (3, [{"loss": 0.5}])
    for key, value in net.state_dict().items():
        assert torch.equal(back["model"][key], value)
    moments, kept = optimizer.state_dict()["state"], back["optimizer"]["state"]
    assert all(torch.equal(moments[k]["exp_avg"], kept[k]["exp_avg"]) for k in moments)
    assert names(folder) == ["config.json", "rnet.state"]


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.trace,))


def test_damaged_states_are_named_and_run_no_code(folder: FinetuneFolder, tmp_path: Path) -> None:
    file = folder.path / "pnet.state"
    folder.save_state("pnet", {"epoch": 1, "model": {"w": torch.zeros(2000)}})
    whole = file.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:-1], b"\0" * 5000):
        file.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            folder.load_state("pnet")
        assert str(error.value) == f"{file}: damaged; remove it to train this net again"
    torch.save({"format": 1, "evil": Evil(tmp_path / "trace")}, file)
    with pytest.raises(UserError) as error:
        folder.load_state("pnet")
    assert str(error.value) == f"{file}: damaged; remove it to train this net again"
    assert not (tmp_path / "trace").exists()


def test_states_of_another_version_are_named(folder: FinetuneFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "STATE_FORMAT", 99)
        folder.save_state("pnet", {"epoch": 1})
    line = f"{folder.path}/pnet.state: of another version of this program; remove it to train this net again"
    with pytest.raises(UserError) as error:
        folder.load_state("pnet")
    assert str(error.value) == line
    torch.save([1, 2], folder.path / "pnet.state")
    with pytest.raises(UserError) as error:
        folder.load_state("pnet")
    assert str(error.value) == line


@pytest.mark.parametrize("name", NETS)
def test_nets_read_back_and_their_state_goes(folder: FinetuneFolder, name: str) -> None:
    torch.manual_seed(0)
    net = build_net(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    folder.save_state(name, {"epoch": 1})
    folder.save_net(name, net, {"steps": 7})
    assert names(folder) == ["config.json", f"{name}.safetensors"]
    back = load_net(folder.path, name)
    assert not back.training
    for key, value in net.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    assert b'"steps' in (folder.path / f"{name}.safetensors").read_bytes()[:1000].replace(b"\\", b"")


R_NET = {name: tensor.contiguous() for name, tensor in build_net("rnet").state_dict().items()}
NAMED = {run_folder.HEADER: json.dumps({"net": "rnet"})}
# "..." stands for a library's words
UNREADABLE = "damaged or not safetensors (Error while deserializing header: ...); train or copy it again"
DEEP = "damaged or not safetensors (maximum recursion depth exceeded...); train or copy it again"
NOT_OURS = "holds no rnet of this version ({}); train or copy it again"
NETS_ODDITIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: None, "not found; train it with `python -m stage1_faces.finetune --out {folder}`"),
    "empty": (Path.touch, UNREADABLE),
    "no safetensors": (lambda file: file.write_text("hello"), UNREADABLE),
    "cut off in the header": (lambda file: file.write_bytes(save(R_NET, NAMED)[:100]), UNREADABLE),
    "cut off in the weights": (lambda file: file.write_bytes(save(R_NET, NAMED)[:-1]), UNREADABLE),
    "a pickle": (lambda file: torch.save(R_NET, file), UNREADABLE),
    "a deep header": (lambda file: save_file(R_NET, file, {run_folder.HEADER: "[" * 100_000}), DEEP),
    "nobody's": (lambda file: save_file(R_NET, file), NOT_OURS.format("its header names {{}}")),
    "a list for a header": (
        lambda file: save_file(R_NET, file, {run_folder.HEADER: "[]"}),
        NOT_OURS.format("its header names []"),
    ),
    "of the other stage": (
        lambda file: save_file(R_NET, file, {"face_mask_classifier": "{}"}),
        NOT_OURS.format("its header names {{}}"),
    ),
    "another net": (
        lambda file: save_file(R_NET, file, {run_folder.HEADER: json.dumps({"net": "pnet"})}),
        NOT_OURS.format("its header names {{'net': 'pnet'}}"),
    ),
    "another shape": (
        lambda file: save_file({**R_NET, "head.weight": torch.zeros(5, 3)}, file, NAMED),
        NOT_OURS.format("size mismatch for head.weight: ..."),
    ),
    "a missing tensor": (
        lambda file: save_file({k: v for k, v in R_NET.items() if k != "head.bias"}, file, NAMED),
        NOT_OURS.format('Missing key(s) in state_dict: "head.bias"'),
    ),
    "NaN": (
        lambda file: save_file({**R_NET, "head.bias": R_NET["head.bias"] * math.nan}, file, NAMED),
        "its weights are not finite numbers (head.bias); train or copy it again",
    ),
}


@pytest.mark.parametrize("oddity", NETS_ODDITIES)
def test_every_oddity_of_a_nets_file_is_one_line(tmp_path: Path, oddity: str) -> None:
    make, line = NETS_ODDITIES[oddity]
    file = tmp_path / "rnet.safetensors"
    make(file)
    with pytest.raises(UserError) as error:
        load_net(tmp_path, "rnet")
    expected = f"{file}: {line.format(folder=tmp_path)}"
    assert_says(error, expected)


# What others may read of a run


def test_run_facts(folder: FinetuneFolder) -> None:
    facts = {"recipe": {"steps": 3, "rate": 0.001}, "data": "abc"}
    assert run_facts(folder.path) == facts
    folder.write_json("config.json", {**folder.read_record(), "dataset": "photos"})
    assert run_facts(folder.path) == {**facts, "dataset": "photos"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", NO_NAME),
        ("[]", "list indices must be integers..."),
        ("{}", "'recipe'"),
        ('{"recipe": 3, "data": "x"}', "'int' object is not iterable"),
        ("\xff", NO_TEXT),
    ],
)
def test_facts_of_a_damaged_record(folder: FinetuneFolder, text: str, why: str) -> None:
    (folder.path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        run_facts(folder.path)
    assert_says(error, f"{folder.path}/config.json: damaged ({why}); train the run again")


def test_facts_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run_facts(tmp_path)
    assert str(error.value) == f"{tmp_path}/config.json: not found; name a run of stage1_faces.finetune"


def test_the_files_that_a_run_writes_are_its_own() -> None:
    written = {"config.json", "log.jsonl", "landmarks.npz", "rnet.windows.npz", "onet.windows.npz"}
    written |= {f"{name}.{end}" for name in NETS for end in ("safetensors", "state")}
    assert written <= {*run_folder.OUTPUTS, "config.json"}
