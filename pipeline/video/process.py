"""Goes through a video or a camera's stream: faces followed, events told, an annotated video written."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import Progress

from common.cli import console, progress
from common.display import as_text, shown
from common.errors import MediaError, UserError
from common.files import growing_text, replaced_text
from common.images import Pixels
from common.parallel import map_ordered
from common.paths import FoundImage, is_address, is_video, location
from pipeline.inference.blur import LEAST_SCORE, blur_faces
from pipeline.inference.detections import Detections
from pipeline.inference.draw import draw
from pipeline.inference.predictor import Predictor
from pipeline.inference.results import image_result
from pipeline.video.camera import READ_TIMEOUT, LiveStream, redact_address
from pipeline.video.events import Event, EventDetector, EventWriter, check_event_file, event_writer
from pipeline.video.reader import Frame, FrameSampler, VideoFile
from pipeline.video.tracker import Track, Tracker, to_detections
from pipeline.video.webhook import Webhook, check_address
from pipeline.video.window import Window
from pipeline.video.writer import VideoWriter, growing_video, video_writer

if TYPE_CHECKING:
    from pipeline.detect.command import DetectArgs

Source = VideoFile | LiveStream


@dataclass(frozen=True)
class Places:
    """Where the results of one video go. video: None where none is wanted."""

    video: Path | None
    lines: Path
    events: Path


@dataclass
class Watched:
    """What came of one video. faces: those that entered, by the label they entered with."""

    frames: int = 0
    seconds: float = 0.0
    faces: Counter[str] = field(default_factory=Counter)
    damage: MediaError | None = None


def watch_all(args: DetectArgs, predictor: Predictor, workers: int) -> int:
    """Goes through every video that `args` name, or the camera; returns the exit code.

    A video that cannot be read is named on standard error, and the others go on.
    """
    screen, failed = console(), 0
    names = _Names(args)
    with Webhook(args.webhook) if args.webhook else nullcontext() as hook:
        for path in [""] if args.camera is not None else args.paths:
            try:
                source = open_source(str(path), args.camera)
                places = names.of(source, str(path))
                watched = watch(source, places, args, predictor, workers, screen, hook)
            except MediaError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            if watched.damage:
                print(f"error: {watched.damage}", file=sys.stderr)
                failed += 1
            _show(screen, source.name, watched, places)
    return 1 if failed else 0


def open_source(path: str, camera: int | None = None) -> Source:
    """A camera, a video file, or what an address has: a whole video, or a stream without an end.

    Raises MediaError when it cannot be opened.
    """
    if camera is not None:
        return LiveStream(camera)
    if not is_address(path):
        return VideoFile(path)
    if path.lower().startswith(("http://", "https://")):
        whole = VideoFile(path, redact_address(path), READ_TIMEOUT)
        # A stream has no length; it goes on by the connection that is there, for many cameras admit one alone.
        return LiveStream(address=path, opened=whole) if whole.seconds is None else whole
    return LiveStream(address=path)


def watch(
    source: Source,
    places: Places,
    args: DetectArgs,
    predictor: Predictor,
    workers: int,
    screen: Console,
    hook: Webhook | None = None,
) -> Watched:
    """Goes through one video and writes what `args` ask for; memory does not grow with its length.

    A file's results take their places when its last frame is done; a live source's are written in place, and Ctrl-C
    or SIGTERM ends it well. Raises MediaError when not one frame can be read.
    """
    live = isinstance(source, LiveStream)
    score = predictor.bundle.meta.score_threshold if args.min_score is None else args.min_score
    tracker, watcher, watched = Tracker(score), EventDetector(source.name), Watched()
    floor = min(tracker.low_threshold, LEAST_SCORE) if args.blur else tracker.low_threshold
    frames = source.frames(FrameSampler(args.frame_stride, args.max_fps), args.seconds)

    def look(frame: Frame) -> tuple[Frame, Detections]:
        return frame, predictor.detect(frame.pixels, floor, args.min_face)

    frame, nothing = None, Detections.empty(predictor.bundle.meta.class_names)
    with ExitStack() as stack:
        stack.enter_context(closing(frames))
        done = stack.enter_context(closing(map_ordered(look, frames, workers)))
        out = _Outputs(stack, places, args, source, hook, screen)
        bar, task = _bar(stack, source, args.seconds)
        try:
            with _signals(live) as held:
                for frame, found in done:
                    with held():
                        tracks, ended = tracker.update(found, frame.time)
                        seen = to_detections(tracks, found)
                        events = watcher.update(frame, tracks, seen, ended, to_detections(ended, found))
                        watched.frames += 1
                        watched.seconds = frame.time
                        watched.faces.update(event.label for event in events if event.event == "entered")
                        out.add(frame, found, tracks, seen, tracker, events)
                    if bar:
                        bar.update(task, completed=frame.time)
                    if out.closed:
                        break
        except KeyboardInterrupt:
            if not live:
                raise
        if isinstance(source, VideoFile) and not out.closed:
            watched.damage = source.damage
        if frame is None:
            raise watched.damage or MediaError(source.name, "gave no frame; check it, or give it more --seconds")
        left = tracker.end()
        out.tell(watcher.finish(frame, left, to_detections(left, nothing)))
        if watched.damage:
            out.note(watched.damage)
    return watched


class _Outputs:
    """Everything that is written of one video; each file is closed by the stack."""

    def __init__(
        self,
        stack: ExitStack,
        places: Places,
        args: DetectArgs,
        source: Source,
        hook: Webhook | None,
        screen: Console,
    ) -> None:
        live = isinstance(source, LiveStream)
        self._args, self._hook, self._screen, self._name = args, hook, screen, source.name
        self._video: VideoWriter | None = None
        if places.video:
            rate = Fraction(source.rate) / args.frame_stride
            if args.max_fps:
                rate = min(rate, Fraction(args.max_fps).limit_denominator(1000))
            self._video = stack.enter_context((growing_video if live else video_writer)(places.video, rate))
        self._lines: TextIO = stack.enter_context((growing_text if live else replaced_text)(places.lines, newline=""))
        self._events: EventWriter = stack.enter_context(event_writer(places.events, live))
        self._window = stack.enter_context(Window(source.name)) if args.show else None

    @property
    def closed(self) -> bool:
        """Whether the user closed the window."""
        return self._window is not None and not self._window.open

    def add(
        self,
        frame: Frame,
        found: Detections,
        tracks: Sequence[Track],
        seen: Detections,
        tracker: Tracker,
        events: Sequence[Event],
    ) -> None:
        """Writes one frame. found: all that was detected in it; seen: what `tracks` are in it."""
        height, width = frame.pixels.shape[:2]
        faces = image_result(FoundImage(self._name, self._name), (width, height), seen).faces
        line = {
            "file": as_text(self._name),
            "frame": frame.index,
            "time": round(frame.time, 3),
            **({"clock": frame.clock.isoformat(timespec="milliseconds")} if frame.clock else {}),
            "width": width,
            "height": height,
            "faces": [{"track": track.track_id, **face} for track, face in zip(tracks, faces, strict=True)],
        }
        self._write(line)
        self.tell(events)
        if self._video or self._window:
            pixels = self._picture(frame, found, tracks, seen, tracker)
            if self._video:
                self._video.add(pixels, frame.time)
            if self._window:
                self._window.show(pixels)

    def tell(self, events: Sequence[Event]) -> None:
        """Writes events, posts them, and shows them."""
        for event in events:
            self._events.add(event)
            if self._hook:
                self._hook.add(event)
            mark = "?" if event.unsure else ""
            line = f"{clock(event.time)}  face {event.track} {event.text}{mark} ({event.score:.2f})"
            self._screen.print(line, markup=False, highlight=False)

    def note(self, error: MediaError) -> None:
        """An error among the lines, for who reads nothing else."""
        self._write({"file": as_text(self._name), "error": error.what})

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._lines.flush()

    def _picture(
        self, frame: Frame, found: Detections, tracks: Sequence[Track], seen: Detections, tracker: Tracker
    ) -> Pixels:
        pixels, blur = frame.pixels, self._args.blur
        if blur:
            for boxes in (found.boxes, tracker.lost_boxes(frame.time)):
                pixels = blur_faces(pixels, boxes)
        if self._args.boxes:
            pixels = draw(pixels, seen, [track.track_id for track in tracks], landmarks=not blur)
        return pixels


class _Names:
    """Names the results of each video after it, never over an input or another video's."""

    def __init__(self, args: DetectArgs) -> None:
        self._args = args
        # An input that is a link is kept whole together with what it points to.
        files = [path for path in args.paths if not is_address(path)]
        self._used = {name.casefold() for path in files for name in (location(path), os.path.realpath(path))}

    def of(self, source: Source, path: str) -> Places:
        """Where the results of a source go. Raises UserError when they cannot be written there."""
        args = self._args
        stem = Path(path).stem if not is_address(path) and isinstance(source, VideoFile) else _stem(source)
        if isinstance(source, LiveStream):  # a camera that is started again must not lose what it saw before
            stem += datetime.now().strftime("-%Y%m%d-%H%M%S")
        base, number = stem, 2
        while not self._free(places := _places(args.out, base, args)):
            base, number = f"{stem}-{number}", number + 1
        self._used |= {location(place).casefold() for place in _files(places)}
        return places

    def _free(self, places: Places) -> bool:
        return not any(location(place).casefold() in self._used for place in _files(places))


