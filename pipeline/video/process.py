"""Processes videos and live streams: follows faces, reports events, writes annotated videos."""

from __future__ import annotations

import errno
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from common.cli import console, progress
from common.display import counted, display_name
from common.errors import MediaError
from common.files import is_of_one_name
from common.memory import OUT_OF_MEMORY, is_out_of_memory
from common.parallel import map_ordered
from pipeline.inference.blur import MIN_BLUR_SCORE
from pipeline.inference.detections import Detections
from pipeline.inference.predictor import Predictor
from pipeline.video.camera import LiveStream, Source, open_source
from pipeline.video.events import Event, EventDetector
from pipeline.video.motion.face_follower import FaceFollower
from pipeline.video.motion.frame_selection import FrameSelector
from pipeline.video.options import VideoConfig
from pipeline.video.output_paths import OutputNamer, OutputPaths
from pipeline.video.outputs import FrameResult, VideoOutputs, clock
from pipeline.video.reader import Frame, FrameSampler
from pipeline.video.signals import StopSignals
from pipeline.video.tracker import Tracker, to_detections
from pipeline.video.webhook import Webhook


@dataclass
class VideoSummary:
    """Counts of one video."""

    frames: int = 0  # frames processed
    seconds: float = 0.0  # time of the last one, from the start of the video
    faces: Counter[str] = field(default_factory=Counter)  # faces that entered, by the label at that time
    damage: MediaError | None = None  # the error of a damaged file


def process_videos(config: VideoConfig, predictor: Predictor) -> int:
    """Process every video that `config` names, or the camera.

    A video that cannot be read, or whose outputs cannot have their names, is reported on standard error; the other
    videos are still processed.

    Args:
        config: checked by `pipeline.video.checks.check_config`.
        predictor: detects the faces of each frame.

    Returns:
        The exit code: 0, or 1 when a video failed or an event could not be sent.
    """
    options, screen, failed = config.options, console(), 0
    namer = OutputNamer(config)
    with Webhook(options.webhook) if options.webhook else nullcontext() as webhook:
        for path in [""] if options.camera is not None else config.paths:
            try:
                source = open_source(str(path), options.camera, options.max_fps, options.rtsp_transport)
                paths = namer.paths_for(source, str(path))
                summary = _try_video(source, paths, config, predictor, webhook)
            except MediaError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            if summary.damage:
                print(f"error: {summary.damage}", file=sys.stderr)
                failed += 1
            _show_summary(screen, source.name, summary, paths)
    lost = webhook.lost if webhook else 0
    return 1 if failed or lost else 0


def _try_video(
    source: Source, paths: OutputPaths, config: VideoConfig, predictor: Predictor, webhook: Webhook | None
) -> VideoSummary:
    """Process one video; raise MediaError for each error after which other videos can still be processed."""
    try:
        return _process_video(source, paths, config, predictor, webhook)
    except OSError as error:
        output = Path(error.filename or "")
        if config.out not in output.parents or not is_of_one_name(error, output):
            raise
        reason = f"{display_name(output)} cannot be written ({error.strerror})"
        fix = "rename the video, or name another folder with --out"
        if error.errno == errno.ENAMETOOLONG:
            reason, fix = "is too long a name for the outputs", "shorten it"
        raise MediaError(source.name, f"{reason}; {fix}") from error
    except Exception as error:
        if isinstance(error, MediaError) or not is_out_of_memory(error):
            raise
        raise MediaError(source.name, OUT_OF_MEMORY) from error


def _process_video(
    source: Source, paths: OutputPaths, config: VideoConfig, predictor: Predictor, webhook: Webhook | None
) -> VideoSummary:
    """Process one video and write its outputs; memory does not grow with its length.

    The files of a video are put in place after its last frame. The files of a live source are written in place, and
    Ctrl-C or SIGTERM ends them well. Raise MediaError when not one frame can be read.
    """
    live = isinstance(source, LiveStream)
    analyzer, signals = FrameAnalyzer(source.name, config, predictor), StopSignals()
    fetched = isinstance(source, LiveStream) and source.fetched  # already at --max-fps
    options = config.options
    # With --follow, the frames between are read as well.
    read, stride = (1, options.frame_stride) if options.follow else (options.frame_stride, 1)
    frames = source.frames(FrameSampler(read, None if fetched else options.max_fps), options.seconds)
    marked = FrameSelector(stride, options.motion).marked(frames)
    with ExitStack() as stack:
        stack.enter_context(closing(frames))
        detected = stack.enter_context(closing(map_ordered(analyzer.detect, marked, config.workers)))
        outputs = VideoOutputs(stack, source, paths, config, webhook)
        show_progress = _progress_bar(stack, source, options.seconds)
        try:
            with signals.installed() if live else nullcontext():
                for frame, detections in detected:
                    with signals.held():
                        outputs.add(analyzer.update(frame, detections))
                    show_progress(frame.time)
                    if outputs.closed:
                        break
        except KeyboardInterrupt:
            if not live:
                raise
        _finish(source, analyzer, outputs)
    return analyzer.summary


