"""The paper's ablations (Sec. 4.3) and some that it does not have: each a stage's config with one thing changed.

    python train.py --config=configs/ablations.py:no_weight_net --workdir=runs/no_weight_net
    python train.py --config=configs/ablations.py:no_weight_net,quickstart      or ,small

Which row of Tables 3 to 5 each one is: docs/training.md. Later stages on top of an ablated general stage take the same
value, e.g. --config.model.deformation.use_weight_net=False; a stage whose model differs from its run's is refused.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from nofa_jax.cli import general_config, load_sibling


def _no_weight_net(config: ConfigDict) -> None:
    config.model.deformation.use_weight_net = False  # x_c = x + D-Net


def _no_identity_condition(config: ConfigDict) -> None:
    config.model.deformation.use_identity = False  # alpha enters neither D-Net nor W-Net


def _no_mouth_loss(config: ConfigDict) -> None:
    _drop(config.stage.general, "mouth_l2", "mouth_lpips")


def _no_latent_regularisation(config: ConfigDict) -> None:
    _drop(config.stage.general, "latent")


def _frozen_generator(config: ConfigDict) -> None:
    # The tri-plane backbone alone. Decoder and super-resolution go on, as they have to follow D's moving points; with
    # them frozen too, the encoder could only pick among EG3D's own faces.
    trainable = [group for group in config.stage.general.trainable if group[0] != "generator/mapping/.*"]
    config.stage.general.trainable = (("generator/.*", 0.0), *trainable)


def _no_teeth(config: ConfigDict) -> None:
    config.init_from.update({"run": "runs/general", "made_by": "configs/general.py"})  # instead of teeth.py's run


def _no_depth_regularisation(config: ConfigDict) -> None:
    _drop(config.stage.compensation, "depth")


def _as_it_is(config: ConfigDict) -> None:
    """The base model: the row is this stage's own run, evaluated before there is a C."""


def _drop(stage: ConfigDict, *terms: str) -> None:
    stage.losses = ConfigDict({name: weight for name, weight in stage.losses.items() if name not in terms})


ABLATIONS: dict[str, tuple[str, Callable[[ConfigDict], None]]] = {  # the stage it changes, and how
    "no_weight_net": ("general", _no_weight_net),
    "no_identity_condition": ("general", _no_identity_condition),
    "no_mouth_loss": ("general", _no_mouth_loss),
    "no_latent_regularisation": ("general", _no_latent_regularisation),
    "frozen_generator": ("general", _frozen_generator),
    "no_teeth": ("compensation", _no_teeth),
    "no_compensation": ("teeth", _as_it_is),
    "no_depth_regularisation": ("compensation", _no_depth_regularisation),
}


def get_config(name: str = "") -> ConfigDict:
    name, _, size = name.partition(",")
    if name not in ABLATIONS:
        raise ValueError(f"an ablation is one of {', '.join(ABLATIONS)} (as ablations.py:NAME), not {name!r}")
    stage, change = ABLATIONS[name]
    size = size or "paper"
    config = general_config(__file__, size) if stage == "general" else load_sibling(__file__, f"{stage}.py:{size}")
    config.name = name if size == "paper" else f"{name}-{size}"
    if name != "no_teeth" or size == "paper":  # at small sizes the compensation stage starts there anyway
        change(config)
    return config.lock()
