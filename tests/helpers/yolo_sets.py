"""Write small YOLO datasets, and random ones whose faces are known."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (200, 160)  # of the photos, in pixels
NAMES = ("mask", "no mask", "안 씀")
# Where the photos of a layout are, and their labels; {} is the split's folder.
LAYOUTS = {
    "ultralytics": ("images/{}", "labels/{}"),
    "roboflow": ("{}/images", "{}/labels"),
    "darknet": ("obj_{}_data", "obj_{}_data"),
}
SPLITS = ("train", "valid", "test")
SPLIT_NAMES = {"train": "train", "valid": "val", "test": "test"}
ROW_KINDS = ("box", "key points", "key points with visibility", "polygon", "confidence", "confidence and track")


def save_photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Save a grey photo, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg", ".jfif") else None)
    return path


def save_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Save a text file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def row_text(values: Any) -> str:
    """Return values as a row of a label file has them."""
    return " ".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in values)


def make_row(kind: str, rng: np.random.Generator, track: int = 1) -> tuple[list[float], np.ndarray]:
    """Return the values of a row after the class, and its box (xyxy, divided by the image's size)."""
    w = rng.uniform(0.05, 0.35)
    h = w * rng.uniform(1, 1.5)
    x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
    values = [round(v, 6) for v in (x, y, w, h)]
    box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    if kind == "polygon":
        count = int(rng.integers(4, 12))
        angles = (np.arange(count) + rng.uniform(0, 0.5, count)) * 2 * np.pi / count + rng.uniform(0, 6)
        points = np.array([x, y]) + np.stack([np.cos(angles), np.sin(angles)], 1) * [w / 2, h / 2]
        return points.ravel().round(6).tolist(), np.array([*points.min(0), *points.max(0)])
    if kind.startswith("key points"):
        face = np.array([[-0.2, -0.15], [0.2, -0.15], [0, 0.05], [-0.17, 0.25], [0.17, 0.25]])
        points = face + rng.normal(0, 0.03, (5, 2))
        points = points * [w, h] + [x, y]
        missing = rng.random(5) < 0.2
        points[missing] = rng.choice([-1, 0])
        if kind.endswith("visibility"):
            points = np.column_stack([points, np.where(missing, 0, rng.integers(1, 3, 5))])
        values += points.ravel().round(6).tolist()
    if kind.startswith("confidence"):
        values.append(round(float(rng.uniform(0.3, 1)), 4))
    if kind.endswith("track"):
        values.append(track)
    return values, box


@dataclass
class RandomSet:
    """A random dataset as written: what must be read, and how many rows cannot be."""

    faces: dict[str, list[tuple[str, np.ndarray]]] = field(default_factory=dict)  # (class, box) of good rows, by stem
    splits: dict[str, str] = field(default_factory=dict)  # of each photo that must be read
    rows: int = 0  # rows in files that can be read
    bad: set[str] = field(default_factory=set)  # photos with a row that cannot be read
    unlabelled: set[str] = field(default_factory=set)
    orphan_splits: set[str] = field(default_factory=set)  # splits with a label file of no photo


BAD_ROWS = (
    "9 0.5 0.5 0.1 0.1",
    "0 0.5 0.5 0.1",
    "0 0.5 nan 0.1 0.1",
    "0 120 90 40 50",
    "zebra 0.5 0.5 0.1 0.1",
    "0 x y",
)


def write_random_set(root: Path, rng: np.random.Generator) -> RandomSet:
    """Write a random dataset: layout, names, encodings, odd rows, photos or labels alone."""
    made = RandomSet()
    layout = str(rng.choice(list(LAYOUTS)))
    kind = str(rng.choice(ROW_KINDS))
    splits = [str(s) for s in SPLITS[: rng.integers(1, 4)]]
    photos: dict[str, list[str]] = {}
    for split in splits:
        for i in range(int(rng.integers(2, 6))):
            photos.setdefault(split, []).append(_write_photo(root, made, split, f"{split}é{i}", layout, kind, rng))
        if rng.random() < 0.3:
            rows = int(rng.integers(0, 3))
            made.rows += rows
            folder = LAYOUTS[layout][1].format(split)
            save_text(root / folder / f"alone {split}.txt", "0 0.5 0.5 0.25 0.25\n" * rows)
            if rows:
                made.orphan_splits.add(split)
    _write_config(root, layout, photos, kind, rng)
    return made


def _write_photo(
    root: Path, made: RandomSet, split: str, stem: str, layout: str, kind: str, rng: np.random.Generator
) -> str:
    """Write a photo and its label file; return the path as a list has it."""
    form, label_form = (str(rng.choice(["NFC", "NFD"])) for _ in range(2))
    suffix = str(rng.choice([".jpg", ".JPG", ".png", ".jfif"]))
    photo_folder, label_folder = (folder.format(split) for folder in LAYOUTS[layout])
    name = unicodedata.normalize(form, stem) + suffix
    save_photo(root / photo_folder / name)
    made.splits[stem] = SPLIT_NAMES[split]
    made.faces[stem] = []
    label = root / label_folder / f"{unicodedata.normalize(label_form, stem)}.txt"
    chance = rng.random()
    if chance < 0.15:
        made.unlabelled.add(stem)
    elif chance < 0.2:
        save_text(label, "0 0.5 0.5 0.2 0.2 # é\n", "latin-1")  # not readable: the photo leaves the set
        del made.splits[stem], made.faces[stem]
    else:
        lines = _random_lines(made, stem, kind, rng)
        text = str(rng.choice(["\n", "\r\n"])).join(lines) + "\n" * int(rng.integers(0, 3))
        save_text(label, text, str(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])))
    return f"{photo_folder}/{name}"


