"""pipeline.evaluate.figures: results as they are written become one table and the sections of pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate.figures.command import main
from pipeline.evaluate.figures.results import Figure, as_figure, read_column, read_reference
from pipeline.evaluate.figures.rows import COLUMNS, ROWS
from pipeline.evaluate.figures.sections import all_sections, fill_sections, sources_table, wilson

ROOT = Path(__file__).resolve().parents[3]


def write(file: Path, record: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record))


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def scored(name: str, learned_from: str = "no", **summary: Any) -> dict[str, Any]:
    """Return an evaluation.json of one dataset, with one slice."""
    slices = [{"by": "size", "name": ">48", "truths": 10, "found": 8, "right": 6}]
    detectors = [{"name": "ours", "slices": slices, "settings": {"iou": 0.35}}]
    facts = {"photos": 5, "faces": {"with_mask": 6, "without_mask": 4}, "iou": 0.35, "detectors": detectors}
    return {"sources": {name: {**facts, "summary": summary, "learned_from": learned_from}}, "face_free": {}}


CROSSVAL = {
    "mean_and_spread": {
        "mAP50": {"whole pipeline": [0.8614, 0.02]},
        "mAP50-95": {"whole pipeline": None},
        "AP50 with_mask": {"whole pipeline": [0.93, 0.01]},
        "face AP50": {"stock": [0.7, 0.1], "fine-tuned": [0.9, 0.01]},
        "expected calibration error": {"whole pipeline": [0.04, 0.01]},
    },
    "pooled": {"AP50/mask_weared_incorrect": interval(0.76, 0.6, 0.85)},
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of both bundles, with some that are missing."""
    root = tmp_path / "results"
    write(root / "kaggle/cv/crossval.json", CROSSVAL)
    write(root / "kaggle/measured.json", {"time": interval(1.05, 1.01, 1.12), "training_hours": 2.6})
    write(
        root / "default/left_out_ilc.json",
        scored("ilc", mAP=interval(0.861, 0.8, 0.9), calibration_error=interval(0.06, 0.05, 0.07)),
    )
    write(
        root / "default/left_out_tv-news.json",
        scored("tv-news", mAP=interval(0.8, 0.7, 0.9), calibration_error=interval(0.02, 0.01, 0.03)),
    )
    evaluation = scored("other-photos", mAP=interval(0.931, 0.91, 0.95), calibration_error=interval(0.04, 0.03, 0.05))
    free = {"photos": 100, "threshold": 0.4, "per_photo": interval(0.01, 0, 0.03), "learned_from": "no"}
    write(root / "default/own/evaluation.json", {**evaluation, "face_free": {"no-faces": free}})
    return root


def table(results: Path, *options: str) -> dict[str, list[str]]:
    """Write the page, and return the cells of each row of its table by the row's title."""
    out = results.parent / "figures.md"
    assert main(["--results", str(results), "--out", str(out), *options]) == 0
    lines = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for line in lines if (cells := [c.strip() for c in line.strip("|").split("|")])}


def test_the_one_table(results: Path) -> None:
    rows = table(results)
    assert rows["Kaggle photos, 5 folds: mAP50"] == [
        *("YOLO11n from COCO weights 0.793", "", "0.816 ± 0.033"),
        *("0.861 ± 0.020", "", "0.86 / 0.88", "1"),
    ]
    assert rows["Kaggle photos, 5 folds: mAP50-95"][3:5] == ["", ""]
    rare = rows["AP50 `mask_weared_incorrect`, all folds' photos together"]
    assert rare[2:4] == ["0.670 [0.560, 0.751]", "0.760 [0.600, 0.850]"]
    assert rows["face AP50, 5 folds"][3] == "0.900 ± 0.010 (below)"
    other = rows["`other-photos`: two-class mAP at IoU 0.35"]
    assert other[1] == "YOLO11n learned from the Kaggle set 0.780; AIZOO-360 0.917; YuNet + SeetaFace6 0.858"
    assert other[4] == "0.931 [0.910, 0.950]"
    assert rows["`ilc`, not learned from: three-class mAP at IoU 0.35"][4:6] == ["0.861 [0.800, 0.900]", "- / 0.85"]
    assert rows["`tv-news`, not learned from: two-class mAP at IoU 0.5"][4] == "0.800 [0.700, 0.900] (below)"
    assert rows["Kaggle photos, not learned from: mAP50"][4:6] == ["", ""]
    assert rows["false alarms per photo without faces"][4] == "0.010 [0.000, 0.030]"
    # The worst of three sources: a mean of 0.04 would pass.
    worst = rows["calibration error of `score`, the worst source that was not learned from"]
    assert worst[4] == "0.060 [0.050, 0.070] (above)"
    assert rows["CPU time per photo; the bundle of 2026-11-26: 1"][3] == "1.05 [1.01, 1.12]"
    assert rows["hours of training on two CPU cores"][3] == "2.60 (above)"
    assert all(len(cells) == 7 for cells in rows.values())


