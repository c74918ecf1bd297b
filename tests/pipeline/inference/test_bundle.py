"""Bundles: what was written is read back, and every way one can be broken gives one clear line."""

import json
import re
import shutil
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from common.errors import BundleError, UserError
from pipeline.detect import command as detect
from pipeline.inference.bundle import DEFAULT, FORMAT_VERSION, GRAPHS, READABLE, Bundle, BundleMeta, write_bundle
from pipeline.inference.fusion import ScoreFusion
from pipeline.inference.predictor import Predictor
from pipeline.inference.show_bundle import main
from pipeline.training.pack_command import PackArgs
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector

STOCK = MtcnnConfig(min_face=15, factor=0.5, pnet_threshold=0.55, rnet_threshold=0.25)
FINE_TUNED = CascadeConfig(min_face=7.5, max_side=900, max_pnet=33, slope=1.25, intercept=-0.5)


JUDGE = ScoreFusion(
    detector_weight=0.75,
    classifier_weight=0.5,
    intercept=-0.25,
    temperature=1.25,
    box_blend=0.5,
    min_detector_score=0.01,
    max_face_logit=7.5,
    unsure_margin=0.125,
    flip_tta=True,
)


@pytest.fixture
def copy(tmp_path):
    """A copy of the default bundle that a test may break."""
    return shutil.copytree(DEFAULT, tmp_path / "bundle")


def edit(bundle, **changes):
    file = bundle / "bundle.json"
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


def test_default_bundle_loads_and_is_small():
    bundle = Bundle.load()
    assert bundle.meta.class_names == ("with_mask", "without_mask", "mask_weared_incorrect")
    assert sum(file.stat().st_size for file in DEFAULT.iterdir()) < 10_000_000
    size = bundle.meta.input_size
    probs = bundle.graph("classifier")(np.zeros((2, 3, size, size), np.float32))[0]
    assert probs.shape == (2, 3)
    assert probs.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("search", [STOCK, FINE_TUNED], ids=["stock", "fine-tuned"])
def test_written_bundle_reads_back(tmp_path, search):
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    meta = BundleMeta(
        class_names=("a", "b", "c"),
        input_size=64,
        mean=(0.1, 0.2, 0.3),
        std=(1, 2, 3),
        margin=0.25,
        search=search,
        score_threshold=0.4,
        fusion=JUDGE,
        metrics={"val": {"f1": 0.5}},
        provenance={"note": "x"},
    )
    written = write_bundle(tmp_path / "made", meta, graphs)
    assert Bundle.load(tmp_path / "made").meta == written.meta
    assert {**vars(written.meta), "sha256": {}} == vars(meta)
    # Whole numbers stay whole, for counts are used as such.
    read = written.meta.search
    assert all(type(getattr(read, f.name)) is type(getattr(search, f.name)) for f in fields(search) if "most" in f.name)
    assert written.meta.fusion.flip_tta is True and written.describe()["judge"] == asdict(JUDGE)
    assert set(written.meta.sha256) == set(GRAPHS)
    # Again over itself, and nothing is left beside it.
    write_bundle(tmp_path / "made", meta, graphs)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("search", "name", "kind"), [(STOCK, "stock", MtcnnDetector), (FINE_TUNED, "fine-tuned", FaceDetector)]
)
def test_the_search_tells_which_cascade_it_is(search, name, kind):
    default = Bundle.load()
    graphs = {graph: default.graph_bytes(graph) for graph in GRAPHS} | (STOCK_NETS if search is STOCK else {})
    bundle = Bundle(Path("made"), replace(default.meta, search=search), graphs)
    assert bundle.meta.cascade == name
    assert bundle.describe()["search"] == {"cascade": name, **asdict(search)}
    assert bundle.meta.thresholds == {
        "pnet": search.pnet, "rnet": search.rnet, "score": default.meta.score_threshold,
    }  # fmt: skip
    detector = bundle.detector()
    assert type(detector) is kind and detector.config == search


