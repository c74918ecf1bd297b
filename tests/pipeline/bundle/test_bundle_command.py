"""The command pipeline.bundle."""

import json
import shutil

import pytest

from pipeline.bundle.command import main
from pipeline.inference.bundle import DEFAULT, Bundle
from tests.helpers.bundle_files import edit_meta


@pytest.fixture
def bundle_copy(tmp_path):
    """Return a copy of the default bundle that a test may break."""
    return shutil.copytree(DEFAULT, tmp_path / "bundle")


@pytest.mark.parametrize("flags", [[], ["--bundle"]])
def test_show_prints_provenance_and_bad_bundle_is_one_line(bundle_copy, capsys, flags):
    edit_meta(bundle_copy, score_threshold=0.125)  # differs from the default bundle
    assert main(["show", *flags, str(bundle_copy)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["score_threshold"] == 0.125
    assert shown["provenance"]["stage1"]["weights"] == "fine-tuned" and shown["provenance"]["stage2"]
    (bundle_copy / "pnet.onnx").unlink()
    assert main(["show", *flags, str(bundle_copy)]) == 1
    assert (
        capsys.readouterr().err
        == f"error: {bundle_copy}/pnet.onnx: graph is missing; copy the whole bundle directory or pack it again\n"
    )


@pytest.mark.parametrize("argv", [["show"], []])
def test_show_prints_the_default_bundle_when_none_is_named(capsys, argv):
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["name"] == DEFAULT.name


def test_show_refuses_two_bundles(bundle_copy, capsys):
    assert main(["show", str(bundle_copy), "--bundle", str(DEFAULT)]) == 1
    assert capsys.readouterr().err == f"error: {bundle_copy}: --bundle names a bundle, too; name one\n"


@pytest.mark.parametrize(
    ("provenance", "shown"), [({}, "not recorded"), ({"commit": None}, "not recorded"), ({"commit": "abc"}, "abc")]
)
def test_show_says_when_the_commit_was_not_recorded(bundle_copy, capsys, provenance, shown):
    edit_meta(bundle_copy, provenance=provenance)
    assert main(["show", str(bundle_copy)]) == 0
    assert json.loads(capsys.readouterr().out)["provenance"] == {"commit": shown}
    assert Bundle.load(bundle_copy).describe()["provenance"] == provenance


@pytest.mark.parametrize(
    ("argv", "line"), [(["list"], "use `python -m pipeline.bundle show [FOLDER]`"), (["pack"], "pipeline.pack")]
)
def test_other_subcommands_are_refused(capsys, argv, line):
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and line in err and err.count("\n") == 1
