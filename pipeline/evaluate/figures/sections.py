"""The tables of README and the model card, from results; each is one section, which a page's comments name.

A section of a page starts with `<!-- figures: NAME -->` and ends with `<!-- /figures -->`. Between these comments the
command writes. So no figure on a page is typed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.errors import UserError
from pipeline.evaluate.figures.results import OURS, ColumnResults, Record, as_figure, fold_figure
from pipeline.evaluate.figures.rows import CASCADE, OF_BUNDLE, PIPELINE, ROWS, figures_table, peer_notes
from pipeline.inference.provenance import recorded_sources

SECTION = re.compile(r"(<!-- figures: ([^\n]+?) -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)
Z95 = 1.96  # of the normal distribution
CLASS_TITLES = ("with", "without", "incorrect")
# More rows of the headline than the targets have.
DETAILS = {
    "AP50 with_mask": "AP50 `with_mask`, 5 folds",
    "AP50 without_mask": "AP50 `without_mask`, 5 folds",
    "mAP50, one label per face": "mAP50 with one label per face, 5 folds",
}
SOURCE_COLUMNS = {
    "mAP": "mAP at IoU",
    "face_AP": "face AP at IoU",
    "face_recall": "face recall",
    "calibration_error": "calibration error (score from 0.01)",
    "crop_accuracy": "crops: accuracy",
    "crop_macro_f1": "crops: macro-F1",
}


def fill_sections(page: str, name: str, make: Mapping[str, Callable[[], str | None]]) -> tuple[str, list[str]]:
    """Return a page with its sections written, and the names of those that have no results and stay as they are.

    Args:
        page: the text.
        name: the page's name, for messages.
        make: by section, what returns its text, or None without results.

    Raises:
        UserError: a section is unknown, or its end is missing.
    """
    if (starts := page.count("<!-- figures:")) != len(SECTION.findall(page)):
        raise UserError(
            f"{name}: {starts} sections start with `<!-- figures: NAME -->`; end each by a line `<!-- /figures -->`"
        )
    kept: list[str] = []

    def write(found: re.Match[str]) -> str:
        start, section, old, end = found.groups()
        if section not in make:
            raise UserError(f"{name}: section {section!r} is unknown; use {', '.join(make)}")
        text = make[section]()
        if text is None:
            kept.append(section)
            return start + old + end
        return f"{start}\n{text.strip()}\n\n{end}"

    return SECTION.sub(write, page), kept


def all_sections(
    columns: Mapping[str, ColumnResults], bundles: Mapping[str, Record], reference: Record
) -> dict[str, Callable[[], str | None]]:
    """Return what makes each section, by its name.

    Args:
        columns: results by bundle.
        bundles: {name: bundle.json}; those that do not exist are missing.
        reference: the content of reference.yaml.
    """
    found: dict[str, Callable[[], str | None]] = {
        "targets": lambda: figures_table(columns, reference),
        "peers": lambda: "\n".join(f"- {note}" for note in peer_notes(reference)),
        "photos": lambda: photos_table(reference),
    }
    for name, results in columns.items():
        found |= {
            f"headline {name}": lambda name=name, results=results: headline(name, results),  # type: ignore[misc]
            f"cascades {name}": lambda results=results: cascades(results),  # type: ignore[misc]
            f"sources {name}": lambda results=results: sources_table(results),  # type: ignore[misc]
            f"slices {name}": lambda results=results: slices_tables(results),  # type: ignore[misc]
            f"bundle {name}": lambda name=name: bundle_facts(bundles.get(name)),  # type: ignore[misc]
        }
    return found


def headline(bundle: str, results: ColumnResults) -> str | None:
    """Return the figures of the bundle of that name with their commands; None without any result."""
    made_by = {row.command: OF_BUNDLE.get(bundle, {}).get(row.command, row.command) for row in ROWS}
    rows = [(r.title, f.text(r.digits), made_by[r.command]) for r in ROWS if (f := r.get(results)) is not None]
    command = next(made_by[row.command] for row in ROWS if row.key == "map50")
    details = [(t, f.text(), command) for m, t in DETAILS.items() if (f := fold_figure(results, m, PIPELINE))]
    rows = [*rows[:2], *details, *rows[2:]]
    earlier = ["", *(command for _, _, command in rows)]
    shown = [
        (title, text, made if made != last else "") for (title, text, made), last in zip(rows, earlier, strict=False)
    ]
    return _table(("figure", "value", "made by"), shown) if rows else None


def cascades(results: ColumnResults) -> str | None:
    """Return the cross-validation's figures of the stock and the fine-tuned cascade; None without results."""
    names = ("stock", CASCADE)
    rows = [
        (metric, *("" if (f := as_figure(row.get(name))) is None else f.text() for name in names))
        for metric, row in results.crossval.get("mean_and_spread", {}).items()
        if any(name in row for name in names)
    ]
    return _table(("mean and spread over the folds", *names), rows) if rows else None


