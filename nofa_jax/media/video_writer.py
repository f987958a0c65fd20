"""Video out: H.264 in MP4, streaming, with the driver's timing and sound, and all or nothing.

The file is written under a temporary name in the same folder and renamed at the end, so nothing half-written ever
carries the final name, and on an error nothing is left at all.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from nofa_jax.errors import UserError
from nofa_jax.media.video import VideoInfo, open_video, reason
from nofa_jax.progress import log

COPIED_AUDIO = ("aac", "mp3", "opus", "ac3", "eac3", "alac", "flac")  # what MP4 can carry as it is
AUDIO_TAIL = Fraction(1, 4)  # seconds of sound that may outlast the last frame
QUALITY = 17  # x264's crf: visually close to lossless


class VideoWriter:
    """Writes frames one by one; use as a context manager, which finishes the file or, on an error, removes it.

    Odd heights and widths get their last row or column repeated (yuv420p needs even sizes). Frames keep the times
    they are given, to the driver's time base; without times they follow each other at `rate`.

    Args:
        path: final name, ending in .mp4; an existing file is replaced, only at the end.
        rate: frames per second.
        driver: file whose time base is used and whose sound packets are copied, up to the last frame's end. Sound in
            a coding that MP4 cannot carry is left out, with a logged line.

    Raises:
        UserError: the name does not end in .mp4, the folder is missing or not writable, the file is the driver
            itself, or writing fails (disk full).
    """

    def __init__(self, path: str | Path, rate: Fraction, driver: VideoInfo | None = None) -> None:
        self.path = Path(path)
        check_target(self.path, driver)
        self._rate = Fraction(rate)
        self._driver = driver
        self._time_base = driver.time_base if driver is not None else _fine_time_base(self._rate)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container: Any = None
        self._video: Any = None
        self._sound: _Sound | None = None
        self._ticks = -1  # timestamp of the last frame, in time bases
        self._size = (0, 0)
        self.frames = 0

    def write(self, image: UInt8[np.ndarray, "h w 3"], time: Fraction | None = None) -> None:
        """Adds an RGB frame at `time` seconds; a time not after the last frame's is moved to just after it."""
        import av

        if self._container is None:
            self._start(image.shape[0], image.shape[1])
        if image.shape[:2] != self._size:
            raise ValueError(f"frame of {image.shape[:2]} in a video of {self._size}")
        ticks = round(Fraction(time if time is not None else self.frames / self._rate) / self._time_base)
        self._ticks = ticks if self.frames == 0 else max(ticks, self._ticks + 1)
        frame = av.VideoFrame.from_ndarray(_even(image), format="rgb24")
        frame.pts, frame.time_base = self._ticks, self._time_base
        self.frames += 1
        try:
            self._container.mux(self._video.encode(frame))
            if self._sound is not None:
                self._sound.copy_until(self._ticks * self._time_base)
        except (av.FFmpegError, OSError) as e:
            raise UserError(f"{self.path}: cannot be written ({reason(e)})") from e

    def close(self) -> None:
        """Finishes the file and gives it its name. Without any frame nothing is written."""
        import av

        if self._container is None:
            return
        try:
            self._container.mux(self._video.encode(None))
            if self._sound is not None:
                self._sound.copy_until(self._ticks * self._time_base + 1 / self._rate + AUDIO_TAIL)
                self._sound.close()
            self._container.close()
            self._container = None
            os.replace(self._part, self.path)
        except (av.FFmpegError, OSError) as e:
            raise UserError(f"{self.path}: cannot be written ({reason(e)})") from e
        finally:
            self.abort()

    def abort(self) -> None:
        """Gives up: closes and removes what was written so far. Harmless after `close`."""
        import av

        container, self._container = self._container, None
        try:
            if self._sound is not None:
                self._sound.close()
            if container is not None:
                container.close()
        except (av.FFmpegError, OSError):
            pass  # the file is removed anyway
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _start(self, height: int, width: int) -> None:
        """Opens the temporary file; all streams must exist before the first packet."""
        import av

        self._size = (height, width)
        try:
            self._container = av.open(os.fspath(self._part), "w", format="mp4", options={"movflags": "+faststart"})
            video = self._container.add_stream("libx264", rate=self._rate)
            video.width, video.height = width + width % 2, height + height % 2
            video.pix_fmt = "yuv420p"
            video.options = {"crf": str(QUALITY), "preset": "medium"}
            video.codec_context.time_base = self._time_base
            video.time_base = self._time_base
            self._video = video
            if self._driver is not None and self._driver.audio:
                self._sound = _Sound.open(self._driver.path, self._container)
            self._container.start_encoding()  # creates the file now, not when the encoder's queue is full
        except (av.FFmpegError, OSError, ValueError) as e:
            self.abort()
            raise UserError(f"{self.path}: cannot be written ({reason(e)})") from e


class _Sound:
    """Copies the packets of the first sound track of a file into a container, in step with the picture."""

    def __init__(self, source: Any, target: Any) -> None:
        self._source, self._target = source, target
        self._stream = target.add_stream_from_template(source.streams.audio[0])
        self._packets: Iterator[Any] = source.demux(source.streams.audio[0])
        self._next: Any = None

    @classmethod
    def open(cls, path: Path, target: Any) -> "_Sound | None":
        source = open_video(path)
        context = source.streams.audio[0].codec_context
        codec = "unknown" if context is None else context.name
        if codec in COPIED_AUDIO:
            return cls(source, target)
        source.close()
        log(f"{path}: its sound ({codec}) does not fit into an MP4 file and is left out")
        return None

    def copy_until(self, time: Fraction) -> None:
        """Muxes the packets that start before `time`; a damaged rest is dropped."""
        import av

        while True:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except (av.FFmpegError, OSError):
                    return
            packet = self._next
            if packet is None or (packet.pts is not None and packet.pts * packet.time_base >= time):
                return
            self._next = None
            if packet.dts is not None and packet.size:  # without a timestamp: the flush packet at the end
                packet.stream = self._stream
                self._target.mux(packet)

    def close(self) -> None:
        self._source.close()


def check_target(path: Path, driver: VideoInfo | None = None) -> None:
    """Raises UserError when a video cannot be written to `path`, which need not exist."""
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path}: the output is an MP4 file, give it a name ending in .mp4")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: the folder {folder} is not writable")
    if path.is_dir():
        raise UserError(f"{path}: is a folder")
    if driver is not None and path.exists() and path.samefile(driver.path):
        raise UserError(f"{path}: the output would overwrite the driving video")


def _fine_time_base(rate: Fraction) -> Fraction:
    """About 0.1 ms, and every frame of a constant rate falls on a multiple of it."""
    return Fraction(1, rate.numerator * max(1, 12800 // rate.numerator))


def _even(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Repeats the last row and column where the size is odd."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(image)
