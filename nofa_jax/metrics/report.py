"""What an evaluation leaves behind: eval/metrics.json, eval/pairs.jsonl, eval/report.md and the picture grids.

Everything but `write_report` is a pure function of the numbers and pictures.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from nofa_jax.data.records import Dataset
from nofa_jax.metrics.expression import SHAPES_SHOWN, Regressor
from nofa_jax.metrics.image import SSIM_CONVENTION
from nofa_jax.metrics.protocol import Pairs

Results = dict[str, dict[str, Any]]

HEADINGS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "psnr_mouth": "mouth PSNR ↑",
    "aed": "AED ↓",
    "aed_estimated": "AED est. ↓",
    "apd": "APD ↓",
}
DIGITS = {"psnr": 2, "psnr_mouth": 2, "ssim": 3, "aed": 3, "aed_estimated": 3, "apd": 3}
WHAT = {
    "model": "the model: target's expression and camera",
    "source_expression": "driven by the source's own expression",
    "no_deformation": "deformation field off",
    "wrong_source": "another identity's photo",
    "copy_source": "the source photo itself",
    "target": "the target itself (the regressor's floor)",
}


CONVENTIONS = {
    "value_range": "[0, 1], after rounding every picture to 8 bits",
    "crop": "none: whole pictures, background included; mouth PSNR in the mouth box of the target's landmarks",
    "psnr": "10 log10(1 / MSE) over all pixels and channels of a picture, averaged over pictures; null: identical",
    "ssim": SSIM_CONVENTION + "; float64",
    "aed": "mean |regressor(picture) - true exp_coeff of the target| over all channels",
    "aed_estimated": "mean |regressor(picture) - regressor(target picture)|: the paper's, both sides estimated",
    "apd": "mean |regressor(picture) - true head angles of the target| over yaw, pitch, roll, in radian",
    "corr": "Pearson's r over the pairs between the regressor's answer and the target's true exp_coeff, left and right "
    "shapes pooled; null: one of them is constant",
    "coefficients": "exact ones of the data set: id_coeff of the source's identity, exp_coeff and camera of the target",
}


@dataclasses.dataclass(frozen=True)
class Bar:
    """One thing to reach: `value` of the results, at least (or at most) `wanted`."""

    name: str
    value: Callable[[Results], float]
    wanted: float
    at_least: bool = True
    group: str = "quickstart"


def protocol_block(
    pairs: Pairs,
    dataset: Dataset,
    regressor: Regressor,
    *,
    split: str,
    seed: int,
    checkpoint: dict[str, Any],
    finetuning: dict[str, Any],
    run: dict[str, Any],
) -> dict[str, Any]:
    """The `protocol` of metrics.json: everything that a number in `results` depends on.

    checkpoint: {step, params_sha256, …}; run: `train.provenance.describe_run()`.
    """
    named = ("head", "background", "settings")
    return {
        "n": len(pairs),
        "identities": len(np.unique(pairs.identity)),
        "resolution": pairs.target.image.shape[1],
        "pairs": "source and target are different frames of one clip of an identity held out from training",
        "background": dataset.metadata.get("background"),
        **CONVENTIONS,
        "seeds": {"pairs": seed, "finetuning": seed},
        "split": split,
        "dataset": {"fingerprint": dataset.fingerprint}
        | {k: dataset.metadata[k] for k in named if k in dataset.metadata},
        "checkpoint": checkpoint,
        "finetuning": finetuning,
        "git": run["git"],
        "regressor": {"fingerprint": regressor.fingerprint} | regressor.info,
        "date": run["time"],
        "run": {k: v for k, v in run.items() if k not in ("git", "time")},
    }


def _margin(score: str, control: str) -> Callable[[Results], float]:
    return lambda r: r["model"][score] - r[control][score]


def _corr(shape: str, method: str = "model") -> Callable[[Results], float]:
    return lambda r: r[method]["corr"][shape]


BARS = (
    Bar("PSNR", lambda r: r["model"]["psnr"], 21.5),
    Bar("PSNR above copy_source", _margin("psnr", "copy_source"), 3.5),
    Bar("SSIM", lambda r: r["model"]["ssim"], 0.70),
    Bar("PSNR above wrong_source", _margin("psnr", "wrong_source"), 5.0),
    Bar("mouth PSNR above source_expression", _margin("psnr_mouth", "source_expression"), 0.4),
    Bar("jawOpen r", _corr("jawOpen"), 0.6),
    Bar("jawOpen r of source_expression", _corr("jawOpen", "source_expression"), 0.2, at_least=False),
    Bar("AED above source_expression", _margin("aed", "source_expression"), 0.0, at_least=False),
    Bar("AED above no_deformation", _margin("aed", "no_deformation"), 0.0, at_least=False),
    Bar("AED above copy_source", _margin("aed", "copy_source"), 0.0, at_least=False),
    Bar("fine-tuning, source view, dB", lambda r: r["finetuned"]["source_gain"], 4.0),
    Bar("fine-tuning, other views, dB", lambda r: r["finetuned"]["other_gain"], 0.5),
    Bar("mouthSmile r", _corr("mouthSmile"), 0.5, group="further"),
    Bar("eyeBlink r", _corr("eyeBlink"), 0.4, group="further"),
    Bar("PSNR", lambda r: r["model"]["psnr"], 24.5, group="long run"),
    Bar("SSIM", lambda r: r["model"]["ssim"], 0.80, group="long run"),
    Bar("jawOpen r", _corr("jawOpen"), 0.85, group="long run"),
    Bar("mouthSmile r", _corr("mouthSmile"), 0.6, group="long run"),
    Bar("eyeBlink r", _corr("eyeBlink"), 0.5, group="long run"),
)


def check_bars(results: Results, bars: Sequence[Bar] = BARS) -> list[dict[str, Any]]:
    """Each bar as {group, name, value, wanted, at_least, reached}; value and reached are None where not measured.

    "AED above X" must be below zero, not at it: a model equal to its control has shown nothing.
    """
    checked = []
    for bar in bars:
        try:
            value = float(bar.value(results))
        except (KeyError, TypeError):  # a method that did not run, or a score that is not defined
            value = None
        reached = None
        if value is not None:
            strict = bar.wanted == 0.0
            reached = value >= bar.wanted if bar.at_least else (value < 0.0 if strict else value <= bar.wanted)
        entry = {"group": bar.group, "name": bar.name, "value": value, "wanted": bar.wanted}
        checked.append(entry | {"at_least": bar.at_least, "reached": reached})
    return checked


def results_table(results: Results, shapes: Sequence[str] = SHAPES_SHOWN) -> str:
    """Markdown table, one line a method; "–" where a value is not defined, "∞" where pictures are identical."""
    shapes = [s for s in shapes if any(s in r.get("corr", {}) for r in results.values())]
    lines = [
        "| method | " + " | ".join([*HEADINGS.values(), *(f"{s} r" for s in shapes)]) + " |",
        "|---|" + "---|" * (len(HEADINGS) + len(shapes)),
    ]
    for method, r in results.items():
        if "corr" not in r:
            continue
        cells = [f"**{method}**" if method == "model" else method]
        for score in HEADINGS:
            identical = method == "target" and r[score] is None
            cells.append("∞" if identical else _number(r[score], DIGITS[score]))
        cells += [_number(r["corr"].get(s), 2) for s in shapes]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars_table(checked: Sequence[dict[str, Any]]) -> str:
    """Markdown table of `check_bars`."""
    lines = ["| | bar | wanted | measured | reached |", "|---|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: "not measured"}
    for bar in checked:
        sign = "≥" if bar["at_least"] else ("<" if bar["wanted"] == 0.0 else "≤")
        value = _number(bar["value"], 3)
        lines.append(
            f"| {bar['group']} | {bar['name']} | {sign} {bar['wanted']:g} | {value} | {words[bar['reached']]} |"
        )
    return "\n".join(lines)


def report(metrics: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The text of report.md: `metrics` as in metrics.json, `pictures` as paths relative to the report."""
    protocol, results = metrics["protocol"], metrics["results"]
    known = [f"- `{name}`: {WHAT[name]}" for name in results if name in WHAT]
    parts = ["# Evaluation", f"n = {protocol['n']} pairs of held-out identities, {protocol['resolution']}² pixels."]
    parts += [results_table(results), "\n".join(known)]
    if tuned := results.get("finetuned"):
        parts.append(
            f"One-shot fine-tuning, {tuned['steps']} steps, {tuned['n']} identities: the photo itself "
            f"{tuned['source_gain']:+.2f} dB, other views {tuned['other_gain']:+.2f} dB, {tuned['seconds']:.1f} s each."
        )
    parts += ["## Bars", bars_table(metrics["bars"])]
    parts += ["## Pictures", *(f"![{Path(p).stem}]({p})" for p in pictures)] if pictures else []
    parts += ["## Protocol", "\n".join(f"- {key}: {_text(value)}" for key, value in protocol.items())]
    return "\n\n".join(parts) + "\n"