class FrameAnalyzer:
    """Detects the faces of one video's frames, follows them, and counts what was found."""

    def __init__(self, name: str, config: VideoConfig, predictor: Predictor) -> None:
        meta = predictor.bundle.meta
        self._predictor, self._min_face = predictor, config.min_face
        self._tracker = Tracker(meta.score_threshold if config.min_score is None else config.min_score)
        low = self._tracker.low_threshold
        self._detection_threshold = min(low, MIN_BLUR_SCORE) if config.blur else low
        self._event_detector = EventDetector(name)
        self._no_detections = Detections.empty(meta.class_names)
        self._follower = FaceFollower() if config.options.follow else None
        self._last_detections = self._no_detections
        self.summary = VideoSummary()
        self.last_frame: Frame | None = None

    def detect(self, frame: Frame) -> tuple[Frame, Detections | None]:
        """Return a frame and its detections, None where the detector does not run; called from several threads."""
        if frame.action != "detect":
            return frame, None
        return frame, self._predictor.detect(frame.pixels, self._detection_threshold, self._min_face)

    def update(self, frame: Frame, detections: Detections | None) -> FrameResult:
        """Add the next frame and return its tracks and events; `detections` are those of `detect`."""
        self.last_frame = frame
        self.summary.frames += 1
        self.summary.seconds = frame.time
        if frame.action == "follow" and self._follower is not None:
            return self._follower.move(frame)
        if detections is not None:
            self._last_detections = detections
        result = self._add(frame, self._last_detections)
        if self._follower is not None:
            self._follower.start(result)
        return result

    def _add(self, frame: Frame, detections: Detections) -> FrameResult:
        """Add a frame's detections to the tracks and return its results."""
        tracks, ended = self._tracker.update(detections, frame.time)
        faces = to_detections(tracks, detections)
        events = self._event_detector.update(frame, tracks, faces, ended, to_detections(ended, detections))
        self.summary.faces.update(event.label for event in events if event.event == "entered")
        return FrameResult(frame, detections, tracks, faces, self._tracker.lost_boxes(frame.time), events)

    def finish(self, last_frame: Frame) -> list[Event]:
        """End all tracks and return the events of the video's end."""
        tracks = self._tracker.end()
        return self._event_detector.finish(last_frame, tracks, to_detections(tracks, self._no_detections))


def _finish(source: Source, analyzer: FrameAnalyzer, outputs: VideoOutputs) -> None:
    """Write the last events and a file's damage; raise MediaError when there was no frame."""
    damage = None if isinstance(source, LiveStream) or outputs.closed else source.damage
    if analyzer.last_frame is None:
        raise damage or MediaError(source.name, "gave no frame; check it, or use more --seconds")
    analyzer.summary.damage = damage
    outputs.add_events(analyzer.finish(analyzer.last_frame))
    if damage:
        outputs.add_error(damage)


def _progress_bar(stack: ExitStack, source: Source, seconds: float | None) -> Callable[[float], None]:
    """Return what shows how many seconds of a file are processed; it does nothing for a stream without an end."""
    if isinstance(source, LiveStream) or source.seconds is None:
        return lambda _: None
    bar = stack.enter_context(progress())
    task = bar.add_task("detecting", total=min(source.seconds, seconds or source.seconds))
    return lambda time: bar.update(task, completed=time)


def _show_summary(screen: Console, name: str, summary: VideoSummary, paths: OutputPaths) -> None:
    faces = ", ".join(f"{count} {label}" for label, count in summary.faces.most_common())
    lines = [
        f"{display_name(name)}: {counted(summary.frames, 'frame')}, {clock(summary.seconds)}",
        f"{counted(summary.faces.total(), 'face')} entered{': ' + faces if faces else ''}",
    ]
    files = {"video": paths.video, "json": paths.lines, "events": paths.events}
    lines += [f"{kind + ':':<12}{display_name(path)}" for kind, path in files.items() if path is not None]
    for line in lines:
        screen.print(line, markup=False, highlight=False)