@pytest.mark.parametrize("version", READABLE[:-1])
def test_bundles_of_before_the_fine_tuned_cascade_are_read_as_stock(copy, version):
    record = {name: float(value) for name, value in asdict(STOCK).items()}
    edit(copy, format_version=version, search=record, judge=...)
    bundle = Bundle.load(copy)
    assert (bundle.meta.search, bundle.meta.cascade) == (STOCK, "stock")
    assert bundle.meta.fusion == ScoreFusion() and bundle.meta.fusion.is_identity
    # Written again, they are of today's format.
    graphs = {name: bundle.graph_bytes(name) for name in GRAPHS}
    assert bundle.meta.format_version == FORMAT_VERSION
    assert write_bundle(copy, bundle.meta, graphs).meta == bundle.meta
    assert json.loads((copy / "bundle.json").read_text())["search"]["cascade"] == "stock"


def test_formats_1_to_3_are_read():
    assert READABLE == (1, 2, 3) and FORMAT_VERSION == 3


def test_bundles_of_before_the_judge_are_searched_and_scored_as_then(copy):
    record = {"cascade": "fine-tuned", **asdict(replace(FINE_TUNED, nms_onet=0.45))}
    edit(copy, format_version=2, search={k: v for k, v in record.items() if k != "soft"}, judge=...)
    meta = Bundle.load(copy).meta
    assert CascadeConfig().soft_nms_sigma > 0  # today's; then there was none
    assert meta.search == replace(FINE_TUNED, nms_onet=0.45, soft_nms_sigma=0.0)
    assert meta.fusion == ScoreFusion() and meta.fusion.is_identity


def test_a_judge_of_which_a_part_is_said_has_the_rest_by_default(copy):
    edit(copy, judge={"temperature": 2, "mirrored": True})
    judge = Bundle.load(copy).meta.fusion
    assert judge == ScoreFusion(temperature=2.0, flip_tta=True) and type(judge.temperature) is float


