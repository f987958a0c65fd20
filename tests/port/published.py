"""For every kind of network: a file as its project publishes it with rule-made weights, inputs, and stored results.

`case(kind, folder)` writes the file; `errors(case, outputs)` compares what `nofa port run` wrote with the float64
results of the original code. Errors are the largest difference over the largest magnitude of the stored array; for
distances relative to the value, for embeddings also 1 - cosine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests import golden
from tests.eg3d_golden import golden as eg3d_golden
from tests.eg3d_golden import nchw
from tests.eg3d_golden import state as eg3d_state
from tests.port.eg3d_files import save_network
from tests.port.torch_files import save_legacy, save_zip
from tests.shared import shared_path

Compare = Callable[[dict[str, np.ndarray]], dict[str, float]]


@dataclass
class Case:
    """`compare` gives the errors by output; `own` are those of the original's own float32 run, where known."""

    kind: str
    file: Path
    inputs: dict[str, np.ndarray]
    compare: Compare
    heads: Path | None = None
    own: dict[str, float] = field(default_factory=dict)


def relative(mine: np.ndarray, stored: np.ndarray) -> float:
    return float(np.abs(np.asarray(mine, np.float64) - stored).max() / np.abs(stored).max())


def one_minus_cosine(mine: np.ndarray, stored: np.ndarray) -> float:
    a, b = np.asarray(mine, np.float64), np.asarray(stored, np.float64)
    return float(np.max(1 - np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)))


def _image(stored: np.ndarray) -> np.ndarray:
    """uint8 -> [-1, 1], one picture or several."""
    return (np.atleast_3d(stored)[None] if stored.ndim == 3 else stored).astype(np.float32) / np.float32(127.5) - 1


def _own(folder: str, name: str, *keys: str) -> dict[str, float]:
    table = golden.manifest(folder, name)["fp32_vs_fp64"]
    return {key: table[key]["max_abs_over_absmax"] for key in keys if key in table}


