"""Writes the suspects: suspects.csv, contact sheets and the table in the console."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.display import counted, display_name
from common.files import atomic_replace, write_text
from common.images import read_image
from common.sources.doubtful import COLUMNS
from pipeline.check.photo_reading import face_window
from pipeline.check.suspects.finding import Suspect, SuspectReport

CSV_NAME = "suspects.csv"
SHEET_NAME = re.compile(r"sheet-\d{2,}-[A-Za-z0-9_-]*-\d{2,}\.png")  # of `write_sheets`
EXTRA_COLUMNS = ("predicted", "predicted_prob", "label_prob", "agreeing", "detector_iou", "reason", "number")
TILE, TEXT, ACROSS, PER_SHEET = 120, 14, 10, 100  # px of a crop, px of its line of text, crops in a row and a sheet

Numbered = tuple[int, Suspect]


def write_csv(report: SuspectReport, folder: Path) -> Path:
    """Write suspects.csv, which `left_out` in sources.yaml takes; return its path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *EXTRA_COLUMNS))
    for number, each in enumerate(report.suspects, start=1):
        # Four decimals: a reader must find boxes of one pixel again.
        box = (f"{edge:.4f}" for edge in each.image.boxes[each.face].tolist())
        overlap = "" if each.detector_iou is None else f"{each.detector_iou:.2f}"
        probs = (f"{each.predicted_prob:.4f}", f"{each.label_prob:.4f}")
        row = (each.image.image_id, each.label, *box, each.action, each.predicted, *probs)
        writer.writerow((*row, each.agreeing, overlap, each.reason, number))
    write_text(folder / CSV_NAME, text.getvalue())
    return folder / CSV_NAME


def write_sheets(report: SuspectReport, folder: Path) -> list[Path]:
    """Write one or several PNG files for each pair of label and prediction, the surest first; return their paths.

    Each crop has its number in suspects.csv and the probability of the predicted class. Sheets of an earlier run are
    removed.
    """
    for old in folder.glob("sheet-*.png"):
        if SHEET_NAME.fullmatch(old.name):
            old.unlink()
    written = []
    for k, (pair, members) in enumerate(report.by_pair().items(), start=1):
        name = "-".join(re.sub(r"[^A-Za-z0-9_]", "_", part) for part in pair)[:150]
        for start in range(0, len(members), PER_SHEET):
            file = folder / f"sheet-{k:02}-{name}-{start // PER_SHEET + 1:02}.png"
            picture = _sheet(members[start : start + PER_SHEET])
            with atomic_replace(file) as part:
                picture.save(part, "PNG")
            written.append(file)
    return written


def _sheet(members: Sequence[Numbered]) -> Image.Image:
    rows = -(-len(members) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * TILE, rows * (TILE + TEXT)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (number, each) in enumerate(members):
        x, y = k % ACROSS * TILE, k // ACROSS * (TILE + TEXT)
        window = face_window(each.image, each.face)
        crop = Image.fromarray(read_image(each.image.path)).crop(window)
        scale = TILE / max(crop.size)
        crop = crop.resize((max(round(crop.width * scale), 1), max(round(crop.height * scale), 1)))
        sheet.paste(crop, (x, y))
        edges = each.image.boxes[each.face].tolist()
        x1, y1, x2, y2 = ((edge - window[i % 2]) * scale for i, edge in enumerate(edges))
        pen.rectangle((x + x1, y + y1, x + x2, y + y2), outline=(255, 0, 0))
        pen.text((x + 2, y + TILE + 1), f"{number}: {each.predicted_prob:.2f}", fill="black")
    return sheet


def show_suspects(screen: Console, report: SuspectReport) -> None:
    """Print how many faces of each class the models contradict."""
    screen.print(Text(f"\nDoubtful labels: {counted(len(report.suspects), 'face')}", "bold"))
    if not report.suspects:
        return
    table = Table(box=SIMPLE_HEAD)
    for title in ("action", "labelled", "predicted", "faces"):
        table.add_column(title, justify="right" if title == "faces" else "left")
    for pair, members in report.by_pair().items():
        table.add_row(*map(display_name, pair), str(len(members)))
    screen.print(table)


def write_and_show(screen: Console, report: SuspectReport, folder: Path) -> None:
    """Write the CSV file and the contact sheets into a folder, and print the table and the files."""
    file, sheets = write_csv(report, folder), write_sheets(report, folder)
    show_suspects(screen, report)
    found = f"wrote {display_name(file)} and {counted(len(sheets), 'contact sheet')}"
    screen.print(found, markup=False, highlight=False)
