"""Public data sets as their authors lay them out: from the official metadata to the files that are here.

Nothing is downloaded: licences and dead links are the user's affair. Each layout says what to fetch from where; entries
whose file is not here are counted as missing and the rest is used.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sources import Source
from nofa_jax.errors import UserError

BOX_MARGIN = 0.25  # of a face box's size, added on every side: hair, and room for EG3D's crop


@dataclass(frozen=True)
class Layout:
    """One public data set."""

    needs: str  # what to fetch from where, and under which name it must lie in the folder
    find: Callable[[Path], tuple[list[Source], list[str]]]  # folder -> (sources, names of missing entries)


def celebvhq(folder: Path) -> tuple[list[Source], list[str]]:
    """CelebV-HQ: `celebvhq_info.json`, {"clips": {id: {ytb_id, duration {start_sec, end_sec}, bbox {top, bottom, left,
    right} in [0, 1], …}}}. A clip is ID.mp4, cut already, or a part of YTB_ID.mp4, anywhere below the folder.

    Clips of one video count as one identity; the metadata names no persons.
    """
    clips = _json(folder / "celebvhq_info.json", "celebvhq").get("clips")
    if not isinstance(clips, dict):
        raise UserError(f"{folder / 'celebvhq_info.json'}: no table of clips in it")
    files = _by_stem(folder)
    sources, missing = [], []
    for name, clip in clips.items():
        try:
            video, duration, box = str(clip["ytb_id"]), clip["duration"], clip["bbox"]
            start, end = float(duration["start_sec"]), float(duration["end_sec"])
            edges = tuple(float(box[side]) for side in ("left", "top", "right", "bottom"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'celebvhq_info.json'}: clip {name} is not as published ({error!r})") from error
        if name in files:
            sources.append(Source(files[name], name, video))
        elif video in files:
            sources.append(Source(files[video], name, video, "", start, end, _widened(edges)))
        else:
            missing.append(name)
    return sources, missing


def hdtf(folder: Path) -> tuple[list[Source], list[str]]:
    """HDTF: its `*_annotion_time.txt`, lines "NAME.mp4 mm:ss-mm:ss …". A clip is NAME_INDEX.mp4, cut already, or a part
    of NAME.mp4. Names without their trailing number are the identity. Its boxes (`*_crop_wh.txt`) are not needed: one
    person speaks, and the tracker finds the face.
    """
    tables = sorted(folder.rglob("*_annotion_time.txt"))
    if not tables:
        raise UserError(f"{folder}: no *_annotion_time.txt in it; get {LAYOUTS['hdtf'].needs}")
    files = _by_stem(folder)
    sources, missing = [], []
    for table in tables:
        for number, line in enumerate(table.read_text().splitlines(), 1):
            name, *spans = line.split() or [""]
            stem = name.removesuffix(".mp4")
            for index, span in enumerate(spans):
                entry, person = f"{stem}_{index}", stem.rstrip("0123456789") or stem
                try:
                    start, end = (_seconds(time) for time in span.split("-"))
                except ValueError as error:
                    raise UserError(f"{table}, line {number}: {span!r} is no span of time") from error
                if entry in files:
                    sources.append(Source(files[entry], entry, person))
                elif stem in files:
                    sources.append(Source(files[stem], entry, person, "", start, end))
                else:
                    missing.append(entry)
    return sources, missing


def ffhq(folder: Path) -> tuple[list[Source], list[str]]:
    """FFHQ: `ffhq-dataset-v2.json`, {index: {metadata {license, author, …}, image {file_path, …}}}, and the images at
    their `file_path`. Every image is a person; its licence and author go into the record.
    """
    sources, missing = [], []
    for index, entry in _json(folder / "ffhq-dataset-v2.json", "ffhq").items():
        try:
            name = str(entry["image"]["file_path"])
            about = entry["metadata"]
            licence = f"{about['license']} ({about['author']})"
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{folder / 'ffhq-dataset-v2.json'}: entry {index} is not as published ({error!r})"
            ) from error
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise UserError(f"{folder / 'ffhq-dataset-v2.json'}: entry {index} points outside the folder: {name}")
        if path.is_file():
            sources.append(Source(path, name, name, licence))
        else:
            missing.append(name)
    return sources, missing


CELEBA_TEST = 1_000  # images that the paper tests on


def celebahq(folder: Path) -> tuple[list[Source], list[str]]:
    """CelebA-HQ as CelebAMask-HQ ships it: `CelebA-HQ-img/INDEX.jpg`; the first 1,000 are the paper's test set."""
    wanted = [f"CelebA-HQ-img/{index}.jpg" for index in range(CELEBA_TEST)]
    here = [name for name in wanted if (folder / name).is_file()]
    return [Source(folder / name, name, name) for name in here], sorted(set(wanted) - set(here), key=wanted.index)