def _places(out: Path, base: str, args: DetectArgs) -> Places:
    video = out / f"{base}.mp4" if args.pictures else None
    return Places(video, args.json or out / f"{base}.jsonl", args.events or out / f"{base}.events.csv")


def _files(places: Places) -> Iterator[Path]:
    return (place for place in (places.video, places.lines, places.events) if place is not None)


def _stem(source: Source) -> str:
    """A file name for a camera or an address: its letters, digits and dots, without a video's suffix."""
    name = source.name.split("://")[-1]
    name = name.removesuffix(Path(name).suffix) if isinstance(source, VideoFile) else name
    kept = "".join(c if c.isalnum() or c in ".-" else "-" for c in name)
    return kept.strip("-.")[:80] or "stream"


def check(args: DetectArgs) -> None:
    """Raises UserError on options that do not fit videos or one another."""
    _check_sources(args)
    for flag, path in (("--csv", args.csv), ("--submission", args.submission)):
        if path is not None:
            raise UserError(f"{flag} is for pictures; a video's results are in --json and --events")
    if args.frame_stride < 1:
        raise UserError(f"--frame-stride is {args.frame_stride}; give 1 or more")
    for flag, value in (("--max-fps", args.max_fps), ("--seconds", args.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{flag} is {value:g}; give a number above 0")
    if args.events:
        check_event_file(args.events)
    if args.webhook:
        check_address(args.webhook)
    _check_places(args)


def _check_sources(args: DetectArgs) -> None:
    if args.camera is None:
        for path in args.paths:
            if not is_video(path):
                raise UserError(f"{shown(path)}: is no video, others named are; give pictures and videos apart")
    elif args.paths:
        raise UserError("--camera and names of files are given; give one or the other")
    elif args.camera < 0:
        raise UserError(f"--camera is {args.camera}; give a camera's number, 0 for the first")


def _check_places(args: DetectArgs) -> None:
    named = {flag: path for flag, path in (("--json", args.json), ("--events", args.events)) if path is not None}
    for flag, path in named.items():
        if len(args.paths) > 1:
            raise UserError(f"{shown(path)}: {flag} names one file for several videos; leave it out")
        if path.exists() and not path.is_file():
            raise UserError(f"{shown(path)}: is a folder or device; name a file with {flag}")
        if any(os.path.realpath(path) == os.path.realpath(given) for given in args.paths):
            raise UserError(f"{shown(path)}: is the video; name another file with {flag}")
    if len(named) == 2 and location(named["--json"]) == location(named["--events"]):
        raise UserError(f"{shown(named['--json'])}: is named by both --json and --events; give each its own file")


@contextmanager
def _signals(live: bool) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Ctrl-C and SIGTERM end a live source between two frames: what is written of each agrees.

    Gives what holds a signal back while a frame is written; KeyboardInterrupt comes after it.
    """
    busy = asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        if not busy:
            raise KeyboardInterrupt
        asked = True

    @contextmanager
    def held() -> Iterator[None]:
        nonlocal busy
        busy = True
        try:
            yield
        finally:
            busy = False
        if asked:
            raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    try:
        numbers = (signal.SIGINT, signal.SIGTERM) if live else ()
        for number in numbers:
            with suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, stop)
        yield held
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _bar(stack: ExitStack, source: Source, seconds: float | None) -> tuple[Progress | None, Any]:
    """A progress bar over a file's seconds, on a terminal."""
    if isinstance(source, LiveStream) or source.seconds is None:
        return None, None
    bar = stack.enter_context(progress())
    return bar, bar.add_task("watching", total=min(source.seconds, seconds or source.seconds))


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.s."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:04.1f}"


def _show(screen: Console, name: str, watched: Watched, places: Places) -> None:
    screen.print(f"{shown(name)}: {watched.frames} frames, {clock(watched.seconds)}", markup=False, highlight=False)
    faces = ", ".join(f"{count} {label}" for label, count in watched.faces.most_common())
    screen.print(f"{watched.faces.total()} faces entered{': ' + faces if faces else ''}", markup=False, highlight=False)
    for flag, path in {"video": places.video, "json": places.lines, "events": places.events}.items():
        if path is not None:
            screen.print(f"{flag + ':':<12}{shown(path)}", markup=False, highlight=False)