def eg3d(folder: Path, part: str = "full", render: str = "cam_a", **inputs: np.ndarray) -> Case:
    """From ws; parts tiny and mini are small networks. The file's own resolution is the render's."""
    g = eg3d_golden(part)
    config = g.meta["config"]["init_kwargs"]
    resolution = g.meta["renders"][render]["neural_rendering_resolution"]
    file = save_network(folder / f"{part}.pkl", eg3d_state(part), config, resolution)
    channels = {"planes": 96, "feature64": None}
    names = {
        "feature64": "backbone/b64.x",
        "planes": "backbone/planes",
        **{name: f"{render}/{name}" for name in ("image_raw", "image_depth", "image")},
    }

    def compare(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        found = {}
        for name, item in names.items():
            value = outputs[name]
            if name == "planes":  # [n, 3, h, w, c] -> [n, 3 c, h, w]
                value = np.moveaxis(value, -1, 2).reshape(len(value), channels[name], *value.shape[2:4])
            else:
                value = nchw(value)
            result = g.compare(item, value)
            found[name] = max(result["max_rel"], result["axis_rel"])
        return found

    given = {"ws": g.input("ws_plus"), "camera": g.input(f"c/{render}")}
    own = {name: g.items[item]["f32_vs_f64"]["max_rel"] for name, item in names.items()}
    return Case("eg3d", file, {**given, **inputs}, compare, own=own)


def eg3d_mapping(folder: Path, part: str = "full") -> Case:
    """From z with truncation; only the codes are stored."""
    g = eg3d_golden(part)
    cam = g.input("c/cam_a")
    base = eg3d(folder, part)
    psi = g.meta["truncation_psi"]
    inputs = {
        "z": g.input("z"),
        "camera_mapping": np.concatenate([g.input("c/cond"), cam]),
        "camera": np.concatenate([cam, cam]),
        "truncation_psi": np.float32(psi),
        "neural_rendering_resolution": np.int64(8),
    }

    def compare(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        return {"ws": g.compare(f"mapping/ws_psi{psi}", outputs["ws"])["max_rel"]}

    own = {"ws": g.items[f"mapping/ws_psi{psi}"]["f32_vs_f64"]["max_rel"]}
    return Case("eg3d", base.file, inputs, compare, own=own)


def e4e(folder: Path) -> Case:
    stored = golden.arrays("encoder", "encoder")
    state = golden.make_state("encoder", golden.manifest("encoder", "encoder")["weights"])
    tree = {"state_dict": state, "latent_avg": stored["latent_avg"], "opts": {"stylegan_size": 256}}
    steps = {"c1": 4, "c2": 2, "c3": 2}

    def compare(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        found = {"codes": relative(outputs["codes"], stored["codes"])}
        for name, s in steps.items():
            found[name] = relative(outputs[name][:, ::s, ::s, ::8], golden.nhwc(stored[name]))
        return found

    own = _own("encoder", "encoder", "codes", "f_body.6", "f_body.20", "f_body.23")
    own = {"codes": own["codes"], "c1": own["f_body.6"], "c2": own["f_body.20"], "c3": own["f_body.23"]}
    return Case("e4e", save_zip(folder / "e4e.pt", tree), {"image": _image(stored["image_u8"])}, compare, own=own)


def arcface_irse50(folder: Path) -> Case:
    stored = golden.arrays("arcface", "ir_se50")
    state = golden.make_state("arcface", golden.manifest("arcface", "ir_se50")["weights"])
    names = ("y", "x", "y_hat")
    expected = np.concatenate([stored[f"emb_{n}"] for n in names])
    image = np.concatenate([_image(stored[f"{n}_u8"]) for n in names])
    own = {"embedding": max(_own("arcface", "ir_se50", *(f"emb_{n}" for n in names)).values())}
    file = save_legacy(folder / "model_ir_se50.pth", state)
    return Case("arcface-irse50", file, {"image": image}, _embedding(expected), own=own)


def iresnet(folder: Path, depth: int) -> Case:
    name = f"iresnet{depth}"
    stored = golden.arrays("arcface", name)
    state = golden.make_state("arcface", golden.manifest("arcface", name)["weights"])
    file = save_zip(folder / "backbone.pth", state)
    own = {"embedding": _own("arcface", name, "emb")["emb"]}
    return Case(f"arcface-{name}", file, {"image": _image(stored["image_u8"])}, _embedding(stored["emb"]), own=own)


def _embedding(expected: np.ndarray) -> Compare:
    return lambda outputs: {
        "embedding": relative(outputs["embedding"], expected),
        "embedding, 1 - cosine": one_minus_cosine(outputs["embedding"], expected),
    }


def lpips(folder: Path, net: str) -> Case:
    """The published way: trunk with its classifier in one file, heads in another."""
    stored = golden.arrays("lpips", "lpips")
    manifest = golden.manifest("lpips", "lpips")
    state = golden.make_state("lpips", manifest[net]["weights"])
    state["classifier.6.bias"] = np.zeros(1000, np.float32)
    with np.load(shared_path("golden/lpips/lin_weights.npz")) as file:
        heads = {k.removeprefix(f"{net}/"): file[k] for k in file.files if k.startswith(f"{net}/")}
    pairs = [(k, a, b) for k, (a, b) in enumerate(manifest["pairs"]) if a.endswith("64")]
    inputs = {
        f"image_{x}": np.concatenate([_image(stored[f"{pair[i]}_u8"]) for pair in pairs])
        for i, x in ((1, "a"), (2, "b"))
    }
    expected = np.array([float(stored[f"{net}_dist{k}"].squeeze()) for k, _, _ in pairs])

    def compare(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        return {"distance": float(np.max(np.abs(outputs["distance"] - expected) / expected))}

    trunk = save_legacy(folder / f"{net}_trunk.pth", state)
    own = {"distance": max(v["rel_l2"] for k, v in manifest[net]["fp32_vs_fp64"].items() if k in ("dist0", "dist1"))}
    return Case(f"lpips-{net}", trunk, inputs, compare, save_zip(folder / f"{net}.pth", heads), own)


def inception(folder: Path) -> Case:
    stored = golden.arrays("inception", "inception")
    state = golden.make_state("inception", golden.manifest("inception", "inception")["weights"])
    own = {"features": _own("inception", "inception", "large_2048")["large_2048"]}
    return Case(
        "inception",
        save_zip(folder / "inception.pth", state),
        {"image": stored["large_u8"]},
        lambda outputs: {"features": relative(outputs["features"], stored["large_2048"])},
        own=own,
    )


def deep3d(folder: Path) -> Case:
    stored = golden.arrays("face3d", "recon")
    state = golden.make_state("face3d", golden.manifest("face3d", "recon")["weights"])
    tree = {"net_recon": state, "opt_00": {"state": {}}, "sched_00": {"last_epoch": 20}}
    return Case(
        "deep3d",
        save_zip(folder / "epoch_20.pth", tree),
        {"image": stored["image_u8"].astype(np.float32) / 255},
        lambda outputs: {"coeffs": relative(outputs["coeffs"], stored["coeff"])},
        own={"coeffs": _own("face3d", "recon", "coeff")["coeff"]},
    )


def bfm(folder: Path) -> Case:
    stored = golden.arrays("face3d", "face_model")
    names = {"vertices": "shape", "landmarks": "landmarks_image_y_down", "color": "color"}
    own = _own("face3d", "face_model", "shape", "landmarks", "color")
    return Case(
        "bfm",
        shared_path("golden/face3d/made_up_BFM_model_front.mat"),
        {"coeffs": stored["coeff"]},
        lambda outputs: {name: relative(outputs[name], stored[theirs]) for name, theirs in names.items()},
        own={"vertices": own["shape"], "landmarks": own["landmarks"], "color": own["color"]},
    )


def gfpgan(folder: Path) -> Case:
    stored = golden.arrays("gfpgan", "gfpgan")
    state = golden.make_state("gfpgan", golden.manifest("gfpgan", "gfpgan")["weights"])

    def compare(outputs: dict[str, np.ndarray]) -> dict[str, float]:
        x = outputs["image"]
        parts = {"image": x[:, ::4, ::4], "image_crop": x[:, 200:264, 224:288], "image_border": x[:, :6, :64]}
        scale = max(np.abs(stored[name]).max() for name in parts)
        differences = [np.abs(part - golden.nhwc(stored[name])).max() for name, part in parts.items()]
        return {"image": float(max(differences) / scale)}

    own = {"image": _own("gfpgan", "gfpgan", "image")["image"]}
    file = save_zip(folder / "GFPGANv1.4.pth", {"params_ema": state})
    return Case("gfpgan", file, {"image": _image(stored["image_u8"])}, compare, own=own)


CASES: dict[str, Callable[[Path], Case]] = {
    "eg3d": eg3d,
    "eg3d, from z": eg3d_mapping,
    "e4e": e4e,
    "arcface-irse50": arcface_irse50,
    "arcface-iresnet50": lambda folder: iresnet(folder, 50),
    "arcface-iresnet100": lambda folder: iresnet(folder, 100),
    "lpips-vgg": lambda folder: lpips(folder, "vgg"),
    "lpips-alex": lambda folder: lpips(folder, "alex"),
    "inception": inception,
    "deep3d": deep3d,
    "bfm": bfm,
    "gfpgan": gfpgan,
}