def _random_lines(made: RandomSet, stem: str, kind: str, rng: np.random.Generator) -> list[str]:
    """Return the rows of a photo's label file."""
    lines = []
    for track in range(int(rng.integers(0, 4))):
        values, box = make_row(kind, rng, track + 2)
        number = int(rng.integers(len(NAMES)))
        written = str(rng.choice([str(number), f"{number}.0", NAMES[number]]))
        lines.append(f"{written} {row_text(values)}")
        made.faces[stem].append((NAMES[number], box * [*SIZE, *SIZE]))
    if rng.random() < 0.15:
        lines.insert(0, str(rng.choice(BAD_ROWS)))
        made.bad.add(stem)
    made.rows += len(lines)
    return lines


def _write_config(root: Path, layout: str, photos: dict[str, list[str]], kind: str, rng: np.random.Generator) -> None:
    """Write data.yaml or obj.data, with lists or folders."""
    for split, paths in photos.items():
        prefix = str(rng.choice(["", "./", "data/", "C:\\made\\", "/content/made/"]))
        lines = [prefix + (path.replace("/", "\\") if prefix[:1] == "C" else path) for path in paths]
        save_text(root / f"{split}.txt", "\n".join(lines))
    if layout == "darknet":
        lists = "".join(f"{split} = data/{split}.txt\n" for split in photos)
        save_text(root / "obj.data", f"classes = {len(NAMES)}\nnames = data/obj.names\nbackup = backup/\n{lists}")
        save_text(root / "obj.names", "\n".join(NAMES))
        return
    sources = {split: str(rng.choice([f"{split}.txt", LAYOUTS[layout][0].format(split)])) for split in photos}
    way = str(rng.choice(["", "../", "made/", "/content/made/", "..\\"]))
    keys = {"valid": str(rng.choice(["val", "valid"]))}
    lines = [f"{keys.get(split, split)}: {way}{source}" for split, source in sources.items()]
    lines = [line.replace("/", "\\") if way == "..\\" else line for line in lines]
    table = "names:\n" + "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    names = str(rng.choice([table, f"names: ['{NAMES[0]}', \"{NAMES[1]}\", {NAMES[2]}]\n"]))
    shape = {"key points": "kpt_shape: [5, 2]\n", "key points with visibility": "kpt_shape: [5, 3]\n"}.get(kind, "")
    text = "\n".join(lines) + "\n" + names + (shape if rng.random() < 0.5 else "")
    save_text(root / str(rng.choice(["data.yaml", "mask.yaml"])), text, str(rng.choice(["utf-8", "utf-16"])))
