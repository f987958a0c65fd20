"""Toy configurations and data for tests: the real classes, small enough to compile in seconds."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nofa_jax.cli import load_config
from nofa_jax.types import Batch, Frame


def tiny_config(source: str = "configs/quickstart.py") -> ConfigDict:
    """A config of quickstart size, smaller still: 32² images, 16² planes; of the quickstart itself both stages."""
    config = load_config(source).unlock()
    config.data.update({"identities": 24, "frames": 4, "size": 32, "workers": 0, "threads": 0})
    config.model.update({"source_size": 32, "output_size": 32, "rendering_resolution": 16})
    config.model.encoder.update({"widths": (4, 4, 8, 8), "stem_width": 4})
    config.model.generator.update({"z_dim": 8, "w_dim": 8, "plane_resolution": 16, "plane_channels": 4})
    config.model.generator.update({"channel_base": 64, "channel_max": 8})
    config.model.compensation.update({"channels": (8, 8, 8, 8), "hidden": 4})
    config.model.deformation.update({"depth": 2, "width": 8, "skip": 1, "weight_width": 8, "octaves": 3})
    config.model.renderer.update({"samples": 6, "decoder_width": 8, "decoder_features": 4})
    config.model.superres.update({"channels": (4, 4)})
    config.train.update({"steps": 4, "batch_size": 2, "mouth_size": 16, "window": 8 if config.train.window else 0})
    config.train.update({"perceptual": "laplacian-pyramid", "identity": "lowpass-cosine"})
    config.train.update({"log_every": 1, "checkpoint_every": 2, "preview_every": 4})
    if config.name == "quickstart":
        config.train.targets_per_source = 2
        config.stages = ("general", "compensation")
        config.stage.general.until = 0.5
    config.warm_start.update({"steps": 2, "heads": 2, "points": 16, "vertices": 100})
    config.finetune.steps = 2
    return config.lock()


def fake_frame(key: jax.Array, lead: tuple[int, ...], size: int, id_coeffs: int = 5, exp_coeffs: int = 6) -> Frame:
    """Random pixels and coefficients, EG3D's frontal camera, landmarks spread over the middle of the image."""
    keys = jax.random.split(key, 5)
    camera = np.diag([1.0, -1.0, -1.0, 1.0]).astype(np.float32)
    camera[2, 3] = 2.7
    lens = np.array([[4.2647, 0, 0.5], [0, 4.2647, 0.5], [0, 0, 1]], np.float32)
    return Frame(
        image=jax.random.uniform(keys[0], (*lead, size, size, 3), minval=-1.0),
        mask=jnp.round(jax.random.uniform(keys[1], (*lead, size, size))),
        cam2world=jnp.broadcast_to(camera, (*lead, 4, 4)),
        intrinsics=jnp.broadcast_to(lens, (*lead, 3, 3)),
        id_coeff=jax.random.normal(keys[2], (*lead, id_coeffs)),
        exp_coeff=jax.random.uniform(keys[3], (*lead, exp_coeffs)),
        landmarks=jax.random.uniform(keys[4], (*lead, 68, 2), minval=0.3, maxval=0.7),
    )


def fake_batch(config: ConfigDict, seed: int = 0) -> Batch:
    """A batch of the config's size."""
    keys = jax.random.split(jax.random.key(seed))
    b, t, size = config.train.batch_size, config.train.targets_per_source, config.data.size
    return Batch(source=fake_frame(keys[0], (b,), size), target=fake_frame(keys[1], (b, t), size), clip=jnp.arange(b))
