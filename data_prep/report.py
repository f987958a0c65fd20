"""report.html of a packed set: counts, why files were not used, pose and expression histograms, a contact sheet."""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.show import contact_sheet, describe_dataset
from data_prep.takes import head_angles
from nofa_jax.data.check import Report
from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.errors import UserError
from nofa_jax.media.grid import write_png

BAR_HEIGHT, BAR_WIDTH = 60, 7  # pixels
SHEET_CLIPS, SHEET_FRAMES = 12, 6
STYLE = (
    "body{font:14px sans-serif;margin:2em}td,th{text-align:left;padding:2px 12px 2px 0}"
    "figure{display:inline-block;margin:8px}"
)
COLUMNS = ("file", "step", "reason")  # of rejected.jsonl
MAX_LICENCES = 5  # shown; FFHQ's name the author, so there are thousands
MAX_READ = 5_000  # records whose labels are read for the histograms


def read_rejected(path: Path) -> list[dict[str, str]]:
    """Rows of a data set's rejected.jsonl: {file, step, reason}; none where it has no such file."""
    file = path / "rejected.jsonl"
    if not file.is_file():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [{name: str(row[name]) for name in COLUMNS} for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, or make the data set again") from error


def write_report(
    path: Path, title: str, rejected: list[dict[str, str]], report: Report, folder: Path | None = None
) -> Path:
    """Writes report.html and a contact sheet for each split into `folder`, by default the data set's directory.

    Raises UserError when it cannot be written.
    """
    folder = folder or path
    dataset = open_dataset(path, cache_bytes=0)
    parts = [
        f"<h1>{html.escape(title)}</h1><pre>{html.escape(describe_dataset(dataset).replace(str(path), title))}</pre>"
    ]
    sizes = "; ".join(
        f"{split}: " + ", ".join(f"{name} {size:,}" for name, size in found["bytes_per_frame"].items())
        for split, found in report.statistics.items()
    )
    parts.append(f"<p>Bytes a frame: {sizes}</p>")
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(row[k])}</td>' for k in COLUMNS)}" for row in rejected)
    parts.append(f"<h2>Not used: {len(rejected)}</h2><table><tr><th>file<th>step<th>reason{rows}</table>")
    for split in dataset.splits:
        sheet = f"sheet_{split}.png"
        write_png(folder / sheet, contact_sheet(dataset, split, SHEET_CLIPS, SHEET_FRAMES))
        licences = html.escape(describe_licences(report.statistics[split]))
        parts.append(
            f'<h2>{html.escape(split)}</h2><p>{licences}<p>{_histograms(dataset, split)}<p><img src="{sheet}">'
        )
    page = folder / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>" + "".join(parts)
    )
    return page


def describe_licences(statistics: dict[str, Any]) -> str:
    """How many frames of a split are under which licence, the most frequent first."""
    licences = statistics["licences"]
    shown = [f"{licence} ({count} frames)" for licence, count in list(licences.items())[:MAX_LICENCES]]
    more = f" and {len(licences) - len(shown)} more" if len(licences) > len(shown) else ""
    return f"licences: {', '.join(shown)}{more}"


def _histograms(dataset: Dataset, split: str) -> str:
    count = dataset.num_frames(split)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_READ)).astype(int))
    records = [dataset.stored(split, int(i)) for i in chosen]
    yaw, pitch = head_angles(np.stack([r["cam2world"] for r in records]))
    beta = np.stack([r["exp_coeff"] for r in records])
    figures = [_histogram("yaw, degrees", yaw, (-90, 90)), _histogram("pitch, degrees", pitch, (-45, 45))]
    names = dataset.metadata.get("exp_names", [])
    busiest = np.argsort(-beta.std(axis=0))[:8]
    limits = (0, 1) if beta.min(initial=0) >= 0 else (-3, 3)  # weights of shapes, or standardised coefficients
    figures += [_histogram(names[k] if names else str(k), beta[:, k], limits) for k in sorted(busiest)]
    return "".join(figures)


def _histogram(title: str, values: np.ndarray, limits: tuple[float, float], bins: int = 18) -> str:
    """An inline picture: no library, no second file."""
    counts, _ = np.histogram(np.clip(values, *limits), bins, limits)
    heights = counts / max(1, counts.max()) * BAR_HEIGHT
    bars = "".join(
        f'<rect x="{k * BAR_WIDTH}" y="{BAR_HEIGHT - h:.1f}" width="{BAR_WIDTH - 1}" height="{h:.1f}"/>'
        for k, h in enumerate(heights)
    )
    picture: Any = f'<svg width="{bins * BAR_WIDTH}" height="{BAR_HEIGHT}" fill="#457">{bars}</svg>'
    return f"<figure>{picture}<figcaption>{html.escape(title)}<br>{limits[0]:g} … {limits[1]:g}</figcaption></figure>"
