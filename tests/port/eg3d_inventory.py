"""Names and shapes of every tensor in EG3D's `G_ema`, as its official constructor makes them for given arguments."""

import numpy as np

SUPERRES = {  # class: input, output, channels of the two blocks, does the first double?
    "2X": (64, 128, (128, 64), False),
    "4X": (128, 256, (128, 64), False),
    "8X": (128, 512, (128, 64), True),
    "8XDC": (128, 512, (256, 128), True),
    "Deepfp32": (128, 256, (128, 64), False),
}
Shapes = dict[str, tuple[int, ...]]


def _layer(name: str, inputs: int, outputs: int, w_dim: int, resolution: int, torgb: bool = False) -> Shapes:
    kernel = 1 if torgb else 3
    shapes: Shapes = {
        f"{name}.weight": (outputs, inputs, kernel, kernel),
        f"{name}.bias": (outputs,),
        f"{name}.affine.weight": (inputs, w_dim),
        f"{name}.affine.bias": (inputs,),
    }
    noise = {f"{name}.noise_strength": (), f"{name}.noise_const": (resolution, resolution)}
    return shapes if torgb else shapes | noise | {f"{name}.resample_filter": (4, 4)}


def _block(name: str, inputs: int, outputs: int, w_dim: int, resolution: int, image: int) -> Shapes:
    shapes: Shapes = {f"{name}.resample_filter": (4, 4)}
    if inputs:
        shapes |= _layer(f"{name}.conv0", inputs, outputs, w_dim, resolution)
    else:
        shapes[f"{name}.const"] = (outputs, 4, 4)
    shapes |= _layer(f"{name}.conv1", outputs, outputs, w_dim, resolution)
    return shapes | _layer(f"{name}.torgb", outputs, image, w_dim, resolution, torgb=True)


def inventory(kwargs: dict) -> Shapes:
    """`kwargs`: G_ema's constructor arguments; the planes are 256² as in the official constructor."""
    w, shapes = kwargs["w_dim"], {"backbone.mapping.w_avg": (kwargs["w_dim"],)}
    before = 0
    for resolution in (4, 8, 16, 32, 64, 128, 256):
        width = min(kwargs["channel_base"] // resolution, kwargs["channel_max"])
        shapes |= _block(f"backbone.synthesis.b{resolution}", before, width, w, resolution, 96)
        before = width
    shapes |= {"backbone.mapping.embed.weight": (w, kwargs["c_dim"]), "backbone.mapping.embed.bias": (w,)}
    for i in range(kwargs["mapping_kwargs"]["num_layers"]):
        shapes[f"backbone.mapping.fc{i}.weight"] = (w, kwargs["z_dim"] + w if i == 0 else w)
        shapes[f"backbone.mapping.fc{i}.bias"] = (w,)
    shapes |= {"decoder.net.0.weight": (64, 32), "decoder.net.0.bias": (64,)}
    shapes |= {"decoder.net.2.weight": (33, 64), "decoder.net.2.bias": (33,)}
    name = kwargs["rendering_kwargs"]["superresolution_module"].removeprefix("training.superresolution.Superresolution")
    size, output, (first, second), doubles = SUPERRES[name.removeprefix("Hybrid")]
    shapes |= _block("superresolution.block0", 32, first, 512, 2 * size if doubles else size, 3)
    return shapes | _block("superresolution.block1", first, second, 512, output, 3)


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Plain normal numbers, and the filter that EG3D has everywhere."""
    rng = np.random.default_rng(seed)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
    return {
        name: taps if name.endswith("resample_filter") else rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