@pytest.mark.parametrize("learned", ["yes", "not recorded"])
def test_figures_on_photos_that_were_learned_from_are_not_shown(results: Path, learned: str) -> None:
    file = results / "default/own/evaluation.json"
    record = json.loads(file.read_text())
    record["face_free"]["no-faces"]["learned_from"] = record["sources"]["other-photos"]["learned_from"] = learned
    write(file, record)
    rows = table(results)
    assert rows["false alarms per photo without faces"][4] == ""
    assert bool(rows["`other-photos`: two-class mAP at IoU 0.35"][4]) == (learned == "not recorded")


@pytest.mark.parametrize(("learned", "shown"), [("no", "0.700 [0.600, 0.800]"), ("yes", "")])
def test_a_bundle_has_figures_on_sources_that_it_never_learned_from(results: Path, learned: str, shown: str) -> None:
    summary = {"mAP": interval(0.7, 0.6, 0.8), "calibration_error": interval(0.2, 0.1, 0.3)}
    for source in ("ilc", "face-mask-detection"):
        write(results / f"kaggle/{source}/evaluation.json", scored(source, learned, **summary))
    rows = table(results)
    assert rows["`ilc`, not learned from: three-class mAP at IoU 0.35"][3] == shown
    worst = rows["calibration error of `score`, the worst source that was not learned from"][3]
    assert worst.partition(" ")[0] == ("0.200" if shown else "")
    # Photos of the main dataset are of the same maker as those that were learned from.
    assert rows["Kaggle photos, not learned from: mAP50"][3] == ""


def test_folds_on_unseen_photos_count_before_a_bundles_own_false_alarms(results: Path) -> None:
    folds = {"false alarms per face-free photo": {"whole pipeline": [0.02, 0.01]}}
    write(results / "default/crossval.json", {"mean_and_spread": folds})
    assert table(results)["false alarms per photo without faces"][4] == "0.020 ± 0.010 (above)"


def test_an_evaluation_of_one_dataset_is_read_too(results: Path) -> None:
    own = {
        "name": "ours",
        "settings": {"iou": 0.35},
        "intervals": {"mAP@0.35": interval(0.87, 0.85, 0.9)},
        "each_class": {"mean": {"overall": {"ap_at_iou": 0.87, "ap": 0.4}}},
        "scores": {"faces": {"overall": {"ap_at_iou": 0.9, "recall_at_iou": 0.95}}},
        "reliability": {"found": {"ece": 0.11}},
    }
    record = {"data": "somewhere/other-photos", "photos": 3, "faces": {"with_mask": 4}, "detectors": [own]}
    write(results / "kaggle/evaluation.json", record)
    rows = table(results)
    assert rows["`other-photos`: two-class mAP at IoU 0.35"][3] == "0.870 [0.850, 0.900] (below)"
    assert rows["calibration error of `score`, the worst source that was not learned from"][3] == "0.110"
    other = {**record, "data": "somewhere/strangers", "detectors": [{**own, "name": "yolo"}]}
    write(results / "default/yolo/evaluation.json", other)  # no figure of ours: not in the tables
    assert main(["--results", str(results), "--out", str(results.parent / "figures.md")]) == 0
    assert "strangers" not in str(sources_table(read_column(results / "default")))
    del own["reliability"]
    write(results / "kaggle/evaluation.json", record)
    assert main(["--results", str(results), "--out", str(results.parent / "figures.md")]) == 1


PAGE = """# Page
<!-- figures: headline kaggle -->
typed
<!-- /figures -->
<!-- figures: slices default -->
<!-- /figures -->
<!-- figures: sources kaggle -->
kept
<!-- /figures -->
<!-- figures: cascades kaggle -->
<!-- /figures -->
<!-- figures: photos -->
<!-- /figures -->
end
"""