def test_graph_bytes_are_the_files():
    assert all(Bundle.load().graph_bytes(name) == (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS)


def test_pack_searches_by_the_cascade_that_it_is_given(tmp_path):
    assert PackArgs(tmp_path, tmp_path).search() == MtcnnConfig(min_face=12, pnet_threshold=0.6, rnet_threshold=0.3)
    assert PackArgs(tmp_path, tmp_path, rnet_threshold=0.4).search() == MtcnnConfig(
        min_face=12, pnet_threshold=0.6, rnet_threshold=0.4
    )
    assert PackArgs(tmp_path, tmp_path, cascade=tmp_path).search() == CascadeConfig()
    given = PackArgs(tmp_path, tmp_path, cascade=tmp_path, min_face=9, pnet_threshold=0.05).search()
    assert given == replace(CascadeConfig(), min_face=9, pnet_threshold=0.05)
    for cascade in (None, tmp_path):
        with pytest.raises(UserError, match="min_face is 0"):
            PackArgs(tmp_path, tmp_path, cascade=cascade, min_face=0).search()


def test_write_refuses_another_folder_and_a_missing_graph(tmp_path):
    meta = Bundle.load().meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    with pytest.raises(BundleError, match="is no bundle"):
        write_bundle(tmp_path / "photos", meta, graphs)
    with pytest.raises(BundleError, match="needs the graphs"):
        write_bundle(tmp_path / "new", meta, {k: v for k, v in graphs.items() if k != "rnet"})
    assert not (tmp_path / "new").exists()


def test_what_lies_beside_a_bundle_is_not_lost(copy):
    meta = Bundle.load(copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds 'notes.txt' beside a bundle, which would be lost"):
        write_bundle(copy, meta, graphs)
    assert (copy / "notes.txt").read_text() == "mine"
    (copy / "notes.txt").unlink()
    write_bundle(copy, meta, graphs)


def test_a_report_stands_beside_the_graphs_until_the_bundle_is_replaced(copy):
    meta = Bundle.load(copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    write_bundle(copy, meta, graphs, report="mAP: très bien\n")
    assert (copy / "report.md").read_text(encoding="utf-8") == "mAP: très bien\n"
    write_bundle(copy, meta, graphs)  # it is the bundle's own, and another bundle scores otherwise
    assert not (copy / "report.md").exists()


def test_a_link_to_a_bundle_stays_one(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    meta = Bundle.load(copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    write_bundle(tmp_path / "link", replace(meta, score_threshold=0.25), graphs)
    assert (tmp_path / "link").is_symlink()
    assert Bundle.load(copy).meta.score_threshold == 0.25
    assert {p.name for p in tmp_path.iterdir()} == {"link", copy.name}


def swap(bundle, name, data):
    """Puts another graph in a graph's place, with its right sha256."""
    (bundle / f"{name}.onnx").write_bytes(data)
    edit(bundle, sha256={**json.loads((bundle / "bundle.json").read_text())["sha256"], name: sha256(data).hexdigest()})


def stock_net(kernel, points=False):
    """An ONNX graph with the shapes of a stock net, P-Net's for a kernel of 12: one layer, its weights are 0."""
    slides = kernel == 12
    parts = {"probability": (1, [1]), "offsets": (4, []), **({"landmarks": (10, [])} if points else {})}
    window, shapes = ["h", "w"], {"probability": ["n", "y", "x"], "offsets": ["n", 4, "y", "x"]}
    if not slides:
        window, shapes = [kernel, kernel], {"probability": ["n"], "offsets": ["n", 4], "landmarks": ["n", 5, 2]}
    constants = {
        "weights": np.zeros((sum(size for size, _ in parts.values()), 3, kernel, kernel), np.float32),
        "sizes": np.array([size for size, _ in parts.values()]),
        "points": np.array([0, 5, 2]),
        **{f"{name} axes": np.array(axes if slides else [*axes, 2, 3]) for name, (_, axes) in parts.items()},
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "weights"], ["all"], strides=[2, 2]),
        helper.make_node("Split", ["all", "sizes"], [f"{name} part" for name in parts], axis=1),
    ]
    for name, (_, axes) in parts.items():
        kind, how = ("Reshape", "points") if name == "landmarks" else ("Squeeze", f"{name} axes")
        if slides and not axes:
            kind, how = "Identity", ""
        nodes.append(helper.make_node(kind, [f"{name} part", *filter(None, [how])], [name]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, *window])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in parts],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


DEFAULT_NETS = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in ("pnet", "rnet", "onet")}
STOCK_NETS = {"pnet": stock_net(12), "rnet": stock_net(24), "onet": stock_net(48, points=True)}


MISSING = "graph is missing; copy the whole bundle directory or pack it anew"
DESCRIPTION = "is not a bundle description ({}); pack the bundle anew"
ODDITIES = {  # "..." stands for a library's words
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
        "onet.onnx: does not match the sha256 in bundle.json; copy or pack the bundle anew",
    ),
    "a hash left out": (
        lambda b: edit(b, sha256={}),
        "pnet.onnx: does not match the sha256 in bundle.json; copy or pack the bundle anew",
    ),
    "no onnx": (
        lambda b: swap(b, "pnet", b"not a graph"),
        "pnet.onnx: ONNX Runtime cannot load it ([ONNXRuntimeError] ...); pack the bundle anew",
    ),
    "too few classes": (
        lambda b: edit(b, class_names=["one", "two"]),
        "classifier.onnx: gives 3 classes, bundle.json names 2; pack the bundle anew",
    ),
    "too many classes": (
        lambda b: edit(b, class_names=["one", "two", "three", "four"]),
        "classifier.onnx: gives 3 classes, bundle.json names 4; pack the bundle anew",
    ),
    "another input size": (
        lambda b: edit(b, input_size=64),
        "classifier.onnx: does not take the 64 pixels of bundle.json ([ONNXRuntimeError] ...); pack the bundle anew",
    ),
    "R-Net and O-Net swapped": (
        lambda b: [swap(b, *each) for each in (("rnet", DEFAULT_NETS["onet"]), ("onet", DEFAULT_NETS["rnet"]))],
        "rnet.onnx: takes ?x3x48x48 and gives ?, ?x4, ?x5x2, the fine-tuned cascade's takes ?x3x32x32 and "
        "gives ?, ?x4; pack the bundle anew",
    ),
    "P-Net for O-Net": (
        lambda b: swap(b, "onet", DEFAULT_NETS["pnet"]),
        "onet.onnx: takes ?x3x?x? and gives ?x?x?, ?x4x?x?, the fine-tuned cascade's takes ?x3x48x48 and "
        "gives ?, ?x4, ?x5x2; pack the bundle anew",
    ),
    "the stock search of fine-tuned nets": (
        lambda b: edit(b, search={"cascade": "stock", **asdict(STOCK)}),
        "pnet.onnx: makes 12x12 cells of 48x48 pixels, the stock cascade's 19x19; pack the bundle anew",
    ),
    "the fine-tuned search of stock nets": (
        lambda b: [swap(b, *each) for each in STOCK_NETS.items()],
        "pnet.onnx: makes 19x19 cells of 48x48 pixels, the fine-tuned cascade's 12x12; pack the bundle anew",
    ),
    "a stock R-Net": (
        lambda b: swap(b, "rnet", STOCK_NETS["rnet"]),
        "rnet.onnx: takes ?x3x24x24 and gives ?, ?x4, the fine-tuned cascade's takes ?x3x32x32 and gives ?, ?x4; "
        "pack the bundle anew",
    ),
    "a huge input size": (
        lambda b: edit(b, input_size=1e9),
        "bundle.json: input size 1000000000 is none of 8 to 1024 pixels; pack the bundle anew",
    ),
    "no end of an input size": (
        lambda b: edit(b, input_size=float("inf")),
        "bundle.json: cannot convert float infinity to integer; pack the bundle anew",
    ),
    "a newer format": (
        lambda b: edit(b, format_version=FORMAT_VERSION + 1),
        "bundle.json: has format 4, this program reads 1 to 3; update the program",
    ),
    "no json": (
        lambda b: (b / "bundle.json").write_text("[1, 2"),
        "bundle.json: " + DESCRIPTION.format("Expecting ',' delimiter: ..."),
    ),
    "no text": (
        lambda b: (b / "bundle.json").write_bytes(b"\xff"),
        "bundle.json: " + DESCRIPTION.format("'utf-8' codec can't decode byte 0xff..."),
    ),
    "deep json": (
        lambda b: (b / "bundle.json").write_text("[" * 100_000),
        "bundle.json: " + DESCRIPTION.format("maximum recursion depth exceeded..."),
    ),
    "no format": (lambda b: edit(b, format_version=...), "bundle.json: " + DESCRIPTION.format("'format_version'")),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_oddity_of_a_bundle_is_one_line(copy, oddity, capsys):
    make, line = ODDITIES[oddity]
    make(copy)
    pattern = re.escape(f"{copy}/{line}").replace(re.escape("..."), ".*")
    with pytest.raises(BundleError) as raised:
        Predictor.load(copy)
    assert re.fullmatch(pattern, str(raised.value))
    # As a user sees it.
    assert detect.main([str(copy.parent), "--bundle", str(copy)]) == 1
    assert capsys.readouterr().err == f"error: {copy.parent}: holds no pictures; name a folder that does\n"
    Image.new("RGB", (8, 8)).save(copy.parent / "a.png")
    assert detect.main([str(copy.parent / "a.png"), "--bundle", str(copy), "--out", str(copy.parent / "out")]) == 1
    assert re.fullmatch(f"error: {pattern}\n", capsys.readouterr().err)
    assert not (copy.parent / "out").exists()


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (FORMAT_VERSION + 1, "has format 4, this program reads 1 to 3; update the program"),
        (0, "has format 0, this program reads 1 to 3; pack the bundle anew"),
        (-1, "has format -1, this program reads 1 to 3; pack the bundle anew"),
        ("2", 'has format "2", this program reads 1 to 3; pack the bundle anew'),
        (None, "has format null, this program reads 1 to 3; pack the bundle anew"),
        ([3], "has format [3], this program reads 1 to 3; pack the bundle anew"),
    ],
)
def test_other_formats(copy, version, line):
    edit(copy, format_version=version)
    with pytest.raises(BundleError) as raised:
        Bundle.load(copy)
    assert str(raised.value) == f"{copy}/bundle.json: {line}"


