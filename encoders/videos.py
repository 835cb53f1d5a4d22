"""Bytes of a clip -> frames sampled evenly in time, with their times; memory holds the sampled frames, not the clip.

The container format is forced by the caller and input is bytes in memory, so no playlist, reference or URL inside
a hostile file can make FFmpeg open anything else.
"""

import bisect
import io
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from encoders.images import fit, to_rgb
from encoders.limits import BrokenVideo, DecodeLimits, DecodeTimeout, NoFrames, TooManyBytes

if TYPE_CHECKING:
    from encoders.base import PixelSpec

VideoKind = Literal["mov", "matroska", "avi", "ogg", "flv", "asf", "mpeg", "mpegts", "gif"]
"""Names of FFmpeg demuxers; "mov" reads MP4, "matroska" reads WebM."""


class Clip(NamedTuple):
    """Sampled frames.

    Attributes:
      pixels: uint8 (F, H, W, 3), RGB.
      width, height: of the upright original, in pixels.
      duration_s: from the first frame's beginning to the last one's end.
      frame_times_s: F times from the beginning of the clip.
    """

    pixels: np.ndarray
    width: int
    height: int
    duration_s: float
    frame_times_s: tuple[float, ...]


def sample_times(duration: float, frames: int) -> list[float]:
    """The middles of `frames` equal parts of a clip, in the unit of `duration`.

    >>> sample_times(8.0, 4)
    [1.0, 3.0, 5.0, 7.0]
    """
    return [(index + 0.5) / frames * duration for index in range(frames)]


def decode_video(data: bytes, kind: VideoKind, spec: "PixelSpec", *, frames: int, limits: DecodeLimits) -> Clip:
    """Frames of a clip, as the model wants them.

    The frame taken for a time is the one shown at it: the last that begins at or before it. Times come from the
    packets of the whole clip, not from its header, so a missing or wrong duration does no harm.

    Args:
      data: a whole file.
      kind: its container, from the first bytes.
      spec: the model's wishes.
      frames: how many; a clip with fewer repeats some.
      limits: of bytes, pixels per frame and seconds.

    Raises:
      TooManyBytes, TooManyPixels, DecodeTimeout: above the limits.
      NoFrames: sound only, or nothing that decodes.
      BrokenVideo: the container cannot be read, or ends early.
    """
    if len(data) > limits.max_video_bytes:
        raise TooManyBytes(f"{len(data):,} bytes; the limit is {limits.max_video_bytes:,} (embed.max_video_bytes)")
    source = _Deadline(data, limits.max_decode_s)
    try:
        timeline = _timeline(source, kind, limits)
        return _sample(source, kind, timeline, spec, frames=frames, limits=limits)
    except (av.FFmpegError, ValueError, OverflowError, UnicodeDecodeError, MemoryError, EOFError) as error:
        source.check()  # an interrupted read looks like a broken file
        raise BrokenVideo(f"a {kind} that cannot be read: {type(error).__name__}: {error}") from error


class _Deadline(io.BytesIO):
    """Bytes that run dry when time is up, so that no loop inside FFmpeg outlives it."""

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """As in BytesIO; nothing after the deadline."""
        return b"" if time.monotonic() > self.end else super().read(size)

    def check(self) -> None:
        """Raises DecodeTimeout when time is up."""
        if time.monotonic() > self.end:
            raise DecodeTimeout(f"not decoded within {self.seconds:g} s (embed.max_decode_s)")


class _Timeline(NamedTuple):
    """When frames are shown, in units of the stream's time base.

    Attributes:
      starts: of all frames, sorted.
      keys: of those where decoding can begin, sorted.
      end: of the last frame.
      seekable: every packet says its time, so that a frame is known by it.
    """

    starts: list[int]
    keys: list[int]
    end: int
    seekable: bool


def _open(source: _Deadline, kind: VideoKind) -> InputContainer:
    source.seek(0)
    return av.open(
        source,
        mode="r",
        format=kind,
        metadata_errors="replace",
        container_options={"protocol_whitelist": "none"},
    )


