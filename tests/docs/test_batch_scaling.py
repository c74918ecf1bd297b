from __future__ import annotations

import json
from pathlib import Path

import pytest

from docs.scale import batch_scaling as batch_bench
from tests.helpers.fake_predictor import write_picture


@pytest.mark.slow
def test_all_parts_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        write_picture(tmp_path / f"{i}.png")
    args = ["--photos", "4", "--engines", "pool", "--workers", "1", "2", "--chunk", "2", "--names", "700"]
    assert batch_bench.main([str(tmp_path), *args]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert record["photos"] == 4 and [run["workers"] for run in record["runs"]] == [1, 2]
    first, second = record["runs"]
    assert first["ratio"]["median"] == 1 and second["ratio"]["median"] > 0
    for run in record["runs"]:
        whole, rate = (run[name]["median"] for name in ("whole_photos_per_second", "photos_per_second"))
        assert 0 < whole < rate and run["megabytes_per_worker"]["median"] > 50
        assert run["cpu_ms_per_photo"]["median"] > 0 and run["bytes_per_photo"]["median"] > 0
    assert record["names"]["names"] == 700 and record["names"]["read_back_per_second"] > 0
    assert record["photo"]["bytes"] == (tmp_path / "0.png").stat().st_size and record["photo"]["decode_ms"] > 0
    assert any("names listed per second" in line for line in text)


def test_synthetic_photos(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--made", "64", "48", "--photos", "3", "--engines", "pool", "--workers", "1", "--names", "10"]
    assert batch_bench.main(args) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["photos"] == 3 and 500 < record["photo"]["bytes"] < 64 * 48 * 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no", "--photos", "0"], "--photos is 0; use 1 or more"),
        (["no", "--workers", "0"], "--workers: use numbers of 1 or more"),
        (["no", "--many", "5"], "--many: has a new name; use --names"),
        (["no"], "no: not found; check the name"),
        ([], "name a folder of photos or use --made WIDTH HEIGHT, one of the two"),
        (["no", "--made", "64", "64"], "name a folder of photos or use --made WIDTH HEIGHT, one of the two"),
        (
            ["--made", "0", "9"],
            "--made 0 9: a photo of 0x9 with 4 faces cannot be made; use 32 or more for each",
        ),
    ],
)
def test_bad_input_is_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert batch_bench.main(args) == 1
    assert capsys.readouterr() == ("", f"error: {message}\n")