def vfhq_test(folder: Path) -> tuple[list[Source], list[str]]:
    """VFHQ-Test: `GT/Interval1_512x512_LANCZOS4/Clip+YOUTUBE_ID+Pp+Cc+Ffirst-last/*.png`, one folder a clip. Video and
    person number are the identity.
    """
    root = folder / "GT" / "Interval1_512x512_LANCZOS4"
    clips = sorted(root.glob("Clip+*")) if root.is_dir() else []
    if not clips:
        raise UserError(f"{root}: no folder Clip+… in it; get {LAYOUTS['vfhq_test'].needs}")
    sources, missing = [], []
    for clip in clips:
        named = VFHQ_CLIP.fullmatch(clip.name)
        if named is None:
            raise UserError(f"{clip}: not named as published (Clip+ID+P0+C0+F0-99)")
        source = Source(clip, clip.name, named[1])
        if source.pictures():
            sources.append(source)
        else:
            missing.append(clip.name)
    return sources, missing


VFHQ_CLIP = re.compile(r"Clip\+(.+\+P\d+)\+C\d+\+F\d+-\d+")


def nerface(folder: Path) -> tuple[list[Source], list[str]]:
    """NeRFace: `PERSON/transforms_{train,val,test}.json`, {"frames": [{"file_path": "./train/f_0000", …}]}, and the
    frames as PNG. Each of the three is a sequence; its own cameras and expressions are not used.
    """
    sources, missing = [], []
    for table in sorted(folder.glob("*/transforms_*.json")):
        try:
            names = [str(frame["file_path"]) for frame in _json(table, "nerface")["frames"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{table}: not as published ({error!r})") from error
        files = [table.parent / f"{name}.png" for name in names]
        gone = [file.relative_to(folder).as_posix() for file in files if not file.is_file()]
        missing += gone
        if len(gone) < len(files):
            here = next(file for file in files if file.is_file()).parent
            sources.append(Source(here, here.relative_to(folder).as_posix(), table.parent.name))
    if not sources and not missing:
        raise UserError(f"{folder}: no PERSON/transforms_train.json in it; get {LAYOUTS['nerface'].needs}")
    return sources, missing


LAYOUTS: dict[str, Layout] = {
    "celebvhq": Layout(
        "celebvhq_info.json from github.com/CelebV-HQ/CelebV-HQ (non-commercial research), and its videos from YouTube",
        celebvhq,
    ),
    "hdtf": Layout(
        "the folder HDTF_dataset of github.com/MRzzm/HDTF, and its videos from YouTube, named as in it",
        hdtf,
    ),
    "ffhq": Layout(
        "ffhq-dataset-v2.json and images1024x1024 from github.com/NVlabs/ffhq-dataset (each image's own licence)", ffhq
    ),
    "celebahq": Layout("CelebA-HQ-img of github.com/switchablenorms/CelebAMask-HQ (non-commercial research)", celebahq),
    "vfhq_test": Layout("VFHQ-Test from liangbinxie.github.io/projects/vfhq", vfhq_test),
    "nerface": Layout(
        "people from the authors of github.com/gafniguy/4D-Facial-Avatars, on request (CC BY-NC-SA 3.0)", nerface
    ),
}


def _json(path: Path, layout: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is not there: get {LAYOUTS[layout].needs}")
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(table, dict):
        raise UserError(f"{path}: not the published table")
    return table


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.rglob("*.mp4"))}


def _widened(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    x, y = BOX_MARGIN * (right - left), BOX_MARGIN * (bottom - top)
    return max(0.0, left - x), max(0.0, top - y), min(1.0, right + x), min(1.0, bottom + y)


def _seconds(time: str) -> float:
    """mm:ss or hh:mm:ss."""
    parts = [float(part) for part in time.split(":")]
    if not 2 <= len(parts) <= 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
        raise ValueError(time)
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))
