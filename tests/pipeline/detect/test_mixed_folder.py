"""A folder with photos and videos: both are processed, each with its own outputs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from common.images import NO_END_NOTE
from tests.helpers.cases import CASES, needs_cases
from tests.helpers.fake_predictor import FakePredictor, write_picture
from tests.helpers.video.made_videos import blob_frame, blob_video, walk
from tests.helpers.video.run_detect import read_json, read_rows, run_detect

pytestmark = pytest.mark.usefixtures("fake")


def files(folder: str = "detections") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def frames(name: str) -> int:
    return len(Path(f"detections/{name}.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.fixture
def mixed(fake: FakePredictor) -> Path:
    """Return a folder of two photos and two videos, one of each in a subfolder."""
    for name in ("a.png", "sub/a.png"):
        write_picture(Path("in") / name)
    blob_video(Path("in/v.mp4"), frames=6)
    blob_video(Path("in/sub/v.mp4"), frames=4)
    return Path("in")


@pytest.mark.parametrize("argument", ["in", "in/**"])
def test_photos_and_videos_of_a_folder(mixed: Path, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_detect(argument) == 0
    videos = [f"{folder}v.{end}" for folder in ("", "sub/") for end in ("events.csv", "jsonl", "mp4")]
    assert files() == sorted(["a.png", "detections.json", "sub/a.png", *videos])
    assert [image["file"] for image in read_json()["images"]] == ["in/a.png", "in/sub/a.png"]
    assert (frames("v"), frames("sub/v")) == (6, 4)
    out, err = capsys.readouterr()
    assert err == "" and "in/a.png" in out and "in/v.mp4: 6 frames" in out and "in/sub/v.mp4: 4 frames" in out


def test_photos_and_videos_by_name(mixed: Path) -> None:
    assert run_detect("in/v.mp4", "in/a.png", "--csv", "faces.csv", "--json", "photos.json", "--frame-stride", "2") == 0
    assert len(read_json("photos.json")["images"]) == 1 and len(read_rows("faces.csv")) == 2
    assert frames("v") == 3


def test_results_of_an_earlier_run_are_left_out(mixed: Path) -> None:
    for _ in range(2):
        assert run_detect("in", "--out", "in/out") == 0
    assert len(read_json("in/out/detections.json")["images"]) == 2
    assert len(list(Path("in/out").rglob("*.mp4"))) == 2


def test_a_broken_video_and_a_broken_photo(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.mp4").write_bytes(b"text" * 99)
    Path("in/bad.jpg").write_bytes(b"text" * 99)
    assert run_detect("in") == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in err] == ["in/bad.jpg", "in/bad.mp4"]
    assert len(read_json()["images"]) == 2 and (frames("v"), frames("sub/v")) == (6, 4)


def test_a_folder_of_videos_is_not_its_own_output(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for photo in mixed.rglob("*.png"):
        photo.unlink()
    before = sorted(mixed.rglob("*"))
    assert run_detect("in", "--out", "in") == 1
    assert capsys.readouterr().err == "error: in: is both --out and a folder of pictures; use another --out\n"
    assert sorted(mixed.rglob("*")) == before


def test_a_video_named_twice_is_processed_once(mixed: Path) -> None:
    assert run_detect("in/v.mp4", "./in/v.mp4", str(mixed.absolute() / "v.mp4")) == 0
    assert files() == ["v.events.csv", "v.jsonl", "v.mp4"]


def test_an_output_with_the_name_of_the_video_in_other_letters(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_detect("in/v.mp4", "--json", "in/V.mp4") == 1
    assert capsys.readouterr().err == "error: in/V.mp4: is the video; name another file with --json\n"


def test_a_long_name_does_not_end_the_run(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longest, too_long = "n" * 240, "o" * 251  # with .events.csv 251 and 262 bytes; 255 are allowed
    for name in (longest, too_long):
        (mixed / f"{name}.mp4").write_bytes((mixed / "v.mp4").read_bytes())
    assert run_detect("in", "--no-pictures") == 1
    error = f"error: in/{too_long}.mp4: is too long a name for the outputs; shorten it\n"
    assert capsys.readouterr().err == error
    assert (frames("v"), frames(longest), frames("sub/v")) == (6, 6, 4)


def test_videos_can_be_left_out(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_detect("in", "--skip-videos") == 0
    assert files() == ["a.png", "detections.json", "sub/a.png"]
    assert run_detect("in", "--skip-videos", "--frame-stride", "2") == 1
    assert "--frame-stride is for videos" in capsys.readouterr().err


def test_an_output_never_replaces_a_file_of_a_bundle(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("b").mkdir()
    for name in ("bundle.json", "pnet.onnx"):
        Path("b", name).write_text("as it was")
    for media, flag, name in (("in/a.png", "--json", "bundle.json"), ("in/v.mp4", "--json", "pnet.onnx")):
        assert run_detect(media, flag, f"b/{name}") == 1
        error = f"error: b/{name}: is a file of a bundle, which needs it; name another file with {flag}\n"
        assert capsys.readouterr().err == error and Path("b", name).read_text() == "as it was"
    assert run_detect("in/a.png", "--json", "b/new.json") == 0


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--animations", "--skip-videos"), "--skip-videos leaves them out; remove one of the two"),
        (("--blur", "--no-pictures"), "--no-pictures writes none; remove one of the two"),
    ],
)
def test_flags_that_exclude_each_other(
    flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_detect("in", *flags) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1 and not Path("detections").exists()


def test_only_videos_and_all_left_out(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for photo in mixed.rglob("*.png"):
        photo.unlink()
    assert run_detect("in", "--skip-videos") == 1
    line = "error: there are only videos, and --skip-videos leaves them out; remove it or name photos\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("flag", "name"), [("--json", "v.mp4"), ("--csv", "v.mp4"), ("--submission", "v.mp4"), ("--events", "a.csv")]
)
def test_no_output_replaces_an_input(mixed: Path, flag: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    photo = Path("in/a.csv" if name == "a.csv" else "in/a.png")  # a photo may have any suffix
    Path("in/a.png").rename(photo)
    before = {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}
    assert run_detect("in/v.mp4", str(photo), flag, f"in/{name}") == 1
    assert capsys.readouterr().err.startswith(f"error: in/{name}: is one of the inputs; name another file with {flag}")
    assert before == {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}


def test_without_the_video_extra_the_photos_are_done(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert run_detect("in") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: in/sub/v.mp4 and 1 more: not processed, ") and "pip install '.[video]'" in line
    assert len(read_json()["images"]) == 2 and files() == ["a.png", "detections.json", "sub/a.png"]


def test_a_folder_of_videos_only(mixed: Path) -> None:
    for photo in mixed.rglob("*.png"):
        photo.unlink()
    assert run_detect("in") == 0
    assert not Path("detections/detections.json").exists() and frames("v") == 6


def animate(name: str, count: int = 5) -> None:
    first, *rest = (Image.fromarray(blob_frame(walk(i))) for i in range(count))
    first.save(name, save_all=True, append_images=rest, duration=40, **({"lossless": True} if "webp" in name else {}))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_is_a_photo_with_a_note_or_a_video(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    animate(f"a.{suffix}")
    write_picture(Path("b.png"))
    assert run_detect(f"a.{suffix}", "b.png") == 0
    note = "is an animation; the first of 5 frames was used"
    assert capsys.readouterr().err == f"warning: a.{suffix}: {note}; add --animations for all\n"
    assert [image.get("note") for image in read_json()["images"]] == [note, None]
    flag = "--animations" if suffix == "gif" else "--video"  # the earlier name still works
    assert run_detect(f"a.{suffix}", "b.png", flag) == 0
    assert capsys.readouterr().err == "" and frames("a") == 5
    assert [image["file"] for image in read_json()["images"]] == ["b.png"]
    times = [json.loads(line)["time"] for line in Path("detections/a.jsonl").read_text().splitlines()]
    assert times == [0.0, 0.04, 0.08, 0.12, 0.16]


def test_a_jpeg_without_its_end_has_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(blob_frame(walk(3))).save("a.jpg", quality=95)
    Path("a.jpg").write_bytes(Path("a.jpg").read_bytes()[:-2])
    assert run_detect("a.jpg") == 0
    assert capsys.readouterr().err == f"warning: a.jpg: {NO_END_NOTE}\n"
    (image,) = read_json()["images"]
    assert image["note"] == NO_END_NOTE and len(image["faces"]) == 1


@needs_cases
def test_the_cases() -> None:
    shutil.copytree(CASES / "mixed_folder", "mixed")
    assert run_detect("mixed") == 0
    assert files() == ["detections.json", "face.jpg", "plain.events.csv", "plain.jsonl", "plain.mp4"]
    for name in ("missing_eoi.jpg", "gray10.png"):
        assert run_detect(CASES / "photos" / name) == 0
    for video in sorted((CASES / "mjpeg_concat").iterdir()):
        assert run_detect(video) == 0 and frames(video.stem) == 15
