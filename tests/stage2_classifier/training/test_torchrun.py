"""Training under torchrun: how the processes end together, and what they report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import CropSet
from stage2_classifier.data.loaders import build_loader
from stage2_classifier.training import torchrun
from stage2_classifier.training.checkpoint import load_model
from stage2_classifier.training.engine import predict, score
from stage2_classifier.training.torchrun import check_gpus, end_with_launcher, report_errors_once
from tests.helpers.training.crop_sets import make_crop_set
from tests.helpers.training.quick_training import rows

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 4
FLAGS = ["--model=small_cnn_half", "--input-size=32", "--batch-size=8", f"--epochs={EPOCHS}", "--warmup-epochs=1"]
# Without a GPU and without --cpu, as on most machines.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def command(crops: Path, runs: Path, *flags: str, processes: int = 2) -> list[str]:
    launch = LAUNCH if processes == 2 else []
    places = [f"--crops={crops}", f"--runs={runs}", "--name=run", "--patience=0"]
    return [sys.executable, *launch, "-m", "stage2_classifier.train", *places, *FLAGS, "--augment=none", *flags]


def train(crops: Path, runs: Path, *flags: str, processes: int = 2) -> Path:
    """Train to the end and return the run's folder."""
    line = command(crops, runs, *flags, processes=processes)
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return runs / "run"