def test_sections_of_a_page_are_written(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    table(results, "--pages", str(page))
    text = page.read_text()
    assert "typed" not in text and "kept" in text and text.startswith("# Page\n") and text.endswith("\nend\n")
    assert "| Kaggle photos, 5 folds: mAP50 | 0.861 ± 0.020 | `python -m pipeline.crossval" in text
    assert "| AP50 `with_mask`, 5 folds | 0.930 ± 0.010 |  |" in text
    assert "| face AP50 | 0.700 ± 0.100 | 0.900 ± 0.010 |" in text
    assert "| found | ilc (left out) | tv-news (left out) | other-photos |" in text
    # 8 of 10 and 6 of 8; Wilson's intervals as in tables.
    assert "| size: >48 | 0.80 [0.49, 0.94] (10) |" in text and "| size: >48 | 0.75 [0.41, 0.93] (8) |" in text
    assert "jolignier/face-mask-dataset-ilc-2021 @ 1178de4 | 1166 | 1643 / 1311 / 301 | no clear licence" in text
    assert "no results for sources kaggle" in capsys.readouterr().out
    table(results, "--pages", str(page))
    assert page.read_text() == text  # written again, the same


def test_what_a_bundle_learned_from_is_taken_from_its_provenance(results: Path, tmp_path: Path) -> None:
    weights = {"package": "nets 1.0", "licence": "Apache-2.0", "sha256": "00ff"}
    data = {"class_counts": {"train": {"with_mask": 7}}}
    stage1 = {"sources": {"face-mask-detection": {}, "ilc": {"photos": 3, "faces": 5}}}
    provenance = {
        "data": data,
        "stage1": stage1,
        "stage2": {"mean_of": [{"pretrained": weights}, {"pretrained": weights}]},
    }
    write(tmp_path / "models/default/bundle.json", {"provenance": provenance})
    page = tmp_path / "page.md"
    sections = "<!-- figures: bundle {} -->\n<!-- /figures -->\n"
    page.write_text(sections.format("default") + sections.format("kaggle"))
    table(results, "--pages", str(page), "--bundles", str(tmp_path / "models"))
    text = page.read_text()
    assert (
        "- Faces learned from: 7 `with_mask`." in text and "`face-mask-detection`, `ilc` (3 photos, 5 faces)." in text
    )
    assert text.count("- Pretrained weights: package nets 1.0, licence Apache-2.0.") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "kaggle/cv/crossval.json").write_text("{"), "crossval.json: cannot be read"),
        (lambda root: write(root / "kaggle/crossval.json", []), "crossval.json: has the name of"),
        (lambda root: write(root / "kaggle/measured.json", []), "measured.json: is not a JSON object"),
        (lambda root: write(root / "default/left_out_x.json", scored("y")), "left_out_x.json: has no results on x"),
        (lambda root: write(root / "default/evaluation.json", scored("other-photos")), "keep one of them"),
    ],
)
def test_damaged_results_are_one_clear_line(
    results: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(results)
    out = results.parent / "figures.md"
    assert main(["--results", str(results), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- figures: nothing -->\n<!-- /figures -->\n", "section 'nothing' is unknown; use targets"),
        ("<!-- figures: photos -->\n", "end each by a line"),
        ("<!-- figures: photos -->\n<!-- figures: peers -->\n<!-- /figures -->\n", "2 sections start"),
        (None, "cannot be read"),
    ],
)
def test_a_malformed_page_is_left_alone(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str | None, message: str
) -> None:
    file, out = tmp_path / "page.md", tmp_path / "figures.md"
    if page is not None:
        file.write_text(page)
    assert main(["--results", str(results), "--out", str(out), "--pages", str(file)]) == 1
    error = capsys.readouterr().err
    assert message in error and "page.md" in error and error.count("\n") == 1
    assert not out.exists() and (page is None or file.read_text() == page)


@pytest.mark.parametrize("missing", ["nowhere", "."])
def test_results_without_a_bundles_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    assert main(["--results", str(tmp_path / missing), "--out", str(tmp_path / "f.md")]) == 1
    assert "kaggle" in capsys.readouterr().err


def test_figures_of_each_form() -> None:
    assert as_figure([0.5, 0.1]) == Figure(0.5, 0.1)
    assert as_figure({"value": 0.5, "low": 0.4, "high": 0.6}) == Figure(0.5, None, 0.4, 0.6)
    assert as_figure(2) == Figure(2) and as_figure(None) is None and as_figure({"value": None}) is None
    assert Figure(1, None, 1, 1).text() == "1.000"


def test_wilsons_interval() -> None:
    assert wilson(18, 37) == pytest.approx((0.334, 0.641), abs=1e-3)  # as published calculators have it
    assert wilson(0, 0) == (0, 1)
    assert wilson(10, 10) == pytest.approx((0.722, 1), abs=1e-3)


def test_the_reference_file_has_known_rows_alone() -> None:
    reference = read_reference()
    keys = {row.key for row in ROWS}
    used = [*reference["targets"].values(), reference["before"]["figures"], *(p["figures"] for p in reference["peers"])]
    assert all(set(figures) <= keys for figures in used)
    assert set(reference["targets"]) == set(COLUMNS)
    assert {p["kind"] for p in reference["peers"]} == {"published", "measured"}


PAGES = ("MODEL_CARD.md", "README.md")


@pytest.mark.parametrize("page", PAGES)
def test_pages_have_sections_that_can_be_written(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    empty = {name: read_column(tmp_path / name) for name in COLUMNS}
    written, kept = fill_sections(text, page, all_sections(empty, {}, read_reference()))
    assert kept and "<!-- /figures -->" in written


def test_the_pages_show_the_present_results(tmp_path: Path) -> None:
    """docs/results and the bundles have not changed since the pages were written."""
    for page in PAGES:
        shutil.copy(ROOT / page, tmp_path)
    pages = [str(tmp_path / page) for page in PAGES]
    options = ["--results", str(ROOT / "docs/results"), "--bundles", str(ROOT / "pipeline/models")]
    assert main([*options, "--out", str(tmp_path / "figures.md"), "--pages", *pages]) == 0
    for page in (*PAGES, "docs/figures.md"):
        assert (tmp_path / Path(page).name).read_text(encoding="utf-8") == (ROOT / page).read_text(encoding="utf-8")


def test_results_name_no_path_of_the_machine_that_made_them() -> None:
    for file in (ROOT / "docs/results").rglob("*.json"):
        assert '": "/' not in file.read_text(encoding="utf-8"), file
