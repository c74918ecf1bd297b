"""A fine-tuning that is killed at any moment resumes to the same weights; damaged files are named."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from stage1_faces.training import finetune_run
from stage1_faces.training.run_folder import NETS, FinetuneFolder
from tests.helpers.training import quick_finetune
from tests.helpers.training.quick_finetune import run
from tests.stage1_faces.training.finetune_checks import EPOCHS, ROOT, Killed, check_same, until_done


def test_killed_after_every_epoch(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    done = 0

    def one_epoch(*arguments: Any, **options: Any) -> dict[str, float]:
        nonlocal done
        if done:
            done = 0
            raise Killed
        done = 1
        return real(*arguments, **options)

    quick.setattr(finetune_run, "train_epoch", one_epoch)
    assert until_done(data, tmp_path / "run") == sum(EPOCHS.values()) - 1
    check_same(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_killed_within_epochs(quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path) -> None:
    # Once in each net's second epoch, after a step; and when its windows are first mined.
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    broken_off: set[str] = set()

    def broken(
        net: Any,
        ema: Any,
        optimizer: Any,
        batches: Any,
        schedule: Any,
        epoch: int,
        *,
        on_step: Any,
        **options: Any,
    ) -> Any:
        def killing() -> None:
            if epoch == 1 and type(net).__name__ not in broken_off:
                broken_off.add(type(net).__name__)
                raise Killed
            on_step()

        return real(net, ema, optimizer, batches, schedule, epoch, on_step=killing, **options)

    mine = finetune_run.mine
    mined: list[str] = []
    without: list[int] = []

    def mining(detector: Any, photos: Any, after: str, **options: Any) -> Any:
        mined.append(after)
        if mined.count(after) == 1:
            raise Killed
        found = mine(detector, photos, after, **options)
        without.append(int((found.overlap < 0.25).sum()))
        return found

    quick.setattr(finetune_run, "train_epoch", broken)
    quick.setattr(finetune_run, "mine", mining)
    assert until_done(data, tmp_path / "run") == len(NETS) + 2
    # Windows are written: they are not mined again after the kill in training.
    assert mined == ["pnet", "pnet", "rnet", "rnet"]
    assert min(without) > 20, "too few windows without a face for these tests to mean much"
    check_same(tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_the_third_write_of_each_start(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, after: bool
) -> None:
    # Right before a file is written, or right after. An epoch writes two files, so each start gets further.
    write = FinetuneFolder.write
    written: list[str] = []
    kills: list[str] = []

    def counted(folder: FinetuneFolder, name: str, data: bytes) -> None:
        written.append(name)
        last = len(written) == 3
        if last and not after:
            raise Killed
        write(folder, name, data)
        if last and after:
            raise Killed

    def started(*arguments: Any, real: Callable[..., bool] = FinetuneFolder.claim) -> bool:
        kills.extend(written[-1:])
        written.clear()
        return real(*arguments)

    quick.setattr(FinetuneFolder, "write", counted)
    quick.setattr(FinetuneFolder, "claim", started)
    assert until_done(data, tmp_path / "run") == len(kills) > 6
    assert len(set(kills)) > 3
    check_same(tmp_path / "run", unbroken)


@pytest.mark.parametrize("name", NETS)
def test_killed_while_reporting(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path, name: str
) -> None:
    # The last net is finished then, but the run is not: the recall is missing.
    real = finetune_run.recall_at_counts
    calls: list[int] = []

    def killing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == NETS.index(name) + 1:
            raise Killed
        return real(*arguments)

    quick.setattr(finetune_run, "recall_at_counts", killing)
    assert until_done(data, tmp_path / "run") == 1
    check_same(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_killed_for_good_at_random_moments(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    # A real process and SIGKILL, twice; the run resumes to the same weights.
    out = tmp_path / "run"
    script = [sys.executable, quick_finetune.__file__, str(data), str(out)]
    seed = time.time_ns()
    moments = random.Random(seed)
    for _ in range(2):
        before = (out / "log.jsonl").stat().st_mtime_ns if (out / "log.jsonl").exists() else 0
        with subprocess.Popen(
            script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                time.sleep(0.01)
                if (out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_mtime_ns != before:
                    time.sleep(moments.uniform(0, 0.7))
                    process.kill()
        assert process.returncode in (0, -9), process.returncode
    run(data, out)
    try:
        check_same(out, unbroken)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}") from error


def test_a_full_disk_leaves_nothing_half_written(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "run" / "pnet.state"))

    quick.setattr(FinetuneFolder, "save_state", full)
    with pytest.raises(OSError, match="No space left"):
        run(data, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "log.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnet.windows.npz", "landmarks.npz", "onet.state", "log.jsonl"])
def test_damaged_files_of_a_run_are_named(quick: pytest.MonkeyPatch, data: Path, tmp_path: Path, name: str) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    last = "rnet" if name == "rnet.windows.npz" else "onet"
    kinds = {"rnet": "RefineNet", "onet": "OutputNet"}

    def killing(net: Any, *arguments: Any, **options: Any) -> dict[str, float]:
        if type(net).__name__ == kinds[last] and arguments[4] == 1:
            raise Killed
        return real(net, *arguments, **options)

    out = tmp_path / "run"
    with quick.context() as patch:
        patch.setattr(finetune_run, "train_epoch", killing)
        with pytest.raises(Killed):
            run(data, out)
    whole = (out / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2 + 3]):
        (out / name).write_bytes(damaged)
        if name == "log.jsonl" and not damaged:
            continue  # an empty log is one without lines
        with pytest.raises(UserError, match="damaged") as error:
            run(data, out)
        assert str(error.value).startswith(str(out / name)) and "\n" not in str(error.value)
    (out / name).unlink()
    run(data, out)  # as the message says: the run makes the removed file again


def test_the_state_of_another_net_is_refused(
    quick: pytest.MonkeyPatch, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    real: Callable[..., dict[str, float]] = finetune_run.train_epoch
    done = 0

    def one_epoch(*arguments: Any, **options: Any) -> dict[str, float]:
        nonlocal done
        done += 1
        if done > 1:
            raise Killed
        return real(*arguments, **options)

    with quick.context() as patch:
        patch.setattr(finetune_run, "train_epoch", one_epoch)
        with pytest.raises(Killed):
            run(data, tmp_path / "run")
    state = tmp_path / "run/pnet.state"
    state.rename(tmp_path / "run/rnet.state")
    (tmp_path / "run/pnet.safetensors").write_bytes((unbroken / "pnet.safetensors").read_bytes())
    with pytest.raises(UserError) as raised:
        run(data, tmp_path / "run")
    assert str(raised.value).startswith(f"{tmp_path}/run/rnet.state: ") and "another net" in str(raised.value)
