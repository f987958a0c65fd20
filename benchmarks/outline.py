"""How steady the outline of a cut-out head is in a video, each frame by itself and as `data_prep folder` cuts it out.

    python benchmarks/outline.py clip.mp4 --landmarker=face_landmarker.task [--sheet=sheet.png]

Flicker: the mask of a frame less that of the frame before, moved by optical flow; mean absolute difference in
thousandths of the crop, and the largest of any frame. The sheet shows frames cut out both ways.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep import align, detect
from data_prep.sources import Source
from data_prep.takes import Gates, fit_takes
from nofa_jax import compile_cache
from nofa_jax.cli import exit_code
from nofa_jax.face3d.crop import apply_crop
from nofa_jax.face3d.matte import HeadCutter, Matte, cut_out
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.media.grid import write_png

SIZE = 256
SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--landmarker")
    parser.add_argument("--sheet", metavar="PNG")
    args = parser.parse_args()
    compile_cache.enable()
    source, model = Source(Path(args.video), "clip", "a"), load_morphable_model("procedural")
    take = fit_takes(detect.detect(source, args.landmarker), model, Gates(), True)[0][0]
    row = {int(number): i for i, number in enumerate(take.rows)}
    seen = [
        (picture, align._frame(take.track, row[n]))
        for n, (_, picture, _) in enumerate(detect.frames(source))
        if n in row
    ]
    crops = [apply_crop(picture, one.crop[0], SIZE) for picture, one in seen]
    cutter, sheet = HeadCutter(model, SIZE), []
    ways = {"by itself": lambda *frame: cut_out(*frame, model, SIZE), "in the take": cutter}
    print(f"{len(seen)} frames; flicker in thousandths of the crop")
    for name, cut in ways.items():
        begin = time.process_time()
        mattes: list[Matte] = [cut(*frame) for frame in seen]
        cost = 1000 * (time.process_time() - begin) / len(seen)
        flicker = [_flicker(crops[i - 1 : i + 1], mattes[i - 1].mask, mattes[i].mask) for i in range(1, len(seen))]
        print(f"    each {name}: mean {np.mean(flicker):.2f}, largest {max(flicker):.1f}; {cost:.0f} ms of CPU a frame")
        chosen = np.linspace(0, len(seen) - 1, SHOWN).astype(int)
        sheet.append(np.concatenate([mattes[i].image for i in chosen], axis=1))
    if args.sheet:
        write_png(args.sheet, np.concatenate(sheet))


def _flicker(crops: list[np.ndarray], before: np.ndarray, mask: np.ndarray) -> float:
    old, new = (cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops)
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(new, old, None)
    at = flow + np.stack(np.meshgrid(*[np.arange(SIZE)] * 2), axis=-1)
    moved = cv2.remap(before, at.astype(np.float32), None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    return float(1000 * np.abs(mask - moved).mean())


if __name__ == "__main__":
    sys.exit(exit_code(main))
