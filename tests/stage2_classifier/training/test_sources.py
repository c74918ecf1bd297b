"""Learning from crops of several sources: their draws, their box edges, and faces whose class is not known."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from common.errors import UserError
from stage2_classifier.config import TrainConfig
from stage2_classifier.data.box_jitter import jittered_box
from stage2_classifier.data.crop_dataset import CLASS_UNKNOWN, CropDataset
from stage2_classifier.data.crop_manifest import CropSet, CropSource, read_crop_set, write_crop_set
from stage2_classifier.reports.preview import save_training_views
from stage2_classifier.training.checkpoint import load_model, load_state
from stage2_classifier.training.fit import fit
from stage2_classifier.training.setup import build_sampler, training_crops
from tests.helpers.training.quick_training import QUICK, break_after, rows

ROOT = Path(__file__).resolve().parents[3]
STATS = ((0.5,) * 3, (0.5,) * 3)
LEARNS_BOXES = replace(
    QUICK,
    name="boxes",
    model="face_trunk",
    input_size=48,
    jitter=1.0,
    hard_negatives=0.25,
    box_head=True,
    box_loss="giou",
    epochs=3,
    batch_size=10,
    lr=2e-3,
    checkpoint_epoch="last",
)
MAIN, NEWS, WEB = CropSource("main"), CropSource("news", "offset"), CropSource("web", "none")


def with_sources(
    crops: CropSet, sources: tuple[CropSource, ...] = (MAIN, NEWS, WEB), unknown: tuple[int, ...] = ()
) -> CropSet:
    """Return the crops with every training face of class k from source k; `unknown` are faces of no known class."""
    records = []
    for i, record in enumerate(crops.records):
        k = crops.class_names.index(record.label) % len(sources) if record.split == "train" else 0
        records.append(replace(record, source=sources[k].name, class_known=i not in unknown))
    return replace(crops, records=tuple(records), sources=sources)


def drawn(config: TrainConfig, crops: CropSet, epochs: int = 1) -> Counter[tuple[str, int]]:
    """Return how often faces of each source and class index are drawn."""
    dataset = training_crops(config, crops, STATS)
    sampler, found = build_sampler(config, dataset), Counter[tuple[str, int]]()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += Counter((dataset.records[i].source, int(dataset.labels[i])) for _, i in sampler)
    return found


def test_sources_without_shares_are_drawn_as_one_set_is(wide_crops: CropSet) -> None:
    for power in (0.0, 0.5):
        config = replace(LEARNS_BOXES, sampler_power=power)
        plain = build_sampler(config, training_crops(config, wide_crops, STATS))
        mixed = build_sampler(config, training_crops(config, with_sources(wide_crops), STATS))
        assert list(plain) == list(mixed)


def test_a_share_raises_the_draws_of_a_source(wide_crops: CropSet) -> None:
    # Each source has ten faces of a class of its own, so that with power 0 its share is that of its class.
    sources = (MAIN, replace(NEWS, share=0.6), WEB)
    found = drawn(replace(LEARNS_BOXES, sampler_power=0.0), with_sources(wide_crops, sources))
    assert found == {("main", 0): 6, ("news", 1): 18, ("web", 2): 6, ("", 3): 10}
    # Balanced classes stay balanced, whatever the shares.
    assert drawn(replace(LEARNS_BOXES, sampler_power=1.0), with_sources(wide_crops, sources))["news", 1] == 10
    # Within a class, the shares decide.
    halves = with_sources(wide_crops, sources)
    records = tuple(
        replace(r, source=("main", "news")[i // 3 % 2]) if r.split == "train" else r
        for i, r in enumerate(halves.records)
    )
    found = drawn(replace(LEARNS_BOXES, sampler_power=1.0), replace(halves, records=records))
    assert {key: count for key, count in found.items() if key[0]} == {
        **{("main", k): 4 for k in range(3)},
        **{("news", k): 6 for k in range(3)},
    }


def test_a_source_of_share_0_is_not_drawn(wide_crops: CropSet) -> None:
    found = drawn(LEARNS_BOXES, with_sources(wide_crops, (MAIN, NEWS, replace(WEB, share=0.0))))
    assert found == {("main", 0): 15, ("news", 1): 15, ("", 3): 10}


def test_faces_of_no_known_class_have_a_quota_by_their_number(wide_crops: CropSet) -> None:
    train = [i for i, r in enumerate(wide_crops.records) if r.split == "train"]
    crops = with_sources(wide_crops, unknown=tuple(train[:6]))  # two of each class
    for power in (0.0, 1.0):
        found = drawn(replace(LEARNS_BOXES, sampler_power=power), crops)
        by_class = Counter[int]()
        for (_, label), count in found.items():
            by_class[label] += count
        assert by_class == {CLASS_UNKNOWN: 6, 0: 8, 1: 8, 2: 8, 3: 10}
    # A network that learns only classes does not get them.
    plain = training_crops(QUICK, crops, STATS)
    assert len(plain) == 24 and plain.labels.min() == 0
    assert len(CropDataset(crops, "train", plain.transform)) == 24


@pytest.mark.parametrize("draws", [7, 80])
def test_an_epoch_of_a_given_number_of_draws(wide_crops: CropSet, draws: int) -> None:
    """Shares and balance are those of an epoch over all faces."""
    sources = (MAIN, replace(NEWS, share=0.6), WEB)
    config = replace(LEARNS_BOXES, sampler_power=0.0, epoch_draws=draws)
    for crops in (wide_crops, with_sources(wide_crops, sources)):
        assert drawn(config, crops).total() == draws
    if draws == 80:  # 20 hard negatives, and 0.6 of the faces
        assert drawn(config, with_sources(wide_crops, sources)) == {
            ("main", 0): 12, ("news", 1): 36, ("web", 2): 12, ("", 3): 20
        }  # fmt: skip
    # Two epochs draw different crops.
    dataset = training_crops(config, wide_crops, STATS)
    sampler = build_sampler(config, dataset)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_unknown_classes_alone_are_refused(wide_crops: CropSet) -> None:
    everything = with_sources(wide_crops, unknown=tuple(range(len(wide_crops.records))))
    with pytest.raises(UserError, match=r"crops\.csv: split 'train' has no crop whose class is known; trust"):
        training_crops(LEARNS_BOXES, everything, STATS)
    shares = (MAIN, replace(NEWS, share=0.0), replace(WEB, share=0.0))
    main = tuple(i for i, r in enumerate(wide_crops.records) if r.label == wide_crops.class_names[0])
    crops = with_sources(wide_crops, shares, unknown=main)
    with pytest.raises(UserError, match=r"^sources: no face whose class is known is drawn; give"):
        build_sampler(LEARNS_BOXES, training_crops(LEARNS_BOXES, crops, STATS))


def test_views_say_which_classes_the_annotators_used(wide_crops: CropSet, tmp_path: Path) -> None:
    crops = with_sources(wide_crops, (MAIN, replace(NEWS, absent_classes=wide_crops.class_names[2:]), WEB))
    dataset = training_crops(LEARNS_BOXES, crops, STATS)
    for i, record in enumerate(dataset.records):
        assert dataset[0, i].annotated_classes.tolist() == [True, True, record.source != "news"]
    write_crop_set(replace(crops, root=tmp_path))
    assert read_crop_set(tmp_path).sources == crops.sources


def test_views_say_whose_edges_they_have(wide_crops: CropSet) -> None:
    crops = with_sources(wide_crops)
    dataset, plain = (training_crops(LEARNS_BOXES, c, STATS) for c in (crops, wide_crops))
    signs = Counter[int]()
    for draw in range(60):
        for i in range(3):
            view, same = dataset[draw, i], plain[draw, i]
            assert torch.equal(view.image, same.image) and view.target == same.target and same.edge_offset == 0
            source = dataset.records[i].source
            assert torch.isnan(view.box_deltas).all() if source == "web" else view.box_deltas.equal(same.box_deltas)
            assert (view.edge_offset != 0) == (source == "news")
            if source == "news":
                signs[view.edge_offset] += 1
                seed = int(np.random.SeedSequence((0, 0, draw)).generate_state(1)[0])
                jitter = dataset._jitter
                assert jitter is not None
                assert jittered_box(dataset.box(i), seed, jitter).mirrored == (view.edge_offset < 0)
    assert set(signs) == {1, -1} and min(signs.values()) > 15
    # The main source never has an offset.
    assert with_sources(wide_crops, (replace(MAIN, edges="offset"), NEWS, WEB)).offset_sources == ("news",)


@pytest.fixture(scope="module")
def three_sources(wide_crops: CropSet, tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """Return crops of three sources, where three classes are not known."""
    root = shutil.copytree(wide_crops.root, tmp_path_factory.mktemp("sources") / "crops")
    crops = with_sources(replace(wide_crops, root=root), unknown=(0, 1, 2))
    write_crop_set(crops)
    return crops


@pytest.fixture(scope="module")
def run_of_sources(three_sources: CropSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole LEARNS_BOXES run."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("runs")
    fit(LEARNS_BOXES, three_sources.root, runs)
    return runs / "boxes"


def test_a_run_records_its_sources_and_keeps_offsets_out_of_the_weights(run_of_sources: Path) -> None:
    record = json.loads((run_of_sources / "config.json").read_text())
    assert record["sources"] == [
        {"name": "main", "edges": "same", "share": None, "faces": 10, "class_unknown": 1},
        {"name": "news", "edges": "offset", "share": None, "faces": 10, "class_unknown": 1},
        {"name": "web", "edges": "none", "share": None, "faces": 10, "class_unknown": 1},
    ]
    assert sum(record["class_counts"]["train"].values()) == 27
    learned = json.loads((run_of_sources / "summary.json").read_text())["sources"]
    crops = read_crop_set(record["crops"])
    own = [r for r in crops.records if r.split == "train" and r.source == "news"]
    known = Counter(r.label for r in own if r.class_known)
    assert list(learned) == ["main", "news", "web"] and known.total() == 9
    assert learned["news"] == {
        **{"edges": "offset", "share": None, "photos": len({r.image_id for r in own}), "faces": 10},
        **{"class_counts": dict(known), "class_unknown": 1, "false_alarms": learned["news"]["false_alarms"]},
    }
    alarms = Counter(r.source for r in crops.hard_negatives if r.split == "train")
    assert {name: facts["false_alarms"] for name, facts in learned.items()} == {n: alarms[n] for n in learned}
    offsets = json.loads((run_of_sources / "summary.json").read_text())["edge_offsets"]
    state = load_state(run_of_sources / "last.pt")
    assert offsets == {"news": state["offsets"][0].tolist()} and all(offsets["news"])
    model, meta = load_model(run_of_sources / "best.safetensors")
    assert meta.heads.outputs == 8 and not any("offset" in name for name in model.state_dict())


@pytest.mark.slow
def test_a_run_of_several_sources_resumes_to_the_same_numbers(
    run_of_sources: Path, three_sources: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        break_after(2, patch, "write_epoch")
        with pytest.raises(KeyboardInterrupt):
            fit(LEARNS_BOXES, three_sources.root, tmp_path)
    fit(LEARNS_BOXES, three_sources.root, tmp_path, resume=True)
    folder = tmp_path / "boxes"
    assert rows(folder) == rows(run_of_sources)
    for name in ("best.safetensors", "last.pt"):
        assert (folder / name).read_bytes() == (run_of_sources / name).read_bytes() or name == "last.pt"
    assert torch.equal(*(load_state(f / "last.pt")["offsets"] for f in (folder, run_of_sources)))


def test_a_run_does_not_resume_with_other_sources(run_of_sources: Path, three_sources: CropSet, tmp_path: Path) -> None:
    root = shutil.copytree(three_sources.root, tmp_path / "crops")
    write_crop_set(replace(three_sources, root=root, sources=(MAIN, replace(NEWS, edges="same"), WEB)))
    with pytest.raises(UserError, match=r"holds a run with another sources"):
        fit(LEARNS_BOXES, root, run_of_sources.parent, resume=True)


def test_the_preview_has_a_row_for_faces_of_no_known_class(
    three_sources: CropSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[list[str]] = []
    whole: Any = save_training_views.__globals__["contact_sheet"]
    monkeypatch.setitem(
        save_training_views.__globals__,
        "contact_sheet",
        lambda cells, side, names, lines: labels.append(list(names)) or whole(cells, side, names, lines),
    )
    save_training_views(tmp_path / "p.png", LEARNS_BOXES, three_sources, STATS, per_class=1, versions=2)
    assert labels == [[*three_sources.class_names, "class not known", "not_a_face"]]


AVERAGE_SCRIPT = """
from types import SimpleNamespace
import torch
from accelerate import Accelerator
from torch import nn
from stage2_classifier.heads import Heads
from stage2_classifier.training.engine import _average_offsets
from stage2_classifier.training.joint_loss import JointLoss