def sources_table(results: ColumnResults) -> str | None:
    """Return one row per dataset that was scored, and one per folder of photos without faces; None without results."""
    rows = []
    for name, record, learned in _scored(results):
        if not record["summary"]:  # other detectors alone
            continue
        figures = [as_figure(record["summary"].get(key)) for key in SOURCE_COLUMNS]
        iou = record.get("iou") or _own(record)["settings"]["iou"]
        facts = (name, str(record["photos"]), str(sum(record["faces"].values())), f"{iou:g}")
        rows.append((*facts, *("" if f is None else f.text() for f in figures), learned))
    text = _table(("source", "photos", "faces", "IoU", *SOURCE_COLUMNS.values(), "learned from"), rows) if rows else ""
    free = [
        (name, str(r["photos"]), f"{r['threshold']:.3g}", _per_photo(r), r.get("learned_from", "not recorded"))
        for name, r in results.face_free.items()
    ]
    if free:
        header = ("photos without faces", "photos", "score from", "false alarms per photo", "learned from")
        text += ("\n\n" if text else "") + _table(header, free)
    return text or None


def slices_tables(results: ColumnResults) -> str | None:
    """Return where faces are found, and where their labels are right, by size, light, blur and class and by source.

    The intervals are Wilson's (1927). Faces of one photo are not independent, so the true ones are somewhat wider.
    """
    by_source = {
        name if learned != "all but this one" else f"{name} (left out)": _own(record)["slices"]
        for name, record, learned in _scored(results)
        if learned != "yes" and _own(record) is not None
    }
    if not by_source:
        return None
    names: dict[tuple[str, str], None] = {}
    for slices in by_source.values():
        names |= dict.fromkeys((s["by"], s["name"]) for s in slices)
    order = ("size", "light", "blur", "class")
    keys = sorted(names, key=lambda key: order.index(key[0]))  # stable: the slices' own order within each kind
    tables = []
    for title, of, among in (("found", "found", "truths"), ("right label, of the found", "right", "found")):
        rows = []
        for key in keys:
            found = [next((s for s in slices if (s["by"], s["name"]) == key), None) for slices in by_source.values()]
            rows.append((f"{key[0]}: {key[1]}", *(_share(s, of, among) for s in found)))
        tables.append(_table((title, *by_source), rows))
    note = "Share of faces with its 95% interval (Wilson), and the number of faces that it is of."
    return "\n\n".join([*tables, note])


def bundle_facts(bundle: Record | None) -> str | None:
    """Return what a bundle learned from, and the pretrained weights, as its provenance says; None without a bundle."""
    if bundle is None:
        return None
    provenance = bundle["provenance"]
    data = provenance.get("data", {})
    lines = []
    if counts := (data.get("class_counts") or {}).get("train"):
        lines.append("- Faces learned from: " + ", ".join(f"{count} `{name}`" for name, count in counts.items()) + ".")
    if sources := recorded_sources(provenance):
        facts = (provenance.get("stage1") or {}).get("sources")
        counts_of = {
            name: f" ({f['photos']} photos, {f['faces']} faces)"
            for name, f in (facts.items() if isinstance(facts, Mapping) else ())
            if {"photos", "faces"} <= set(f)
        }
        shown = ", ".join(f"`{name}`{counts_of.get(name, '')}" for name in sources)
        lines.append(f"- Sources learned from: {shown}.")
    else:
        lines.append("- Sources learned from: one dataset; the bundle does not record its name.")
    weights = list(dict.fromkeys(_weights(provenance)))
    lines += [f"- Pretrained weights: {text}." for text in weights]
    return "\n".join(lines)


def photos_table(reference: Record) -> str:
    """Return where the photos are from, with the number of photos and of faces by class."""
    rows = [
        (
            *(f"`{p['name']}`", p["from"], str(p["photos"]), " / ".join(map(str, p["faces"]))),
            p.get("licence", reference["no_licence"]),
        )
        for p in reference["photos"]
    ]
    return _table(("photos", "from", "number", f"faces {' / '.join(CLASS_TITLES)}", "licence"), rows)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson, "Probable inference", 1927); 0 and 1 for a count of 0."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _scored(results: ColumnResults) -> Iterator[tuple[str, Record, str]]:
    """Yield the name, the results, and what was learned from, of each dataset; first those that were left out."""
    for name, record in results.left_out.items():
        yield name, record, "all but this one"
    for name, record in results.sources.items():
        learned = record.get("learned_from", "not recorded")
        yield name, record, "no (test split)" if record.get("split") == "test" and learned != "yes" else learned


def _own(record: Record) -> Any:
    return next((d for d in record.get("detectors", ()) if d["name"] == OURS), None)


def _per_photo(record: Record) -> str:
    figure = as_figure(record["per_photo"])
    return "" if figure is None else figure.text()


def _share(part: Record | None, of: str, among: str) -> str:
    if part is None or not part[among]:
        return ""
    low, high = wilson(part[of], part[among])
    return f"{part[of] / part[among]:.2f} [{low:.2f}, {high:.2f}] ({part[among]})"


def _weights(value: Any) -> Iterator[str]:
    """Yield the description of each part of a provenance that has a licence: pretrained weights."""
    if isinstance(value, Mapping):
        if "licence" in value:
            yield ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, str) and k != "sha256")
        for part in value.values():
            yield from _weights(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _weights(part)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
