"""Every defect of a bundle gives one clear line."""

import re
import shutil
from dataclasses import asdict

import pytest
from PIL import Image

from common.errors import BundleError
from pipeline.detect import command as detect
from pipeline.inference.bundle import DEFAULT, Bundle
from pipeline.inference.bundle_meta import FORMAT_VERSION
from pipeline.inference.predictor import Predictor
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.stock.mtcnn import MtcnnConfig
from tests.helpers.bundle_files import edit_meta, replace_graph
from tests.helpers.training.stock_nets import STOCK_NETS

STOCK = MtcnnConfig(min_face=15)
FINE_TUNED = CascadeConfig(min_face=7.5, intercept=-0.5)
DEFAULT_NETS = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in ("pnet", "rnet", "onet")}


MISSING = "graph is missing; copy the whole bundle directory or pack it again"
DESCRIPTION = "is not a bundle description ({}); pack the bundle again"
DEFECTS = {  # "..." matches a library's words
    "a missing bundle": (
        shutil.rmtree,
        "bundle.json: not found; name a bundle directory (one with bundle.json and four .onnx graphs)",
    ),
    "a missing graph": (lambda b: (b / "rnet.onnx").unlink(), f"rnet.onnx: {MISSING}"),
    "a folder for a graph": (
        lambda b: [(b / "classifier.onnx").unlink(), (b / "classifier.onnx").mkdir()],
        f"classifier.onnx: {MISSING}",
    ),
    "a changed graph": (
        lambda b: (b / "onet.onnx").write_bytes((b / "onet.onnx").read_bytes()[:-1] + b"x"),
        "onet.onnx: does not match the sha256 in bundle.json; copy or pack the bundle again",
    ),
    "a missing hash": (
        lambda b: edit_meta(b, sha256={}),
        "pnet.onnx: does not match the sha256 in bundle.json; copy or pack the bundle again",
    ),
    "not ONNX": (
        lambda b: replace_graph(b, "pnet", b"not a graph"),
        "pnet.onnx: ONNX Runtime cannot load it ([ONNXRuntimeError] ...); pack the bundle again",
    ),
    "too few classes": (
        lambda b: edit_meta(b, class_names=["one", "two"]),
        "classifier.onnx: gives 3 classes, bundle.json names 2; pack the bundle again",
    ),
    "too many classes": (
        lambda b: edit_meta(b, class_names=["one", "two", "three", "four"]),
        "classifier.onnx: gives 3 classes, bundle.json names 4; pack the bundle again",
    ),
    "another input size": (
        lambda b: edit_meta(b, input_size=64),
        "classifier.onnx: does not take the 64 pixels of bundle.json ([ONNXRuntimeError] ...); pack the bundle again",
    ),
    "R-Net and O-Net swapped": (
        lambda b: [
            replace_graph(b, *each) for each in (("rnet", DEFAULT_NETS["onet"]), ("onet", DEFAULT_NETS["rnet"]))
        ],
        "rnet.onnx: takes ?x3x48x48 and gives ?, ?x4, ?x5x2, the fine-tuned cascade's takes ?x3x32x32 and "
        "gives ?, ?x4; pack the bundle again",
    ),
    "P-Net for O-Net": (
        lambda b: replace_graph(b, "onet", DEFAULT_NETS["pnet"]),
        "onet.onnx: takes ?x3x?x? and gives ?x?x?, ?x4x?x?, the fine-tuned cascade's takes ?x3x48x48 and "
        "gives ?, ?x4, ?x5x2; pack the bundle again",
    ),
    "the stock search of fine-tuned nets": (
        lambda b: edit_meta(b, search={"cascade": "stock", **asdict(STOCK)}),
        "pnet.onnx: makes 12x12 cells of 48x48 pixels, the stock cascade's 19x19; pack the bundle again",
    ),
    "the fine-tuned search of stock nets": (
        lambda b: [replace_graph(b, *each) for each in STOCK_NETS.items()],
        "pnet.onnx: makes 19x19 cells of 48x48 pixels, the fine-tuned cascade's 12x12; pack the bundle again",
    ),
    "a stock R-Net": (
        lambda b: replace_graph(b, "rnet", STOCK_NETS["rnet"]),
        "rnet.onnx: takes ?x3x24x24 and gives ?, ?x4, the fine-tuned cascade's takes ?x3x32x32 and gives ?, ?x4; "
        "pack the bundle again",
    ),
    "a huge input size": (
        lambda b: edit_meta(b, input_size=1e9),
        "bundle.json: input size 1000000000 is not in 8 to 1024 pixels; pack the bundle again",
    ),
    "an infinite input size": (
        lambda b: edit_meta(b, input_size=float("inf")),
        "bundle.json: cannot convert float infinity to integer; pack the bundle again",
    ),
    "a newer format": (
        lambda b: edit_meta(b, format_version=FORMAT_VERSION + 1),
        "bundle.json: has format 6, this program reads 1 to 5; update the program",
    ),
    "not JSON": (
        lambda b: (b / "bundle.json").write_text("[1, 2"),
        "bundle.json: " + DESCRIPTION.format("Expecting ',' delimiter: ..."),
    ),
    "not UTF-8": (
        lambda b: (b / "bundle.json").write_bytes(b"\xff"),
        "bundle.json: " + DESCRIPTION.format("'utf-8' codec can't decode byte 0xff..."),
    ),
    "deeply nested JSON": (
        lambda b: (b / "bundle.json").write_text("[" * 100_000),
        "bundle.json: " + DESCRIPTION.format("maximum recursion depth exceeded..."),
    ),
    "no format version": (
        lambda b: edit_meta(b, format_version=...),
        "bundle.json: " + DESCRIPTION.format("'format_version'"),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_of_a_bundle_is_one_line(bundle_copy, defect, capsys):
    break_bundle, line = DEFECTS[defect]
    break_bundle(bundle_copy)
    pattern = re.escape(f"{bundle_copy}/{line}").replace(re.escape("..."), ".*")
    with pytest.raises(BundleError) as raised:
        Predictor.load(bundle_copy)
    assert re.fullmatch(pattern, str(raised.value))
    # The same line on the command line.
    assert detect.main([str(bundle_copy.parent), "--bundle", str(bundle_copy)]) == 1
    assert capsys.readouterr().err == f"error: {bundle_copy.parent}: holds no pictures; name a folder that does\n"
    Image.new("RGB", (8, 8)).save(bundle_copy.parent / "a.png")
    assert (
        detect.main(
            [str(bundle_copy.parent / "a.png"), "--bundle", str(bundle_copy), "--out", str(bundle_copy.parent / "out")]
        )
        == 1
    )
    assert re.fullmatch(f"error: {pattern}\n", capsys.readouterr().err)
    assert not (bundle_copy.parent / "out").exists()


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (FORMAT_VERSION + 1, "has format 6, this program reads 1 to 5; update the program"),
        (0, "has format 0, this program reads 1 to 5; pack the bundle again"),
        (-1, "has format -1, this program reads 1 to 5; pack the bundle again"),
        ("2", 'has format "2", this program reads 1 to 5; pack the bundle again'),
        (None, "has format null, this program reads 1 to 5; pack the bundle again"),
        ([3], "has format [3], this program reads 1 to 5; pack the bundle again"),
    ],
)
def test_other_formats(bundle_copy, version, line):
    edit_meta(bundle_copy, format_version=version)
    with pytest.raises(BundleError) as raised:
        Bundle.load(bundle_copy)
    assert str(raised.value) == f"{bundle_copy}/bundle.json: {line}"


