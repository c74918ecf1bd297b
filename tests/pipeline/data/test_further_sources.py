"""Further sources in splits and crops: what is for training, and what is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from common.sources import SourcesArgs, load_sources
from common.splits import read_splits
from pipeline.data import build_crops, split
from pipeline.data.build_crops import FURTHER_MAX_SIDE
from pipeline.data.further_sources import FurtherSources
from pipeline.data.splitting import SplitRow
from stage2_classifier.augment.transforms import eval_transform
from stage2_classifier.cropping import crop_window
from stage2_classifier.data.crop_dataset import CropDataset
from stage2_classifier.data.crop_manifest import read_crop_set
from tests.helpers.several_sources import TRUST, data_flags, write_sources


def test_copies_and_twins_of_held_photos_are_left_out() -> None:
    scenes = {"m0": 0, "m1": 1, "m2": 2, "a/copy": 1, "a/free": 3, "b/twin": 4, "b/kept": 5}
    photos = {name: name[0] for name in scenes if "/" in name}
    further = FurtherSources(photos, scenes, {"b/twin": "m2", "b/kept": "m0"})
    found = further.rows([SplitRow("m0", "train", 7), SplitRow("m1", "val", 8), SplitRow("m2", "test", 9)])
    # A twin has its photo's group; other photos have groups of their own.
    assert found.rows == (SplitRow("a/free", "train", 13), SplitRow("b/kept", "train", 7))
    assert found.left_out == {"a": 1, "b": 1}
    assert found.lines() == [
        "a: 1 photo for training; 1 photo left out, because a val or test photo shows the same",
        "b: 1 photo for training; 1 photo left out, because a val or test photo shows the same",
    ]


def test_what_resembles_a_photo_that_is_left_out_is_left_out() -> None:
    # b/twin was not recognised as m2's copy; what shows the same as b/twin shows the same as m2.
    scenes = {"m0": 0, "m2": 2, "a/like_twin": 4, "a/free": 3, "b/twin": 4}
    photos = {name: name[0] for name in scenes if "/" in name}
    found = FurtherSources(photos, scenes, {"b/twin": "m2"}).rows(
        [SplitRow("m0", "train", 0), SplitRow("m2", "test", 1)]
    )
    assert [row.image_id for row in found.rows] == ["a/free"] and found.left_out == {"a": 1, "b": 1}
    # The same photos are learned where m2 is.
    found = FurtherSources(photos, scenes, {"b/twin": "m2"}).rows(
        [SplitRow("m0", "test", 0), SplitRow("m2", "train", 1)]
    )
    assert [row.image_id for row in found.rows] == ["a/like_twin", "a/free", "b/twin"] and not found.left_out


def test_each_fold_holds_out_its_part_of_the_photos_without_faces() -> None:
    scenes = {"m0": 0, "e/0": 1, "e/1": 2, "e/2": 3, "e/like_0": 1, "a/0": 4, "a/like_e1": 2}
    photos = {name: name[0] for name in scenes if "/" in name}
    further = FurtherSources(photos, scenes, {}, frozenset({"e"}))
    main = [SplitRow("m0", "train", 0)]
    learned = [{row.image_id for row in further.rows(main, fold, 3).rows} for fold in range(3)]
    assert [set(photos) - own for own in learned] == [{"e/0", "e/like_0"}, {"e/1", "a/like_e1"}, {"e/2"}]
    found = further.rows(main, 1, 3)
    assert found.lines() == [
        "a: 1 photo for training; 1 photo left out, because a val or test photo shows the same",
        "e: 3 photos for training; 1 photo held out, to count false alarms",
    ]
    assert {row.image_id for row in further.rows(main).rows} == set(photos)  # no fold: all are learned from


@pytest.fixture
def args(tmp_path: Path) -> SourcesArgs:
    return write_sources(tmp_path)[0]


def command_line(args: SourcesArgs, *more: str) -> list[str]:
    return [*data_flags(args), *more]


def test_split_of_the_main_data_does_not_change(args: SourcesArgs, tmp_path: Path) -> None:
    assert split.main(["--data", str(args.main_data), "--out", str(tmp_path / "alone.csv"), "--by-time"]) == 0
    assert split.main(command_line(args, "--out", str(tmp_path / "all.csv"), "--by-time")) == 0
    alone, every = (read_splits(tmp_path / name) for name in ("alone.csv", "all.csv"))
    assert {name: part for name, part in every.items() if "/" not in name} == alone
    assert {part for name, part in every.items() if "/" in name} == {"train"}


def test_a_copy_of_a_held_photo_is_not_learned(args: SourcesArgs, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    shutil.rmtree(args.data[1])
    shutil.copytree(args.main_data, args.data[1])
    assert split.main(command_line(args, "--out", str(out), "--by-time")) == 0
    parts = read_splits(out)
    for name in ("p0", "p1", "p2", "p3"):
        if parts[name] != "train":
            assert f"other/{name}" not in parts


def test_photos_of_further_sources_that_cannot_be_read_are_named(
    args: SourcesArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(args.data[1].rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:-200])
    out = tmp_path / "all.csv"
    assert split.main(command_line(args, "--out", str(out), "--by-time")) == 1
    assert f"warning: {broken}: " in capsys.readouterr().err
    assert f"other/{broken.stem}" not in read_splits(out)


def test_crops_of_all_sources(args: SourcesArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "crops"
    flags = ("--splits", str(tmp_path / "splits.csv"), "--out", str(out), "--workers", "1")
    assert build_crops.main(command_line(args, *flags)) == 0
    crops = read_crop_set(out)
    assert [source.name for source in crops.sources] == ["main", "other", "partial", "empty"]
    assert {(r.source, Path(r.path).suffix) for r in crops.records} == {
        ("main", ".png"), ("other", ".jpg"), ("partial", ".jpg")
    }  # fmt: skip
    known = {(r.source, r.label): r.class_known for r in crops.records}
    assert known["other", "with_mask"] is False and known["other", "without_mask"] is True
    assert "other: " in capsys.readouterr().out
    # The faces of one dataset alone give the same table as before there were sources.
    assert build_crops.main(["--data", str(args.main_data), *flags[:2], "--out", str(tmp_path / "one")]) == 0
    assert "source" not in (tmp_path / "one/crops.csv").read_text().splitlines()[0]
    assert "sources" not in (tmp_path / "one/crops.json").read_text()
    # Run again, nothing is cut, and nothing is removed.
    before = sorted(out.rglob("*.jpg"))
    assert build_crops.main(command_line(args, *flags)) == 0
    assert sorted(out.rglob("*.jpg")) == before and "0 cut now" in capsys.readouterr().out


def test_shrunk_crops_show_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored crop of half the size gives views at the same place, half as sharp."""
    monkeypatch.setattr(build_crops, "FURTHER_MAX_SIDE", 24)
    args, splits = write_sources(tmp_path)
    assert args.sources is not None
    args.sources.write_text(TRUST.replace(", classes: [without_mask]", ""))
    out = tmp_path / "crops"
    assert build_crops.main(command_line(args, "--splits", str(splits), "--out", str(out), "--workers", "1")) == 0
    crops = read_crop_set(out)
    data = CropDataset(crops, "train", eval_transform(32, (0.5,) * 3, (0.5,) * 3), margin=0.2)
    shrunk = [i for i, record in enumerate(data.records) if record.source == "other"]
    assert shrunk
    for i in shrunk:
        record = data.records[i]
        with Image.open(out / record.path) as image:
            assert image.width <= 24 < FURTHER_MAX_SIDE
            left, top, right, _ = crop_window(record.box, crops.margin)
            scale = image.width / (right - left)
        x1, y1, x2, _ = data.box(i)
        assert (x2 - x1) / (record.box[2] - record.box[0]) == pytest.approx(scale)
        assert x1 == pytest.approx((record.box[0] - left) * scale)
        assert y1 == pytest.approx((record.box[1] - top) * scale)
        assert data.pixels(i, 0.2).shape[0] == pytest.approx(data._stored_crop(i).shape[0] * 1.4 / 2.2, abs=2)


def test_sources_find_what_shows_the_same(args: SourcesArgs) -> None:
    found = FurtherSources.find(load_sources(args))
    assert set(found.photos.values()) == {"other", "partial", "empty"}
    alone = FurtherSources.find(load_sources(SourcesArgs(data=args.data[:1])))
    assert alone.rows([]).rows == () and alone.rows([]).lines() == []
