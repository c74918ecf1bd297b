"""Bundles: a written bundle is read back, also from earlier formats."""

import json
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import BundleError, UserError
from pipeline.inference.bundle import DEFAULT, GRAPHS, MODELS, Bundle, bundle_folder, bundle_names, write_bundle
from pipeline.inference.bundle_meta import FORMAT_VERSION, READABLE_VERSIONS, BundleMeta
from pipeline.inference.fusion import ScoreFusion
from pipeline.training.packing.command import PackArgs
from stage1_faces.cascade_config import CascadeConfig
from stage1_faces.detector import FaceDetector
from stage1_faces.stock.mtcnn import MtcnnConfig, MtcnnDetector
from tests.helpers.bundle_files import edit_meta
from tests.helpers.training.stock_nets import STOCK_NETS

STOCK = MtcnnConfig(min_face=15, factor=0.5, pnet_threshold=0.55, rnet_threshold=0.25)
FINE_TUNED = CascadeConfig(min_face=7.5, max_side=900, max_pnet=33, slope=1.25, intercept=-0.5)


FUSION = ScoreFusion(
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


LIMITS = {"kaggle": 6_000_000, "default": 6_000_000}  # bytes of each bundle of the project
TOGETHER = 25_000_000


def test_the_bundles_of_the_project_are_small():
    sizes = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in MODELS.iterdir()}
    assert set(sizes) <= set(LIMITS) and "default" in sizes
    assert set(bundle_names()) == set(sizes)
    assert all(size <= LIMITS[name] for name, size in sizes.items())
    assert sum(sizes.values()) <= TOGETHER


def test_a_bundle_of_the_project_is_named(tmp_path, monkeypatch, bundle_copy):
    assert Bundle.load("default").path == Bundle.load(Path("default")).path == DEFAULT
    # A folder of that name is meant only where it holds a bundle.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert bundle_folder("default") == DEFAULT
    shutil.copytree(bundle_copy, tmp_path / "default", dirs_exist_ok=True)
    assert bundle_folder("default") == Path("default")
    with pytest.raises(BundleError, match=r"nobody/bundle.json: not found; name a bundle .*of the project: .*default"):
        Bundle.load("nobody")
    with pytest.raises(BundleError, match=r"models/default/bundle.json: not found; name a bundle directory"):
        Bundle.load("models/default")


def test_default_bundle_loads():
    bundle = Bundle.load()
    assert bundle.meta.class_names == ("with_mask", "without_mask", "mask_weared_incorrect")
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
        fusion=FUSION,
        metrics={"val": {"f1": 0.5}},
        provenance={"note": "x"},
    )
    written = write_bundle(tmp_path / "made", meta, graphs)
    assert Bundle.load(tmp_path / "made").meta == written.meta
    assert {**vars(written.meta), "sha256": {}} == vars(meta)
    # Counts stay whole numbers.
    read = written.meta.search
    assert all(
        type(getattr(read, f.name)) is type(getattr(search, f.name))
        for f in fields(search)
        if f.name in ("max_pnet", "max_rnet", "max_onet2")
    )
    assert written.meta.fusion.flip_tta is True and written.describe()["fusion"] == asdict(FUSION)
    assert set(written.meta.sha256) == set(GRAPHS)
    # A bundle replaces itself and leaves no other file.
    write_bundle(tmp_path / "made", meta, graphs)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    ("search", "name", "kind"), [(STOCK, "stock", MtcnnDetector), (FINE_TUNED, "fine-tuned", FaceDetector)]
)
def test_the_type_of_search_determines_the_cascade(search, name, kind):
    default = Bundle.load()
    graphs = {graph: default.graph_bytes(graph) for graph in GRAPHS} | (STOCK_NETS if search is STOCK else {})
    bundle = Bundle(Path("made"), replace(default.meta, search=search), graphs)
    assert bundle.meta.cascade == name
    assert bundle.describe()["search"] == {"cascade": name, **asdict(search)}
    assert bundle.meta.thresholds == {
        "pnet": search.pnet_threshold, "rnet": search.rnet_threshold, "score": default.meta.score_threshold,
    }  # fmt: skip
    detector = bundle.detector()
    assert type(detector) is kind and detector.config == search


