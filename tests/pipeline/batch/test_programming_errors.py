"""An error of the project's code in a worker: told as that, once, with its traceback; never as a bad photo."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pipeline.batch import command as batch
from tests.helpers.batch_fakes import fake_job, load_broken, load_failing, load_killing, table
from tests.helpers.fake_predictor import write_picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(6):
        write_picture(tmp_path / f"p/{i}.png")
    return tmp_path / "p"


def run(photos: Path, load: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job(load))  # type: ignore[arg-type]
    out = photos.parent / "faces.parquet"
    return batch.main([str(photos), str(out), "--workers", "2", "--chunk", "2"])


@pytest.mark.parametrize("load", [load_failing(AttributeError("no 'compute'"), None), load_broken])
def test_the_pool_tells_it_once_and_ends(
    photos: Path, load: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, load, monkeypatch) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.count("Traceback (most recent call last)") == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: programming error in a worker (AttributeError: ")
    assert last.endswith("not a fault of your files; report the traceback above")
    assert not (photos.parent / "faces.errors.parquet").exists()  # no photo is said to be bad
    assert not (photos.parent / "faces.parquet").exists()


@pytest.mark.slow
def test_results_before_the_error_stay_and_the_run_resumes(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(16):  # one chunk before the photo that fails
        write_picture(photos / f"{i}.png")
    write_picture(photos / "z.png", size=(50, 32))
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job(load_failing(TypeError("x"))))
    arguments = [str(photos), str(photos.parent / "faces.parquet"), "--workers", "1"]
    assert batch.main(arguments) == 1
    assert "The photo was" in capfd.readouterr().err and len(table(photos.parent / "faces.parquet")) == 16
    monkeypatch.setattr(batch, "make_job", lambda args: fake_job())
    assert batch.main(arguments) == 0 and len(table(photos.parent / "faces.parquet")) == 17


@pytest.mark.slow
def test_a_crash_on_every_photo_ends_the_run_in_one_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(photos, partial(load_killing, "detect"), monkeypatch) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: a worker dies on every photo") and err.count("\n") == 1
    assert not (photos.parent / "faces.errors.parquet").exists()
