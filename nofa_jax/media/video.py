"""Video in: a streaming reader that survives damaged files and keeps exact timestamps.

One frame is held at a time, so memory does not grow with the length. The frames come upright, square-pixelled, as
contiguous sRGB arrays. For writing see video_writer.py.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nofa_jax.errors import UserError
from nofa_jax.progress import log

MAX_FRAME_PIXELS = 36_000_000  # 8K video passes
MIN_SIDE = 32  # pixels; no detector finds a face in less
DEFAULT_RATE = Fraction(25)  # for files that state none, such as a single frame

# FFmpeg would also open playlists, and follow what they name to other files and to the network.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,m4v,h264,hevc"
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself; sizes are those of the upright frames the reader yields."""

    path: Path
    width: int
    height: int
    rate: Fraction  # frames per second, on average
    time_base: Fraction  # seconds; every timestamp is a multiple of it
    frames: int | None  # as the file's index claims; None when it does not say
    duration: float | None  # seconds
    rotation: int  # degrees counter-clockwise that the reader turns the stored frames by: 0, 90, 180 or 270
    audio: bool
    codec: str


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One frame: `time` is its exact timestamp in seconds, on the clock that the file's sound shares."""

    index: int
    time: Fraction
    image: UInt8[np.ndarray, "h w 3"]


class VideoReader:
    """Iterates over the frames of a video file; each iteration starts from the beginning.

    A damaged tail ends the iteration early instead of failing: `lost` then holds the number of frames that are
    missing or unusable (at least one), and a line is logged.

    `start` and `end` (seconds on the file's own clock) choose a part: the reader jumps to the key frame before it, and
    what is lost outside is not looked for.

    Raises:
        UserError (from the constructor, which decodes the first frame): no such file, not a video, cut before its
            index, no video track, no frame that decodes, too large or too small.
    """

    def __init__(self, path: str | Path, start: float = 0.0, end: float = math.inf) -> None:
        self.path = Path(path)
        self.lost = 0
        self._start, self._end = start, end
        self.info = _probe(self.path)

    def __iter__(self) -> Iterator[VideoFrame]:
        lost, count = _Losses(), 0
        part = self._start > 0 or self._end < math.inf
        time = -1 / self.info.rate
        with open_video(self.path) as container:
            stream = container.streams.video[0]
            if self._start > 0:
                container.seek(int(self._start / self.info.time_base), stream=stream)
            for frame in _decode(container, stream, lost, whole=not part):
                time = time + 1 / self.info.rate if frame.pts is None else frame.pts * Fraction(frame.time_base)
                if float(time) >= self._end:
                    break
                if float(time) >= self._start:
                    yield VideoFrame(count, time, _to_rgb(frame, stream, (self.info.height, self.info.width)))
                    count += 1
        self._report(count, lost)

    def _report(self, decoded: int, lost: "_Losses") -> None:
        # Fewer frames than the index claims is no damage by itself: edit lists hide some on purpose.
        damaged = lost.cut or lost.frames > 0
        told = self.lost > 0
        part = self._start > 0 or self._end < math.inf
        missing = 0 if part else (self.info.frames or 0) - decoded
        self.lost = max(missing, lost.frames, 1) if damaged else 0
        if self.lost and not told:
            log(f"{self.path}: the video is damaged: {decoded} frames decoded, {self.lost} lost ({lost.reason})")


@dataclasses.dataclass
class _Losses:
    packets: int = 0  # read from the container
    frames: int = 0  # packets or frames that did not decode
    cut: bool = False  # the container could not be read to its end
    reason: str = ""


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a video")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a plain file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")


def open_video(path: Path) -> Any:
    """An av container; only plain local files reach FFmpeg, whatever their name looks like."""
    import av  # late: takes 60 ms that `--help` need not pay

    try:
        return av.open("file:" + os.fspath(path), options=_OPEN_OPTIONS)
    except (av.FFmpegError, OSError, ValueError) as e:
        raise UserError(f"{path}: not a readable video, or cut before its index ({reason(e)})") from e


def _probe(path: Path) -> VideoInfo:
    _check_file(path)
    with open_video(path) as container:
        if not container.streams.video:
            raise UserError(f"{path}: there is no video track in this file")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UserError(f"{path}: the video is in a coding that this build of FFmpeg does not know")
        _check_size(path, stream.width, stream.height)
        losses = _Losses()
        first = next(_decode(container, stream, losses), None)
        if first is None:
            raise UserError(f"{path}: no frame can be decoded ({losses.reason or 'the video track is empty'})")
        _check_size(path, first.width, first.height)  # the stream may say otherwise than its header
        quarter_turns = _quarter_turns(first)
        width, height = _square_pixels(first, stream)
        if quarter_turns % 2:
            width, height = height, width
        duration = stream.duration * stream.time_base if stream.duration else None
        return VideoInfo(
            path=path,
            width=width,
            height=height,
            rate=Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE),
            time_base=Fraction(stream.time_base),
            frames=stream.frames or None,
            duration=None if duration is None else float(duration),
            rotation=90 * quarter_turns,
            audio=bool(container.streams.audio),
            codec=stream.codec_context.name,
        )


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise UserError(f"{path}: frames of {width}x{height} pixels are too large (limit 36 megapixels)")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: the video is {width}x{height} pixels; a face needs at least {MIN_SIDE} a side")


def _decode(container: Any, stream: Any, losses: _Losses, whole: bool = True) -> Iterator[Any]:
    """Decoded frames in display order. Undecodable packets are counted; an unreadable container ends it. `whole`: from
    the first frame on, so that an early end shows."""
    import av

    stream.thread_type = "SLICE"  # frame threads are faster but swallow errors near the end
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as e:
            losses.cut, losses.reason = True, reason(e)
            return
        if packet is None:
            if whole and losses.packets < stream.frames:
                losses.cut, losses.reason = True, losses.reason or "the file ends before its index says"
            return
        losses.packets += packet.size > 0
        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError) as e:
            losses.frames, losses.reason = losses.frames + 1, reason(e)
            continue
        for frame in frames:
            if frame.is_corrupt:  # parts of the picture were made up by the decoder
                losses.frames, losses.reason = losses.frames + 1, "incomplete picture data"
            else:
                yield frame


def _to_rgb(frame: Any, stream: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Upright contiguous pixels of height and width `size` (a stream may change its size on the way)."""
    turns = _quarter_turns(frame)
    height, width = size if turns % 2 == 0 else size[::-1]
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _quarter_turns(frame: Any) -> int:
    """FFmpeg's display rotation, counter-clockwise as np.rot90's."""
    return round(frame.rotation / 90) % 4


def _square_pixels(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height at which the pixels are square (DVD-like material stores them wide or narrow)."""
    aspect = stream.sample_aspect_ratio
    width = round(frame.width * aspect) if aspect else frame.width
    return (width, frame.height) if 0.25 < width / frame.width < 4 else (frame.width, frame.height)


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
