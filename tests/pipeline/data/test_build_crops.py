"""The crop dataset: what is cut, what a second run keeps, and what is refused."""

import csv

import numpy as np
import pytest
from PIL import Image

from common.annotations import AnnotatedImage, Annotations
from common.errors import UserError
from pipeline.data import build_crops as module
from pipeline.data import hard_negatives
from pipeline.data.build_crops import build_crops, main
from stage1_faces.faces import Faces
from stage2_classifier.cropping import cut_crop
from stage2_classifier.data.crop_manifest import BACKGROUND, read_crop_set

CLASSES = ("with_mask", "without_mask", "mask_weared_incorrect")


def voc(boxes, name, size):
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, (x1, y1, x2, y2) in boxes
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


@pytest.fixture
def data(tmp_path):
    """Write nine photos in the Kaggle layout, each with one face per class, and a split."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(9):
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"p{i}.png")
        boxes = [(label, (1 + 20 * k, 10, 15 + 20 * k, 30)) for k, label in enumerate(CLASSES)]
        (root / "annotations" / f"p{i}.xml").write_text(voc(boxes, f"p{i}.png", (80, 60)))
        rows.append((f"p{i}", ("train", "val", "test")[i % 3], i))
    with (tmp_path / "splits.csv").open("w", newline="") as f:
        csv.writer(f).writerows([("image_id", "split", "group"), *rows])
    return tmp_path


def build(data, *flags, out="crops", workers="1"):
    places = ["--data", f"{data}/data", "--out", f"{data}/{out}", "--splits", f"{data}/splits.csv"]
    return main([*places, "--workers", workers, *flags])


def test_crops_are_not_written_among_the_photos(data, capsys):
    before = sorted(data.rglob("*"))
    assert build(data, out="data/images/crops") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {data}/data/images/crops: ") and "another --out" in error
    assert sorted(data.rglob("*")) == before


def test_cuts_one_crop_per_face_into_class_folders(data, capsys):
    assert build(data) == 0
    crops = read_crop_set(data / "crops")
    assert len(crops.records) == 27
    assert crops.class_names == CLASSES
    for record in crops.records:
        assert record.path.startswith(f"{record.split}/{record.label}/{record.image_id}_")
        photo = np.asarray(Image.open(data / "data" / "images" / f"{record.image_id}.png"))
        crop = np.asarray(Image.open(data / "crops" / record.path))
        assert (crop == cut_crop(photo, record.box, crops.margin)).all()
    first = next(r for r in crops.records if r.image_id == "p0" and r.label == "with_mask")
    assert first.box == (0, 9, 15, 30)  # from 1-based inclusive corners 1, 10, 15, 30
    assert {p.name for p in (data / "crops").glob("contact_*.png")} == {f"contact_{c}.png" for c in CLASSES}
    assert "27 crops" in capsys.readouterr().out


def test_imagefolder_reads_it_too(data):
    from torchvision.datasets import ImageFolder

    build(data)
    folder = ImageFolder(str(data / "crops" / "train"))
    assert len(folder) == 9
    assert sorted(folder.classes) == sorted(CLASSES)


def test_imagefolder_numbers_the_classes_alike_where_one_is_missing(data):
    from torchvision.datasets import ImageFolder

    for file in (data / "data" / "annotations").iterdir():
        if file.stem != "p0":  # a training photo
            file.write_text(file.read_text().replace(CLASSES[2], CLASSES[1]))
    build(data)
    for split in ("train", "val", "test"):
        assert ImageFolder(str(data / "crops" / split), allow_empty=True).classes == sorted(CLASSES)


def test_run_again_cuts_only_what_is_missing_or_changed(data, capsys):
    build(data)
    before = {p: p.stat().st_mtime_ns for p in (data / "crops").rglob("p*.png")}
    victim = min(before)
    victim.unlink()
    photo = data / "data" / "images" / "p4.png"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photo)
    capsys.readouterr()
    assert build(data) == 0
    assert "4 cut now" in capsys.readouterr().out  # one was missing, a photo with three faces changed
    after = {p: p.stat().st_mtime_ns for p in (data / "crops").rglob("p*.png")}
    assert len(after) == len(before)
    unchanged = [p for p in before if p != victim and not p.name.startswith("p4_")]
    assert all(after[p] == before[p] for p in unchanged)


def test_a_killed_run_resumes(data, capsys, monkeypatch):
    cut, done = module._cut_photo, []

    def killed(job):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(job)
        return cut(job)

    monkeypatch.setattr(module, "_cut_photo", killed)
    assert build(data) == 130
    assert not (data / "crops" / "crops.csv").exists()
    # A kill within a write leaves this file.
    (data / "crops" / "train" / CLASSES[0] / ".p0_000.x1.tmp.png").write_bytes(b"half")
    monkeypatch.undo()
    capsys.readouterr()
    assert build(data) == 0
    assert "27 crops" in (screen := capsys.readouterr().out) and "15 cut now" in screen
    assert len([p for p in (data / "crops").rglob("*.png") if not p.name.startswith("contact_")]) == 27


def test_another_margin_replaces_every_crop(data):
    build(data)
    build(data, "--margin", "0.5")
    crops = read_crop_set(data / "crops")
    assert crops.margin == 0.5
    assert len(list((data / "crops").rglob("p*.png"))) == 27
    assert all(Image.open(data / "crops" / r.path).width == 42 for r in crops.records if r.label == "without_mask")


# Boxes, 0-based: the first of a photo's three faces, then two false alarms, one of them at the edge.
FACE, ALARM, AT_EDGE = (0, 10, 15, 30), (60, 40, 76, 55), (74, 0, 80, 8)
POINTS = np.float32([[3, 15], [10, 15], [7, 20], [4, 25], [9.5, 25.25]])


class FakeCascade:
    """Replaces the fine-tuned cascade, and counts the photos that it sees."""

    def __init__(self, *boxes):
        self.boxes, self.seen = boxes, 0

    def detect(self, image, *, min_score):
        assert image.shape == (60, 80, 3) and min_score == hard_negatives.MIN_SCORE
        self.seen += 1
        scores = np.linspace(0.9, 0.1, len(self.boxes), dtype=np.float32)
        return Faces(np.float32(self.boxes).reshape(-1, 4), scores, np.tile(POINTS, (len(self.boxes), 1, 1)))


@pytest.fixture
def cascade(monkeypatch):
    """Replace the detector of `--cascade RUN` by one with given boxes."""
    made = FakeCascade(FACE, ALARM, AT_EDGE)
    monkeypatch.setattr(module, "load_detector", lambda run: made if run.name == "RUN" else pytest.fail(run))
    return made


def pngs(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*.png") if not p.name.startswith("contact_")}


def test_false_alarms_of_training_photos_are_cut_as_hard_negatives(data, cascade, capsys):
    assert build(data, "--cascade", "RUN", workers="2") == 0
    assert cascade.seen == 3  # the training photos p0, p3 and p6
    assert "6 false alarms of stage 1" in capsys.readouterr().out
    crops = read_crop_set(data / "crops")
    assert len(crops.records) == 27 and crops.class_names == CLASSES
    assert [(r.image_id, r.box) for r in crops.hard_negatives] == [
        (p, b) for p in ("p0", "p3", "p6") for b in (ALARM, AT_EDGE)
    ]
    for record in crops.hard_negatives:
        assert (record.label, record.split, record.landmarks) == (BACKGROUND, "train", ())
        assert record.path.startswith(f"rejects/train/{record.image_id}_")
        photo = np.asarray(Image.open(data / "data" / "images" / f"{record.image_id}.png"))
        crop = np.asarray(Image.open(data / "crops" / record.path))
        assert (crop == cut_crop(photo, record.box, crops.margin)).all()
    assert pngs(data / "crops") == {r.path for r in (*crops.records, *crops.hard_negatives)}
    # The class folders and the contact sheets have no hard negatives.
    assert not list((data / "crops" / "train").rglob(f"*{BACKGROUND}*"))
    assert {p.name for p in (data / "crops").glob("contact_*.png")} == {f"contact_{c}.png" for c in CLASSES}


def test_landmarks_of_the_faces_that_the_cascade_finds_are_kept(data, cascade):
    build(data, "--cascade", "RUN")
    crops = read_crop_set(data / "crops")
    known = {(r.image_id, r.label): r.landmarks for r in crops.records if r.landmarks}
    assert set(known) == {(p, CLASSES[0]) for p in ("p0", "p3", "p6")}
    assert set(known.values()) == {tuple(POINTS.ravel().tolist())}


def test_run_again_with_the_same_false_alarms_cuts_nothing(data, cascade, capsys):
    build(data, "--cascade", "RUN")
    before = {p: p.stat().st_mtime_ns for p in (data / "crops").rglob("p*.png")}
    table = (data / "crops" / "rejects.csv").read_text()
    capsys.readouterr()
    assert build(data, "--cascade", "RUN") == 0
    assert "27 crops" in (screen := capsys.readouterr().out) and "0 cut now" in screen
    assert {p: p.stat().st_mtime_ns for p in (data / "crops").rglob("p*.png")} == before
    assert (data / "crops" / "rejects.csv").read_text() == table


def test_former_false_alarms_are_removed(data, cascade, capsys):
    build(data, "--cascade", "RUN")
    cascade.boxes = (FACE, ALARM)
    capsys.readouterr()
    build(data, "--cascade", "RUN")
    assert "0 cut now" in capsys.readouterr().out
    crops = read_crop_set(data / "crops")
    assert [r.box for r in crops.hard_negatives] == [ALARM] * 3
    assert pngs(data / "crops") == {r.path for r in (*crops.records, *crops.hard_negatives)}
    # Without a cascade there are no hard negatives.
    build(data)
    assert read_crop_set(data / "crops").hard_negatives == ()
    assert not (data / "crops" / "rejects.csv").exists() and not pngs(data / "crops" / "rejects")
    assert len(pngs(data / "crops")) == 27


def test_a_photo_that_cannot_be_read_is_named_once_with_a_cascade(data, cascade, capsys):
    photo = data / "data" / "images" / "p3.png"
    photo.write_bytes(photo.read_bytes()[:400])
    assert build(data, "--cascade", "RUN") == 1
    assert capsys.readouterr().err.count("p3.png") == 1
    crops = read_crop_set(data / "crops")
    assert len(crops.records) == 24 and {r.image_id for r in crops.hard_negatives} == {"p0", "p6"}


def test_another_margin_replaces_hard_negatives(data, cascade):
    build(data, "--cascade", "RUN")
    build(data, "--cascade", "RUN", "--margin", "0.25")
    crops = read_crop_set(data / "crops")
    assert pngs(data / "crops") == {r.path for r in (*crops.records, *crops.hard_negatives)}
    assert {Image.open(data / "crops" / r.path).width for r in crops.hard_negatives if r.box == ALARM} == {24}


def test_several_processes_give_the_same(data):
    build(data)
    one = (data / "crops" / "crops.csv").read_text()
    assert build(data, out="two", workers="2") == 0
    assert (data / "two" / "crops.csv").read_text() == one


def test_an_unreadable_photo_is_named_and_the_rest_is_cut(data, capsys):
    photo = data / "data" / "images" / "p2.png"
    photo.write_bytes(photo.read_bytes()[:400])
    assert build(data) == 1
    assert "p2.png" in capsys.readouterr().err
    assert len(read_crop_set(data / "crops").records) == 24


def test_names_of_the_data_do_not_control_the_terminal(data, capsys):
    for file in (data / "data" / "annotations").iterdir():
        file.write_text(file.read_text().replace("without_mask", "without\x9b2J"))
    for folder, suffix in (("images", "png"), ("annotations", "xml")):
        for name in ("p0", "p1"):
            file = data / "data" / folder / f"{name}.{suffix}"
            file.rename(file.with_stem(f"{name}\x1b[2J"))
    splits = data / "splits.csv"
    splits.write_text(splits.read_text().replace("p0,", "p0\x1b[2J,"))
    photo = data / "data" / "images" / "p0\x1b[2J.png"
    photo.write_bytes(photo.read_bytes()[:400])
    assert build(data) == 1
    printed = capsys.readouterr()
    assert all(c.isprintable() for c in (printed.out + printed.err).replace("\n", ""))
    assert "without\ufffd2J" in printed.out
    assert "p0\ufffd[2J.png: " in printed.err and "in no split, left out: p1\ufffd[2J" in printed.err


def test_a_photo_that_rotates_when_decoded_is_named(data, capsys, monkeypatch):
    read = module.read_image
    monkeypatch.setattr(module, "read_image", lambda p: read(p).swapaxes(0, 1) if p.stem == "p2" else read(p))
    assert build(data) == 1
    assert "p2.png: is 60x80 when decoded, 80x60 by its header" in capsys.readouterr().err
    assert len(read_crop_set(data / "crops").records) == 24


def test_a_missing_splits_file_is_made(data):
    (data / "splits.csv").unlink()
    assert build(data) == 0
    assert (data / "splits.csv").is_file()


def test_a_folder_with_other_things_is_refused(data, capsys):
    (data / "crops").mkdir()
    (data / "crops" / "holiday.png").touch()
    assert build(data) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (data / "crops" / "holiday.png").exists()


def test_a_class_that_cannot_be_a_folder_is_refused(tmp_path):
    image = AnnotatedImage(tmp_path / "a.png", "a", (10, 10), np.array([[0, 0, 5, 5]], np.float32), ("../up",))
    with pytest.raises(UserError, match="cannot be a folder's name"):
        build_crops(Annotations((image,), ("../up",)), {"a": "train"}, tmp_path / "out")


def test_photos_of_the_split_that_are_missing_are_named(data, capsys):
    (data / "data/images/p0.png").unlink()
    (data / "data/annotations/p0.xml").unlink()
    assert build(data) == 0
    line = f"warning: {data}/splits.csv: 1 of its 9 photos are not in the data, or refused: p0"
    assert line in capsys.readouterr().err.splitlines()


def test_photos_with_long_names_have_crops_with_shorter_ones(tmp_path):
    """As names of crops, ids with their folders are longer than a file's name may be."""
    folder = tmp_path / "data" / ("\uac00" * 60) / ("\uac01" * 60)
    folder.mkdir(parents=True)
    boxes = np.array([[0, 0, 5, 5]], np.float32)
    images = []
    for name in ("a", "b"):
        Image.new("RGB", (10, 10)).save(folder / f"{name}.png")
        image_id = f"{folder.parent.name}/{folder.name}/{name}"
        images.append(AnnotatedImage(folder / f"{name}.png", image_id, (10, 10), boxes, ("x",)))
    splits = {image.image_id: "train" for image in images}
    for cut in (2, 0):
        summary = build_crops(Annotations(tuple(images), ("x",)), splits, tmp_path / "out")
        assert summary.cut == cut
    records = read_crop_set(tmp_path / "out").records
    assert len({record.path for record in records}) == 2
    assert {record.image_id for record in records} == set(splits)
    assert all((tmp_path / "out" / record.path).is_file() for record in records)


def test_a_class_with_the_name_of_hard_negatives_is_refused(tmp_path):
    image = AnnotatedImage(tmp_path / "a.png", "a", (10, 10), np.array([[0, 0, 5, 5]], np.float32), ("not_a_face",))
    with pytest.raises(UserError, match="is the name of hard negatives"):
        build_crops(Annotations((image,), ("not_a_face",)), {"a": "train"}, tmp_path / "out")


def test_no_image_in_the_split(tmp_path):
    image = AnnotatedImage(tmp_path / "a.png", "a", (10, 10), np.array([[0, 0, 5, 5]], np.float32), ("x",))
    with pytest.raises(UserError, match="no image of the dataset is in the splits"):
        build_crops(Annotations((image,), ("x",)), {"b": "train"}, tmp_path / "out")