NO_ITEMS = "object has no attribute 'items'"


@pytest.mark.parametrize(
    ("change", "what"),  # "..." matches Python's words
    [
        ({"mean": ...}, "the field 'mean' is missing"),
        (
            {"std": [1, 1, 0]},
            "mean (0.5, 0.5, 0.5) and std (1.0, 1.0, 0.0) must be three numbers each, std above 0",
        ),
        ({"std": [1, 1]}, "not enough values to unpack..."),
        ({"class_names": ["a", "a"]}, "class names ('a', 'a') are empty or repeat"),
        ({"input_size": "big"}, "invalid literal for int()..."),
        ({"score_threshold": 2}, f"score threshold 2.0 or margin {Bundle.load().meta.margin} is out of range"),
        ({"search": {"min_face": 20}}, "the field 'factor' is missing"),
        ({"search": {"cascade": "fine-tuned", "min_face": 20}}, "the field 'max_side' is missing"),
        ({"search": {"cascade": "mine"}}, "the cascade 'mine' is unknown; known are fine-tuned, stock"),
        ({"search": {"cascade": []}}, "...unhashable type: 'list'..."),
        ({"search": 3}, "'int' object has no attribute 'get'"),
        ({"search": {"cascade": "stock", **asdict(STOCK), "rnet_threshold": 7}}, "rnet... is 7.0..."),
        (
            {"search": {"cascade": "fine-tuned", **asdict(FINE_TUNED), "slope": -1}},
            "slope -1.0 and intercept -0.5...",
        ),
        (
            {"search": {"cascade": "fine-tuned", **asdict(FINE_TUNED), "max_pnet": "many"}},
            "invalid literal for int()...",
        ),
        (
            {"fusion": {"detector_weight": 0}},
            "ScoreFusion(...): detector_weight and temperature must be above 0, ...",
        ),
        (
            {"fusion": {"box_blend": 2}},
            "ScoreFusion(...): box_blend, min_detector_score and unsure_margin must be in 0..1",
        ),
        ({"fusion": {"temperature": float("nan")}}, "ScoreFusion(...): a value is not a finite number"),
        ({"fusion": {"stage3": 1}}, "'ScoreFusion' object has no attribute 'stage3'"),
        ({"fusion": {"classifier_weight": "much"}}, "could not convert string to float: 'much'"),
        ({"fusion": 3}, f"'int' {NO_ITEMS}"),
        ({"fusion": None}, f"'NoneType' {NO_ITEMS}"),
        ({"sha256": "x"}, f"'str' {NO_ITEMS}"),
    ],
)
def test_malformed_description(bundle_copy, change, what):
    edit_meta(bundle_copy, **change)
    with pytest.raises(BundleError) as raised:
        Bundle.load(bundle_copy)
    line = re.escape(f"{bundle_copy}/bundle.json: {what}; pack the bundle again").replace(re.escape("..."), ".*")
    assert re.fullmatch(line, str(raised.value))