JUDGED = (
    "Judge(stage1={}, stage2=0.0, intercept=0.0, temperature={}, box_share={}, floor=0.0, most=50.0, unsure=0.0, "
    "mirrored=False)"
)
NO_ITEMS = "object has no attribute 'items'"


@pytest.mark.parametrize(
    ("change", "what"),  # "..." stands for Python's words
    [
        ({"mean": ...}, "the field 'mean' is missing"),
        (
            {"std": [1, 1, 0]},
            "mean (0.5, 0.5, 0.5) and std (1.0, 1.0, 0.0) must be three numbers each, std above 0",
        ),
        ({"std": [1, 1]}, "not enough values to unpack..."),
        ({"class_names": ["a", "a"]}, "class names ('a', 'a') are empty or repeat"),
        ({"input_size": "big"}, "invalid literal for int()..."),
        ({"score_threshold": 2}, "score threshold 2.0 or margin 0.1 is out of range"),
        ({"search": {"min_face": 20}}, "the field 'factor' is missing"),
        ({"search": {"cascade": "fine-tuned", "min_face": 20}}, "the field 'max_side' is missing"),
        ({"search": {"cascade": "mine"}}, "the cascade 'mine' is none of fine-tuned, stock"),
        ({"search": {"cascade": []}}, "...unhashable type: 'list'..."),
        ({"search": 3}, "'int' object has no attribute 'get'"),
        ({"search": {"cascade": "stock", **asdict(STOCK), "rnet": 7}}, "rnet is 7.0, must lie in 0..1"),
        (
            {"search": {"cascade": "fine-tuned", **asdict(FINE_TUNED), "slope": -1}},
            "slope -1.0 and intercept -0.5 must be numbers, the slope above 0",
        ),
        (
            {"search": {"cascade": "fine-tuned", **asdict(FINE_TUNED), "most_pnet": "many"}},
            "invalid literal for int()...",
        ),
        (
            {"judge": {"stage1": 0}},
            f"{JUDGED.format(0.0, 1.0, 0.0)}: stage1 and temperature must be above 0, stage2 0 or more",
        ),
        ({"judge": {"box_share": 2}}, f"{JUDGED.format(1.0, 1.0, 2.0)}: box_share, floor and unsure must lie in 0..1"),
        ({"judge": {"temperature": float("nan")}}, f"{JUDGED.format(1.0, 'nan', 0.0)}: a value is not a finite number"),
        ({"judge": {"stage3": 1}}, "'Judge' object has no attribute 'stage3'"),
        ({"judge": {"stage2": "much"}}, "could not convert string to float: 'much'"),
        ({"judge": 3}, f"'int' {NO_ITEMS}"),
        ({"judge": None}, f"'NoneType' {NO_ITEMS}"),
        ({"sha256": "x"}, f"'str' {NO_ITEMS}"),
    ],
)
def test_malformed_description(copy, change, what):
    edit(copy, **change)
    with pytest.raises(BundleError) as raised:
        Bundle.load(copy)
    line = re.escape(f"{copy}/bundle.json: {what}; pack the bundle anew").replace(re.escape("..."), ".*")
    assert re.fullmatch(line, str(raised.value))


