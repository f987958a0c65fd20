"""The general stage at toy size, on embedded heads: ten minutes on two CPU cores.

    python train.py --config=configs/quickstart.py

Needs nothing: it makes its data (cached), so it is also what CI and a first look run. Results: docs/training.md.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

_SPEC = importlib.util.spec_from_file_location("general", Path(__file__).with_name("general.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
general = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(general)


def get_config() -> ConfigDict:
    config = general.get_config("small").unlock()
    config.name = "quickstart"
    config.data.update({"identities": 600, "frames": 8, "size": 64})
    config.model.update({"source_size": 64, "output_size": 64, "rendering_resolution": 32})
    config.model.encoder.update({"units": (1, 1, 1, 1), "widths": (16, 32, 48, 64)})
    config.model.generator.update({"z_dim": 64, "w_dim": 64, "plane_resolution": 64})
    config.model.generator.update({"channel_base": 2048, "channel_max": 64})
    config.model.compensation.update({"channels": (64, 48, 48, 48), "hidden": 24})
    config.model.renderer.update({"samples": 14})
    config.model.superres.update({"channels": (24, 16)})
    config.train.update({"steps": 1_200, "window": 24, "checkpoint_every": 250, "preview_every": 250})
    config.warm_start.steps = 1_200

    # The paper's compensation stage, for longer runs: --config.stages="('general','compensation')" and
    # --config.stage.general.until=0.85. In ten minutes the steps are worth more to the general stage.
    config.stage.compensation = ConfigDict()
    config.stage.compensation.until = 1.0
    config.stage.compensation.self_supervised = True
    config.stage.compensation.compensate = True
    config.stage.compensation.trainable = (("compensation/.*", 1.0), (".*", 0.0))
    config.stage.compensation.losses = ConfigDict(  # weights of Eq. 11: rec 1, id 0.1, depth 0.01
        {"l2": 1.0, "lpips": 1.0, "id": 0.1, "depth": 0.01}
    )
    return config.lock()