# Fields that format 3 recorded under another name.
OLD_SEARCH = {
    "pnet_threshold": "pnet", "rnet_threshold": "rnet", "onet2_threshold": "again", "score_threshold": "onet",
    "max_pnet": "most_pnet", "max_rnet": "most_rnet", "max_onet2": "most_again",
    "soft_nms_sigma": "soft", "box_voting_iou": "vote",
}  # fmt: skip
OLD_FUSION = {
    "detector_weight": "stage1", "classifier_weight": "stage2", "box_blend": "box_share", "unsure_margin": "unsure",
    "min_detector_score": "floor", "max_face_logit": "most", "flip_tta": "mirrored",
}  # fmt: skip


def with_old_names(settings, old):
    return {old.get(name, name): value for name, value in asdict(settings).items()}


@pytest.mark.parametrize("version", (1, 2, 3))
def test_bundles_without_a_cascade_are_read_as_stock(bundle_copy, version):
    record = {name: float(value) for name, value in with_old_names(STOCK, OLD_SEARCH).items()}
    edit_meta(bundle_copy, format_version=version, search=record, fusion=...)
    bundle = Bundle.load(bundle_copy)
    assert (bundle.meta.search, bundle.meta.cascade) == (STOCK, "stock")
    assert bundle.meta.fusion == ScoreFusion() and bundle.meta.fusion.is_identity
    # Written again, the bundle has the present format.
    graphs = {name: bundle.graph_bytes(name) for name in GRAPHS}
    assert bundle.meta.format_version == FORMAT_VERSION
    assert write_bundle(bundle_copy, bundle.meta, graphs).meta == bundle.meta
    assert json.loads((bundle_copy / "bundle.json").read_text())["search"]["cascade"] == "stock"


def test_formats_1_to_5_are_read():
    assert READABLE_VERSIONS == (1, 2, 3, 4, 5) and FORMAT_VERSION == 5


def test_format_4_has_float32_weights_a_second_look_and_one_pass(bundle_copy):
    search = {"cascade": "fine-tuned", **{k: v for k, v in asdict(FINE_TUNED).items() if k != "second_look"}}
    fusion = {k: v for k, v in asdict(FUSION).items() if k != "box_passes"}
    edit_meta(bundle_copy, format_version=4, search=search, fusion=fusion, weights_dtype=...)
    meta = Bundle.load(bundle_copy).meta
    assert (meta.search, meta.fusion, meta.weights_dtype) == (FINE_TUNED, FUSION, "float32")
    assert meta.search.second_look is True and meta.fusion.box_passes == 1


def test_new_fields_are_read_back_and_checked(bundle_copy):
    meta = Bundle.load(bundle_copy).meta
    search, fusion = replace(FINE_TUNED, second_look=False), replace(FUSION, box_passes=2)
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    write_bundle(bundle_copy, replace(meta, search=search, fusion=fusion, weights_dtype="float16"), graphs)
    read = Bundle.load(bundle_copy).meta
    assert (read.search, read.fusion, read.weights_dtype) == (search, fusion, "float16")
    edit_meta(bundle_copy, weights_dtype="int8")
    with pytest.raises(BundleError, match=r"weights_dtype 'int8' is unknown; known are float16, float32"):
        Bundle.load(bundle_copy)
    edit_meta(bundle_copy, weights_dtype="float16", fusion={"box_passes": 3})
    with pytest.raises(BundleError, match=r"box_passes is 3, must be 1 or 2"):
        Bundle.load(bundle_copy)


def test_format_3_is_read_under_its_old_names(bundle_copy):
    search = {"cascade": "fine-tuned", **with_old_names(FINE_TUNED, OLD_SEARCH)}
    edit_meta(bundle_copy, format_version=3, search=search, judge=with_old_names(FUSION, OLD_FUSION), fusion=...)
    meta = Bundle.load(bundle_copy).meta
    assert (meta.search, meta.fusion, meta.format_version) == (FINE_TUNED, FUSION, FORMAT_VERSION)
    assert type(meta.search.max_pnet) is int