@pytest.mark.parametrize("flags", [[], ["--bundle"]])
def test_show_prints_provenance_and_bad_bundle_is_one_line(copy, capsys, flags):
    edit(copy, score_threshold=0.125)  # to tell it from the default one
    assert main(["show", *flags, str(copy)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["score_threshold"] == 0.125
    assert shown["provenance"]["stage1"]["weights"] == "fine-tuned" and shown["provenance"]["stage2"]
    (copy / "pnet.onnx").unlink()
    assert main(["show", *flags, str(copy)]) == 1
    assert capsys.readouterr().err == f"error: {copy}/pnet.onnx: {MISSING}\n"


def test_show_prints_the_default_bundle_when_none_is_named(capsys):
    assert main(["show"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == DEFAULT.name


def test_show_takes_one_bundle(copy, capsys):
    assert main(["show", str(copy), "--bundle", str(DEFAULT)]) == 1
    assert capsys.readouterr().err == f"error: {copy}: --bundle names a bundle, too; name one\n"


@pytest.mark.parametrize(
    ("provenance", "said"), [({}, "not recorded"), ({"commit": None}, "not recorded"), ({"commit": "abc"}, "abc")]
)
def test_show_says_when_the_commit_was_not_recorded(copy, capsys, provenance, said):
    edit(copy, provenance=provenance)
    assert main(["show", str(copy)]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == {"commit": said}
    assert Bundle.load(copy).describe()["provenance"] == provenance
