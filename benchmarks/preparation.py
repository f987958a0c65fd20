"""What preparing a video costs: milliseconds and bytes a frame, step by step, and what that makes for a whole data set.

    python benchmarks/preparation.py clip.mp4 --landmarker=face_landmarker.task [--size=512] [--tracker=deep3d]

One process. Fitting is measured after a first fit, which compiles it.
"""

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep import align, detect
from data_prep.sources import Source
from data_prep.takes import Gates, fit_takes
from data_prep.tracker import add_tracker_arguments, chosen_tracker
from nofa_jax.cli import exit_code
from nofa_jax.data import coding
from nofa_jax.face3d.deep3d import load_deep3d

EVERY = 6  # frames of a clip, of which one is packed: too far apart for one outline to go on from the other
SETS = {"CelebV-HQ": (35_666, 150, 25), "FFHQ": (70_000, 1, 1)}  # clips, frames of each (6 s assumed), packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--landmarker")
    parser.add_argument("--size", type=int, default=512)
    add_tracker_arguments(parser)
    args = parser.parse_args()

    head, network = chosen_tracker(args)
    source, model = Source(Path(args.video), "clip", "a"), head.load()
    gates = Gates(max_error=math.inf, max_yaw=math.inf, max_pitch=math.inf)  # the cost is that of all frames
    begin = time.perf_counter()
    seen = sum(1 for _ in detect.frames(source))
    milliseconds = {"read": 1000 * (time.perf_counter() - begin) / seen}
    begin = time.perf_counter()
    found = detect.detect(source, args.landmarker)
    milliseconds["detect, reading included"] = 1000 * (time.perf_counter() - begin) / seen
    if network is not None:
        recon = load_deep3d(network)
        for _ in range(2):  # the first compiles
            begin = time.perf_counter()
            coeffs = detect.find_coefficients(source, found.landmarks, recon)
            milliseconds["coefficients, reading included"] = 1000 * (time.perf_counter() - begin) / seen
        found = dataclasses.replace(found, coeffs=coeffs)
    fit_takes(found, model, gates, True)
    begin = time.perf_counter()
    takes, _ = fit_takes(found, model, gates, True)
    milliseconds["track"] = 1000 * (time.perf_counter() - begin) / seen
    for background, every in (*((name, 1) for name in align.BACKGROUNDS), ("keep", EVERY)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.zip"
            thinned = [take.thinned(every) for take in takes]
            begin = time.perf_counter()
            count = align.write_frames(
                path, align.align(source, thinned, model, args.size, background, "jpeg95", "none")
            )
            name = f"align, background {background}" + (f", one frame in {every}" if every > 1 else "")
            milliseconds[name] = 1000 * (time.perf_counter() - begin) / count
            size = path.stat().st_size / count
            pictures = [coding.decode_image(record["image"]) for record in align.read_frames(path)][:16]
        print(f"{size / 1000:.1f} kB a frame with background {background}; its picture in other codings:")
        for coded in coding.CODINGS:
            sizes = [len(coding.encode_image(picture, coded)) for picture in pictures]
            print(f"    {coded}: {np.mean(sizes) / 1000:.1f} kB")
    print(f"{seen} frames; milliseconds a frame:")
    for name, value in milliseconds.items():
        print(f"    {name}: {value:.1f}")
    look = sum(value for name, value in milliseconds.items() if name != "read" and not name.startswith("align"))
    for name, (clips, seen, packed) in SETS.items():
        hours = clips * (seen * look + packed * milliseconds[f"align, background keep, one frame in {EVERY}"]) / 3.6e6
        gigabytes = clips * packed * size / 1e9
        print(f"{name}, {clips:,} x {seen} frames, {packed} packed: {hours:.0f} h of one process, {gigabytes:.0f} GB")


if __name__ == "__main__":
    sys.exit(exit_code(main))