def test_format_2_has_hard_suppression_and_no_score_fusion(bundle_copy):
    record = {"cascade": "fine-tuned", **with_old_names(replace(FINE_TUNED, nms_onet=0.45), OLD_SEARCH)}
    edit_meta(bundle_copy, format_version=2, search={k: v for k, v in record.items() if k != "soft"}, fusion=...)
    meta = Bundle.load(bundle_copy).meta
    assert CascadeConfig().soft_nms_sigma > 0  # the present default
    assert meta.search == replace(FINE_TUNED, nms_onet=0.45, soft_nms_sigma=0.0)
    assert meta.fusion == ScoreFusion() and meta.fusion.is_identity


def test_missing_fusion_fields_have_their_defaults(bundle_copy):
    edit_meta(bundle_copy, fusion={"temperature": 2, "flip_tta": True})
    fusion = Bundle.load(bundle_copy).meta.fusion
    assert fusion == ScoreFusion(temperature=2.0, flip_tta=True) and type(fusion.temperature) is float


def test_graph_bytes_are_the_files():
    assert all(Bundle.load().graph_bytes(name) == (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS)


def test_pack_searches_with_the_settings_of_the_given_cascade(tmp_path):
    assert PackArgs(tmp_path, tmp_path).cascade_config() == MtcnnConfig(
        min_face=12, pnet_threshold=0.6, rnet_threshold=0.3
    )
    assert PackArgs(tmp_path, tmp_path, rnet_threshold=0.4).cascade_config() == MtcnnConfig(
        min_face=12, pnet_threshold=0.6, rnet_threshold=0.4
    )
    assert PackArgs(tmp_path, tmp_path, cascade=tmp_path).cascade_config() == CascadeConfig()
    given = PackArgs(tmp_path, tmp_path, cascade=tmp_path, min_face=9, pnet_threshold=0.05).cascade_config()
    assert given == replace(CascadeConfig(), min_face=9, pnet_threshold=0.05)
    for cascade in (None, tmp_path):
        with pytest.raises(UserError, match="min_face is 0"):
            PackArgs(tmp_path, tmp_path, cascade=cascade, min_face=0).cascade_config()


def test_write_refuses_another_folder_and_a_missing_graph(tmp_path):
    meta = Bundle.load().meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    with pytest.raises(BundleError, match="is not a bundle"):
        write_bundle(tmp_path / "photos", meta, graphs)
    with pytest.raises(BundleError, match="needs the graphs"):
        write_bundle(tmp_path / "new", meta, {k: v for k, v in graphs.items() if k != "rnet"})
    assert not (tmp_path / "new").exists()


def test_a_bundle_that_is_not_replaced_in_the_end_stays(bundle_copy, monkeypatch):
    meta = Bundle.load(bundle_copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    plain = Path.replace

    def interrupted(path, target):
        plain(path, target)
        if path == bundle_copy:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(bundle_copy, replace(meta, score_threshold=0.9), graphs)
    assert Bundle.load(bundle_copy).meta == meta
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name]


def test_other_files_next_to_a_bundle_are_not_lost(bundle_copy):
    meta = Bundle.load(bundle_copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    (bundle_copy / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"holds 'notes.txt' next to a bundle, which would be lost"):
        write_bundle(bundle_copy, meta, graphs)
    assert (bundle_copy / "notes.txt").read_text() == "mine"
    (bundle_copy / "notes.txt").unlink()
    write_bundle(bundle_copy, meta, graphs)


def test_a_report_stays_until_the_bundle_is_replaced(bundle_copy):
    meta = Bundle.load(bundle_copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    write_bundle(bundle_copy, meta, graphs, report="mAP: très bien\n")
    assert (bundle_copy / "report.md").read_text(encoding="utf-8") == "mAP: très bien\n"
    write_bundle(bundle_copy, meta, graphs)  # the report is about the old bundle
    assert not (bundle_copy / "report.md").exists()


def test_a_link_to_a_bundle_stays_a_link(bundle_copy, tmp_path):
    (tmp_path / "link").symlink_to(bundle_copy)
    meta = Bundle.load(bundle_copy).meta
    graphs = {name: (DEFAULT / f"{name}.onnx").read_bytes() for name in GRAPHS}
    write_bundle(tmp_path / "link", replace(meta, score_threshold=0.25), graphs)
    assert (tmp_path / "link").is_symlink()
    assert Bundle.load(bundle_copy).meta.score_threshold == 0.25
    assert {p.name for p in tmp_path.iterdir()} == {"link", bundle_copy.name}
