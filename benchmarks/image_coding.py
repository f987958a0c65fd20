"""What a picture costs on the disk: bytes, loss, and CPU time to write it and to read one at random.

    python benchmarks/image_coding.py                   two seconds of an embedded head at 512²
    python benchmarks/image_coding.py clip.mp4          a video's frames, its middle square scaled to 512²

Files of one picture each (OpenCV) beside chunks of video (H.264, x264's preset medium, through PyAV), in which the
frames before the wanted one are decoded too. One thread. A pair is two frames of one clip at random, within one chunk
where there are chunks. PSNR is of all pixels of all frames together.
"""

import argparse
import functools
import io
import itertools
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep.heads import ClipRenderer, ClipTask, HeadFile
from nofa_jax.cli import exit_code
from nofa_jax.data.coding import decode_image
from nofa_jax.errors import UserError
from nofa_jax.media.video import VideoReader

RATE = 25
FRAMES = 64  # two chunks of 32
ROUNDS = 3  # of timing; the least counts
S444, S420 = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
JPEG, SAMPLING, WEBP = cv2.IMWRITE_JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_WEBP_QUALITY
PICTURES = {  # name: (suffix, OpenCV's options)
    "PNG": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
    "JPEG 95, 4:4:4": (".jpg", [JPEG, 95, SAMPLING, S444]),
    "JPEG 95, 4:2:0": (".jpg", [JPEG, 95, SAMPLING, S420]),
    "JPEG 90, 4:4:4": (".jpg", [JPEG, 90, SAMPLING, S444]),
    "JPEG 80, 4:2:0": (".jpg", [JPEG, 80, SAMPLING, S420]),
    "WebP 95": (".webp", [WEBP, 95]),
    "WebP 90": (".webp", [WEBP, 90]),
    "WebP 80": (".webp", [WEBP, 80]),
    "WebP lossless": (".webp", [WEBP, 101]),
}
CHUNKS = {  # name: (frames, crf, pixel format)
    "H.264 crf 17, 4:4:4, 32 frames": (32, 17, "yuv444p"),
    "H.264 crf 17, 4:2:0, 32 frames": (32, 17, "yuv420p"),
    "H.264 crf 23, 4:2:0, 32 frames": (32, 23, "yuv420p"),
    "H.264 crf 17, 4:2:0, 8 frames": (8, 17, "yuv420p"),
    "H.264 crf 17, 4:2:0, 1 frame": (1, 17, "yuv420p"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?")
    parser.add_argument("--size", type=int, default=512)
    args = parser.parse_args()

    cv2.setNumThreads(1)
    frames = video_frames(args.video, args.size) if args.video else embedded_frames(args.size)
    print(f"{len(frames)} frames of {args.size}²")
    print("| coding | kB a frame | PSNR | write | read one | read a pair |\n|---|---|---|---|---|---|")
    for name, (suffix, options) in PICTURES.items():
        report(name, frames, 1, functools.partial(write_picture, suffix, options), read_picture)
    for name, (length, crf, pixels) in CHUNKS.items():
        report(name, frames, length, functools.partial(write_chunk, crf, pixels), read_chunk)


def report(
    name: str,
    frames: np.ndarray,
    length: int,
    write: Callable[[np.ndarray], bytes],
    read: Callable[[bytes, Collection[int]], list[np.ndarray]],
) -> None:
    """One row: `write` makes a file of `length` frames, `read` gives those of its frames whose numbers are wanted."""
    begin = time.process_time()
    files = [write(chunk) for chunk in np.split(frames, len(frames) // length)]
    writing = (time.process_time() - begin) / len(frames)
    back = np.stack([image for file in files for image in read(file, range(length))])
    error = np.mean((back.astype(np.float64) - frames) ** 2)
    psnr = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "exact"

    def seconds(wanted: Collection[int]) -> float:
        return _least(lambda: [read(file, wanted) for file in files]) / len(files)

    alone = np.mean([seconds({k}) for k in range(length)])
    # Of two frames at random, number k is the later one in k of all cases.
    later = range(1, length)
    both = np.average([seconds({0, k}) for k in later], weights=later) if later else 2 * alone
    size = sum(map(len, files)) / len(frames) / 1000
    times = " | ".join(f"{1000 * value:.1f} ms" for value in (writing, alone, both))
    print(f"| {name} | {size:.1f} | {psnr} | {times} |", flush=True)


def _least(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def write_picture(suffix: str, options: list[int], frames: np.ndarray) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(frames[0, ..., ::-1]), options)[1].tobytes()


def read_picture(data: bytes, wanted: Collection[int]) -> list[np.ndarray]:
    return [decode_image(data)]


def write_chunk(crf: int, pixels: str, frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": str(crf), "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def read_chunk(data: bytes, wanted: Collection[int]) -> list[np.ndarray]:
    """Decodes to the last wanted frame, and turns those that are wanted into RGB."""
    found = []
    with av.open(io.BytesIO(data)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        last = max(wanted)
        for k, frame in enumerate(itertools.islice(container.decode(video=0), last + 1)):
            if k in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
    return found


def embedded_frames(size: int) -> np.ndarray:
    """uint8 [FRAMES,size,size,3]: neighbours in time."""
    render = ClipRenderer(HeadFile("procedural", None), size, FRAMES, FRAMES / RATE, 0, "grey", "png")
    return np.stack([decode_image(record["image"]) for record in render(ClipTask(0, 0))])


def video_frames(path: str, size: int) -> np.ndarray:
    """Its first frames, the middle square of each."""
    frames = []
    for frame in itertools.islice(VideoReader(path), FRAMES):
        h, w = frame.image.shape[:2]
        side = min(h, w)
        square = frame.image[(h - side) // 2 :, (w - side) // 2 :][:side, :side]
        frames.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
    if len(frames) < FRAMES:
        raise UserError(f"{path} has {len(frames)} frames, {FRAMES} are needed")
    return np.stack(frames)


if __name__ == "__main__":
    sys.exit(exit_code(main))