def _video_stream(container: InputContainer, limits: DecodeLimits) -> VideoStream:
    """The first stream that is a moving picture; cover art is not.

    Raises:
      NoFrames: there is none, or FFmpeg has no decoder for it.
      TooManyPixels: its frames are too large.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            break
    else:
        kinds = ", ".join(sorted({stream.type or "unknown" for stream in container.streams})) or "nothing"
        raise NoFrames(f"no picture in the clip, only {kinds}")
    if stream.codec_context is None:
        raise NoFrames("no decoder for the clip's codec")
    limits.check_pixels(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}  # the size can grow within the stream
    stream.codec_context.thread_count = 1  # workers stand side by side; threads within one fight the others
    return stream


def _timeline(source: _Deadline, kind: VideoKind, limits: DecodeLimits) -> _Timeline:
    """Reads the whole container without decoding it."""
    starts: list[int] = []
    keys: list[int] = []
    end = 0
    seekable = True
    with _open(source, kind) as container:
        stream = _video_stream(container, limits)
        for packet in container.demux(stream):
            source.check()
            if packet.size == 0:  # the last one, which only flushes decoders
                continue
            if packet.is_corrupt:
                raise BrokenVideo(f"a {kind} that ends early, after {len(starts)} frames")
            start = packet.pts if packet.pts is not None else packet.dts
            seekable &= packet.pts is not None
            if start is None:
                start = end
            if packet.is_keyframe:
                keys.append(start)
            if packet.is_discard:  # cut away by an edit list: needed for decoding, never shown
                continue
            starts.append(start)
            end = max(end, start + max(0, packet.duration or 0))
    source.check()
    if not starts:
        raise NoFrames("the clip holds no frame")
    starts.sort()
    keys.sort()
    return _Timeline(starts, keys, end, seekable)


def _sample(
    source: _Deadline, kind: VideoKind, timeline: _Timeline, spec: "PixelSpec", *, frames: int, limits: DecodeLimits
) -> Clip:
    """Decodes the frames shown at the sampled times."""
    first = timeline.starts[0]
    duration = timeline.end - first
    targets = [first + at for at in sample_times(duration, frames)]
    wanted = [timeline.starts[max(0, bisect.bisect_right(timeline.starts, target) - 1)] for target in targets]
    pixels: list[np.ndarray] = []
    times: list[float] = []
    size = (0, 0)
    with _open(source, kind) as container:
        stream = _video_stream(container, limits)
        unit = float(stream.time_base) if stream.time_base else 0.0
        for start, frame in _frames_at(container, stream, timeline, wanted, source):
            limits.check_pixels(frame.width, frame.height)
            upright = _upright(frame)
            size = upright.size
            pixels.append(fit(upright, spec))
            times.append((start - first) * unit)
    return Clip(np.stack(pixels), size[0], size[1], duration * unit, tuple(times))


def _frames_at(
    container: InputContainer, stream: VideoStream, timeline: _Timeline, wanted: Sequence[int], source: _Deadline
) -> Iterator[tuple[int, VideoFrame]]:
    """For each wanted start, in ascending order, the frame shown then; two frames are held at a time.

    Jumps to a key frame where one lies between here and there; where a jump lands too late (a bad index), the
    clip is decoded from its beginning instead.
    """
    decoded = _decoded(container, stream, timeline, source)
    shown: tuple[int, VideoFrame] | None = None
    ahead = next(decoded, None)
    may_jump = timeline.seekable
    for start in wanted:
        key = timeline.keys[max(0, bisect.bisect_right(timeline.keys, start) - 1)] if timeline.keys else start
        if may_jump and ahead is not None and ahead[0] < key <= start:
            decoded, shown, ahead = _jump(container, stream, timeline, key, source)
            if ahead is None or ahead[0] > start:
                may_jump = False
                decoded, shown, ahead = _jump(container, stream, timeline, timeline.starts[0], source)
        while ahead is not None and ahead[0] <= start:
            shown, ahead = ahead, next(decoded, None)
        chosen = shown or ahead
        if chosen is None:
            raise NoFrames("no frame of the clip decodes")
        yield chosen


_Decoded = Iterator[tuple[int, VideoFrame]]


def _jump(
    container: InputContainer, stream: VideoStream, timeline: _Timeline, start: int, source: _Deadline
) -> tuple[_Decoded, None, tuple[int, VideoFrame] | None]:
    container.seek(start, stream=stream)
    decoded = _decoded(container, stream, timeline, source)
    return decoded, None, next(decoded, None)


def _decoded(
    container: InputContainer, stream: VideoStream, timeline: _Timeline, source: _Deadline
) -> Iterator[tuple[int, VideoFrame]]:
    """Frames in the order shown, with their starts; what does not decode is passed over, as players do."""
    count = 0
    for packet in container.demux(stream):
        source.check()
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                known = timeline.starts[min(count, len(timeline.starts) - 1)]  # for containers without times (AVI)
                yield (frame.pts if frame.pts is not None else known), frame
                count += 1


def _upright(frame: VideoFrame) -> Image.Image:
    """The frame in RGB, turned as its display matrix says, transparency on white."""
    has_alpha = any(component.is_alpha for component in frame.format.components)
    image = Image.fromarray(frame.to_ndarray(format="rgba" if has_alpha else "rgb24"))
    turn = _TURNS.get(frame.rotation % 360)
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


# FFmpeg and Pillow both turn counter-clockwise.
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