accelerator = Accelerator(cpu=True)
criterion = JointLoss(nn.CrossEntropyLoss(), Heads(2, has_box=True), offsets=1)
criterion.offsets.grad = torch.full((1, 4), float(accelerator.process_index))
_average_offsets(SimpleNamespace(criterion=criterion, accelerator=accelerator))
assert criterion.offsets.grad.tolist() == [[0.5] * 4], criterion.offsets.grad
"""


@pytest.mark.slow
def test_two_processes_learn_offsets_and_from_a_teacher_together(
    three_sources: CropSet, run_of_sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "average.py").write_text(AVERAGE_SCRIPT)
    training = [
        *("-m", "stage2_classifier.train", f"--crops={three_sources.root}", f"--runs={tmp_path}", "--name=two"),
        *("--model=face_trunk", "--input-size=48", "--jitter=1", "--hard-negatives=0.25", "--box-head"),
        *("--box-loss=giou", "--batch-size=10", "--epochs=2", "--warmup-epochs=1", "--augment=none"),
        *("--checkpoint-epoch=last", f"--teacher={run_of_sources}"),
    ]
    for arguments in ([str(tmp_path / "average.py")], training):
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["processes"] == 2 and all(summary["edge_offsets"]["news"])
    assert [teacher["run"] for teacher in summary["teachers"]] == ["boxes"]


@pytest.fixture
def new_accelerator() -> Iterator[None]:
    """Forget the precision that this process has used, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("new_accelerator")
def test_bf16_learns_boxes_and_from_a_teacher(three_sources: CropSet, run_of_sources: Path, tmp_path: Path) -> None:
    config = replace(LEARNS_BOXES, epochs=2, mixed_precision="bf16", teacher=(str(run_of_sources),))
    fit(config, three_sources.root, tmp_path)
    history = rows(tmp_path / "boxes")
    assert history[1]["train_loss"] < history[0]["train_loss"]
