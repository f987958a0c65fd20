"""report.html of a packed set: counts, why files were not used, pose and expression histograms, a contact sheet."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.show import contact_sheet, describe_dataset
from data_prep.takes import head_angles
from nofa_jax.data.check import Report
from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.media.grid import write_png

BAR_HEIGHT, BAR_WIDTH = 60, 7  # pixels
SHEET_CLIPS, SHEET_FRAMES = 12, 6
STYLE = (
    "body{font:14px sans-serif;margin:2em}td,th{text-align:left;padding:2px 12px 2px 0}"
    "figure{display:inline-block;margin:8px}"
)
MAX_READ = 5_000  # records whose labels are read for the histograms


def write_report(path: Path, title: str, rejected: list[dict[str, str]], report: Report) -> Path:
    """Writes report.html and a contact sheet for each split into the data set's directory."""
    dataset = open_dataset(path, cache_bytes=0)
    parts = [
        f"<h1>{html.escape(title)}</h1><pre>{html.escape(describe_dataset(dataset).replace(str(path), title))}</pre>"
    ]
    sizes = "; ".join(
        f"{split}: " + ", ".join(f"{name} {size:,}" for name, size in found["bytes_per_frame"].items())
        for split, found in report.statistics.items()
    )
    parts.append(f"<p>Bytes a frame: {sizes}</p>")
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(row[k])}</td>' for k in ('file', 'step', 'reason'))}" for row in rejected
    )
    parts.append(f"<h2>Not used: {len(rejected)}</h2><table><tr><th>file<th>step<th>reason{rows}</table>")
    for split in dataset.splits:
        sheet = f"sheet_{split}.png"
        write_png(path / sheet, contact_sheet(dataset, split, SHEET_CLIPS, SHEET_FRAMES))
        parts.append(f'<h2>{split}</h2>{_histograms(dataset, split)}<p><img src="{sheet}">')
    page = path / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>" + "".join(parts)
    )
    return page


def _histograms(dataset: Dataset, split: str) -> str:
    count = dataset.num_frames(split)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_READ)).astype(int))
    records = [dataset.stored(split, int(i)) for i in chosen]
    yaw, pitch = head_angles(np.stack([r["cam2world"] for r in records]))
    beta = np.stack([r["exp_coeff"] for r in records])
    figures = [_histogram("yaw, degrees", yaw, (-90, 90)), _histogram("pitch, degrees", pitch, (-45, 45))]
    names = dataset.metadata.get("exp_names", [])
    busiest = np.argsort(-beta.std(axis=0))[:8]
    figures += [_histogram(names[k] if names else str(k), beta[:, k], (0, 1)) for k in sorted(busiest)]
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