def picture_grid(columns: dict[str, UInt8[np.ndarray, "k h w 3"]], cell: int = 128) -> UInt8[np.ndarray, "gh gw 3"]:
    """One column per name with its name above, one row per picture; pictures enlarged or reduced to `cell` pixels."""
    header, gap = 16, 2
    rows = len(next(iter(columns.values())))
    size = (len(columns) * (cell + gap) - gap, header + rows * (cell + gap) - gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(columns.items()):
        x = i * (cell + gap)
        draw.text((x + 3, 3), name, fill=(0, 0, 0))
        for j, picture in enumerate(pictures):
            scale = Image.Resampling.NEAREST if picture.shape[0] <= cell else Image.Resampling.BOX
            tile = Image.fromarray(picture).resize((cell, cell), scale)
            sheet.paste(tile, (x, header + j * (cell + gap)))
    return np.asarray(sheet)


def write_report(
    out: Path,
    metrics: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    pictures: dict[str, UInt8[np.ndarray, "k h w 3"]],
    rows_per_grid: int = 6,
) -> list[Path]:
    """Writes everything under `out`; metrics.json last, so its presence means that the rest is there."""
    out.mkdir(parents=True, exist_ok=True)
    metrics = metrics | {"bars": check_bars(metrics["results"])}
    count = len(next(iter(pictures.values()))) if pictures else 0
    grids = []
    for k, start in enumerate(range(0, count, rows_per_grid)):
        part = {name: images[start : start + rows_per_grid] for name, images in pictures.items()}
        grids.append(out / f"grid_{k}.png")
        Image.fromarray(picture_grid(part)).save(grids[-1])
    pairs = out / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(_strict(row)) + "\n" for row in rows))
    text = out / "report.md"
    text.write_text(report(metrics, [p.name for p in grids]), encoding="utf-8")
    final = out / "metrics.json"
    partial = final.with_suffix(".json.partial")
    partial.write_text(
        json.dumps(_strict(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    partial.replace(final)
    return [final, text, pairs, *grids]


def _strict(value: Any) -> Any:
    """The same with non-finite numbers as None: JSON has no infinity."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | tuple) else str(value)