@pytest.fixture(scope="module")
def whole(tiny_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole run of two processes."""
    return train(tiny_crops.root, tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("val", [(10, 6, 5), (1, 0, 0)])
def test_each_crop_is_validated_once_also_with_uneven_batches(tmp_path: Path, val: tuple[int, int, int]) -> None:
    # 21 crops in batches of 16, and one crop for two processes; also one training crop for each.
    train_counts = (24, 10, 6) if sum(val) > 1 else (1, 1, 0)
    crops = make_crop_set(tmp_path / "crops", {"train": train_counts, "val": val})
    run = train(crops.root, tmp_path, "--epochs=1", "--warmup-epochs=0")
    assert json.loads((run / "summary.json").read_text())["processes"] == 2
    model, meta = load_model(run / "best.safetensors")
    dataset = CropDataset(crops, "val", eval_transform(meta.input_size, meta.mean, meta.std))
    scored = score(*predict(model, build_loader(dataset, 64), meta.heads), meta.class_names)
    assert scored["val_loss"] == pytest.approx(meta.metrics["val_loss"], rel=1e-4)
    assert scored["val_accuracy"] == meta.metrics["val_accuracy"]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(whole: Path, tiny_crops: CropSet, tmp_path: Path) -> None:
    one, two = rows(train(tiny_crops.root, tmp_path, processes=1)), rows(whole)
    # Equal numbers of updates, rates and crops; batch norm sees half a batch at a time, and dropout differs.
    assert [row["lr"] for row in one] == [row["lr"] for row in two]
    # Over six seeds of a similar training, the last validation losses of one and two processes differed by at most
    # 0.04. Those of different seeds have a standard deviation of 0.07; the tolerance is twice that.
    for a, b in zip(one, two, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=0.15)
        assert b["val_loss"] == pytest.approx(a["val_loss"], abs=0.15)


@contextmanager
def started(crops: Path, runs: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Yield torchrun and the ids of the two processes after the first epoch; kill all at the end."""
    line = command(crops, runs, "--epochs=1000")
    with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True) as launcher:
        workers: list[int] = []
        try:
            deadline = time.monotonic() + 120
            while not (runs / "run/metrics.jsonl").exists() or not rows(runs / "run"):
                assert launcher.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
            workers = [int(child) for child in children.read_text().split()]
            assert len(workers) == 2
            yield launcher, workers
        finally:
            for process in (launcher.pid, *workers):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def gone(process: int) -> bool:
    """Return whether a process has ended, perhaps with the exit code still unread."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


ENDS: dict[str, tuple[Callable[[int, list[int]], None], str | None]] = {
    "Ctrl-C": (lambda launcher, _: os.killpg(launcher, signal.SIGINT), "interrupted"),
    "torchrun is told to end": (lambda launcher, _: os.kill(launcher, signal.SIGTERM), None),
    "torchrun is killed": (lambda launcher, _: os.kill(launcher, signal.SIGKILL), None),
    "a process is killed": (
        lambda _, workers: os.kill(workers[1], signal.SIGKILL),
        "error: another process of this training has ended; continue with --resume",
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc to see the processes")
@pytest.mark.parametrize("end", ENDS)
def test_all_processes_end_with_each_other(tiny_crops: CropSet, tmp_path: Path, end: str) -> None:
    how, line = ENDS[end]
    with started(tiny_crops.root, tmp_path) as (launcher, workers):
        how(launcher.pid, workers)
        deadline = time.monotonic() + 60
        while not all(gone(process) for process in (launcher.pid, *workers)):
            assert time.monotonic() < deadline, "a process still runs"
            time.sleep(0.1)
        stderr = launcher.communicate(timeout=60)[1]
        assert launcher.returncode != 0
    # Without torchrun's own report, whose lines begin otherwise.
    ours = [text for text in stderr.splitlines() if text.startswith(("error", "interrupted", "[rank"))]
    if end == "a process is killed":
        assert "SIGKILL" in stderr  # torchrun's report
    # On a busy machine, torchrun ends the other process before that one misses its peer.
    assert ours == ([] if line is None else [line]) or (end == "a process is killed" and not ours)
    assert not (tmp_path / "run/summary.json").exists()


@pytest.mark.slow
def test_a_killed_run_of_two_resumes_to_the_numbers_of_an_unbroken_one(
    whole: Path, tiny_crops: CropSet, tmp_path: Path
) -> None:
    line = command(tiny_crops.root, tmp_path)
    state = tmp_path / "run/last.pt"
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as launcher:
        deadline = time.monotonic() + 120
        while not state.exists() and launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        launcher.kill()
    time.sleep(2 * torchrun.POLL_INTERVAL)  # its processes end by themselves
    assert 1 <= len(torch.load(state, weights_only=True)["history"]) < EPOCHS
    train(tiny_crops.root, tmp_path, "--resume")
    assert rows(tmp_path / "run") == rows(whole)
    assert (tmp_path / "run/best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


@pytest.mark.slow
def test_a_wrong_start_is_reported_once(tiny_crops: CropSet, tmp_path: Path) -> None:
    argv = command(tiny_crops.root, tmp_path, "--batch-size=7")
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode != 0
    line = "error: batch_size: 7 must be a multiple of the 2 processes"
    assert [text for text in done.stderr.splitlines() if text.startswith("error")] == [line]
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus(1)  # not by torchrun
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_gpus(2)
    with pytest.raises(UserError) as raised:
        check_gpus(1)
    assert str(raised.value) == "torchrun: 2 processes for 1 GPU(s); start one per GPU, or use --cpu"


def failing(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(("torchrun_lives", "ends"), [(False, True), (True, False)])
def test_a_process_whose_torchrun_died_before_the_first_check_ends(
    monkeypatch: pytest.MonkeyPatch, torchrun_lives: bool, ends: bool
) -> None:
    """The parent is then process 1, which in a container may be a living torchrun."""
    ended = threading.Event()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(torchrun, "_runs_python", lambda process: torchrun_lives)
    monkeypatch.setattr(torchrun, "POLL_INTERVAL", 0.01)
    monkeypatch.setattr(torchrun.os, "getppid", lambda: 1)
    monkeypatch.setattr(torchrun.os, "_exit", lambda code: ended.set())
    end_with_launcher()
    assert ended.wait(10 if ends else 0.2) == ends
    monkeypatch.setattr(torchrun.os, "getppid", lambda: 2)  # the watch ends with the test
    assert ended.wait(10)


@pytest.mark.parametrize("error", [UserError("crops: not there"), PermissionError(13, "Permission denied", "c")])
@pytest.mark.parametrize(("number", "waits"), [(0, []), (1, [torchrun.SHUTDOWN_GRACE])])
def test_only_the_first_process_reports_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int, waits: list[float], error: Exception
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(torchrun.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", str(number))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(type(error)) as raised:
        report_errors_once(failing(error))
    assert raised.value is error
    assert waited == waits
    if number:
        assert report_errors_once(failing(KeyboardInterrupt())) == 1
    else:
        with pytest.raises(KeyboardInterrupt):
            report_errors_once(failing(KeyboardInterrupt()))
    assert report_errors_once(lambda: 3) == 3


def test_a_lost_process_is_not_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with pytest.raises(RuntimeError):
        report_errors_once(failing(lost))  # not under torchrun, so there is no other process to lose
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for error in (lost, torch.distributed.DistBackendError("NCCL error")):
        with pytest.raises(UserError) as raised:
            report_errors_once(failing(error))
        assert str(raised.value) == "another process of this training has ended; continue with --resume"
    with pytest.raises(RuntimeError, match="shapes"):
        report_errors_once(failing(RuntimeError("shapes do not fit")))


def test_without_torchrun_nothing_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torchrun.threading, "Thread", lambda **_: pytest.fail("a thread was started"))
    end_with_launcher()
