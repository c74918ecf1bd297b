"""Several datasets as one: image ids, trust, twins and doubtful faces."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.annotations import AnnotatedImage, load_dataset
from common.errors import UserError
from common.sources import SourcesArgs, load_sources, main_part
from common.sources.twins import read_twins
from tests.helpers.several_sources import TRUST, write_sources


@pytest.fixture
def args(tmp_path: Path) -> SourcesArgs:
    return write_sources(tmp_path)[0]


def test_one_folder_is_read_as_alone(args: SourcesArgs) -> None:
    alone = load_sources(SourcesArgs(data=args.data[:1]))
    expected = load_dataset(args.main_data)
    assert [image.image_id for image in alone.images] == [image.image_id for image in expected.images]
    assert alone.sources == () and alone.images[0].source == ""
    assert main_part(alone) is alone


def test_ids_and_trust(args: SourcesArgs) -> None:
    found = load_sources(args)
    of = {image.image_id: image for image in found.images}
    expected = {*(f"p{k}" for k in range(4)), "other/p0", "other/p1", "partial/p0", "empty/e0", "empty/e1"}
    assert set(of) == expected
    assert of["p0"].class_known.all() and of["p0"].complete
    assert of["other/p0"].class_known.tolist() == [label == "without_mask" for label in of["other/p0"].labels]
    assert not of["partial/p0"].complete and of["partial/p0"].source_incomplete
    assert len(of["empty/e0"].boxes) == 0 and of["empty/e0"].complete
    assert {image.image_id for image in main_part(found).images} == {f"p{k}" for k in range(4)}


def test_twins_by_the_names_of_photos(args: SourcesArgs) -> None:
    assert args.sources is not None
    (args.data[1] / "pairs.csv").write_text("p1.png,p2.png\nunknown.png,p0.png\n")
    args.sources.write_text(TRUST.replace("share: 0.4", "share: 0.4, twins: pairs.csv"))
    assert load_sources(args).twins == {"other/p1": "p2"}
    lines: list[str] = []
    load_sources(args, lines.append)
    assert f"note: {args.data[1] / 'pairs.csv'}: 1 pair of 2 not in the data" in lines
    (args.data[1] / "pairs.csv").write_text("x.png,y.png\n")
    with pytest.raises(UserError, match=r"pairs.csv: none of its 1 pairs is in the data"):
        load_sources(args)
    (args.data[1] / "pairs.csv").write_text("p1.png\n")
    with pytest.raises(UserError, match=r"pairs.csv, line 1: needs two names"):
        load_sources(args)


def test_twins_are_found_by_their_folders(tmp_path: Path) -> None:
    photo = AnnotatedImage(Path(), "any", (9, 9), (), ())  # type: ignore[arg-type]
    own = [replace(photo, path=tmp_path / "own/x.jpg", image_id="own/x")]
    main = [replace(photo, path=tmp_path / f"main/{part}/1.jpg", image_id=f"{part}/1") for part in ("test", "train")]
    pairs = tmp_path / "twins.csv"
    for part in ("test", "train"):
        pairs.write_text(f"x.jpg,{part}/1.jpg\n")
        found = read_twins(pairs, own, tmp_path / "own", main, tmp_path / "main")
        assert found == ({"own/x": f"{part}/1"}, "")
    pairs.write_text("\nx.jpg,1.jpg\n")
    with pytest.raises(UserError, match=r"twins.csv, line 2: '1.jpg' fits 2 images"):
        read_twins(pairs, own, tmp_path / "own", main, tmp_path / "main")


def test_photos_without_faces_have_ids_of_their_own(args: SourcesArgs) -> None:
    photo = next(args.data[3].rglob("*.png"))
    shutil.copy(photo, photo.with_suffix(".jpg"))
    ids = {image.image_id for image in load_sources(args).images if image.source == "empty"}
    assert {f"empty/{photo.stem}.jpg", f"empty/{photo.stem}.png"} <= ids
    photo.rename(os.fsdecode(os.fsencode(photo.parent) + b"/caf\xe9.png"))
    assert "empty/caf\\xe9" in {image.image_id for image in load_sources(args).images}


def test_doubtful_faces_are_not_learned(args: SourcesArgs, tmp_path: Path) -> None:
    assert args.sources is not None
    image = next(i for i in load_sources(args).images if i.image_id == "partial/p0")
    first, second = (",".join(f"{v:.2f}" for v in image.boxes[k]) for k in (0, 1))
    rows = [f"p0,{image.labels[0]},{first},class", f"p0,{image.labels[1]},{second},face"]
    (tmp_path / "doubtful.csv").write_text("\n".join(["image_id,label,x1,y1,x2,y2,action", *rows, ""]))
    args.sources.write_text(TRUST.replace("edges: none", "edges: none, left_out: doubtful.csv"))
    found = next(i for i in load_sources(args).images if i.image_id == "partial/p0")
    assert found.labels == (image.labels[0], *image.labels[2:])
    assert found.class_known.tolist() == [False, *image.class_known[2:].tolist()]
    np.testing.assert_allclose(found.ignored, image.boxes[1:2])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("p0,with_mask,0,0,1,1,class", "partial/p0|p0 has no with_mask at"),
        ("p9,with_mask,0,0,1,1,class", "the data has no image 'p9'"),
        ("p0,with_mask,0,0,1,1,drop", "line 2: action 'drop' is unknown"),
        ("p0,with_mask,0,0,one,1,class", "line 2: a box edge is not a number"),
    ],
)
def test_changed_data_and_bad_rows(args: SourcesArgs, tmp_path: Path, row: str, message: str) -> None:
    assert args.sources is not None
    (tmp_path / "doubtful.csv").write_text(f"image_id,label,x1,y1,x2,y2,action\n{row}\n")
    args.sources.write_text(TRUST.replace("edges: none", "edges: none, left_out: doubtful.csv"))
    with pytest.raises(UserError, match=message) as raised:
        load_sources(args)
    assert "doubtful.csv" in str(raised.value)


def test_what_is_refused(args: SourcesArgs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two folders are named 'main'"):
        load_sources(replace(args, data=(args.main_data, args.main_data)))
    with pytest.raises(UserError, match=r"empty: the first --data is split and tested"):
        load_sources(replace(args, data=args.data[::-1]))
    with pytest.raises(UserError, match="--data: name at least one folder"):
        replace(args, data=())
    assert args.sources is not None
    args.sources.write_text(TRUST.replace("edges: none", "edges: none, rename: [with_mask=Mask]"))
    with pytest.raises(UserError, match=r"class 'Mask' is not among the main data's"):
        load_sources(args)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "with_mask",
            "source other: absent_classes: 'with_mask' is a label of its faces; remove it from absent_classes",
        ),
        ("helmet", "source other: absent_classes: 'helmet' is not among the main data's classes (with_mask, "),
    ],
)
def test_an_absent_class_must_be_known_and_absent(args: SourcesArgs, name: str, message: str) -> None:
    assert args.sources is not None
    args.sources.write_text(TRUST.replace("share: 0.4", f"share: 0.4, absent_classes: [{name}]"))
    with pytest.raises(UserError) as raised:
        load_sources(args)
    assert str(raised.value).startswith(message)


def test_a_learned_class_must_be_known(args: SourcesArgs) -> None:
    """A mistyped class would switch off every label of the source."""
    assert args.sources is not None
    args.sources.write_text(TRUST.replace("classes: [without_mask]", "classes: [witout_mask]"))
    with pytest.raises(UserError, match="source other: classes: 'witout_mask' is not among the main data's classes"):
        load_sources(args)


def test_shares_that_leave_nothing_for_the_main_source_are_refused_before_reading(args: SourcesArgs) -> None:
    args.sources.write_text(TRUST.replace("background: false}", "background: false, share: 0.6}"))
    with pytest.raises(UserError, match="sources: the shares sum to 1, which leaves no draws for others; lower them"):
        load_sources(args)


def test_a_name_that_is_no_folder_is_noted(args: SourcesArgs) -> None:
    assert args.sources is not None
    args.sources.write_text(TRUST + "othr: {share: 0.1}\n")
    lines: list[str] = []
    load_sources(args, lines.append)
    assert [line for line in lines if "othr" in line] == [
        f"note: {args.sources}: 'othr' is no folder of --data; it changes nothing"
    ]
