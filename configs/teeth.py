"""Teeth refinement (Sec. 3.3, Eqs. 8 and 9): the general stage goes on, D frozen, the mouth drawn to GFPGAN(output).

    python train.py --config=configs/teeth.py --workdir=runs/teeth                      the paper, from runs/general
    python train.py --config=configs/teeth.py:quickstart --config.train.restorer=untrained   its mechanics alone

Paper: batch 16, 25,000 steps. Needs what general.py needs, its run, and ported GFPGAN (`nofa weights fetch gfpgan`).
`small` and `quickstart` need GFPGAN too; with restorer=untrained a random network takes its place, which shows that the
stage runs and spoils the teeth: start the next stage from the general run then.
"""

from ml_collections import ConfigDict

from nofa_jax.cli import general_config


def get_config(size: str = "paper") -> ConfigDict:
    config = general_config(__file__, size)
    general, made_by = config.name, "configs/quickstart.py" if size == "quickstart" else "configs/general.py"
    config.name = "teeth" if size == "paper" else f"teeth-{size}"
    config.train.restorer = "gfpgan"  # entry of `nofa weights`, a ported file, or "untrained"
    config.train.steps = {"paper": 25_000, "small": 400, "quickstart": 100}[size]
    config.train.window = 0  # GFPGAN restores whole faces
    # The paper gives one rate for all stages, 1e-4. Small models trained at more: a fifth of it here, they are trained.
    if size != "paper":
        config.train.learning_rate *= 0.2

    trainable = tuple(group for group in config.stage.general.trainable if group[0] != "deformation/.*")
    general_losses = config.stage.general.losses
    config.stages = ("teeth",)
    config.stage = ConfigDict()
    config.stage.teeth = ConfigDict()
    config.stage.teeth.until = 1.0
    config.stage.teeth.self_supervised = False
    config.stage.teeth.compensate = False
    config.stage.teeth.trainable = (("deformation/.*", 0.0), *trainable)  # "while fixing the deformation field"
    # Weights of Eq. 9: rec 0.5, teeth 1, id 0.1, latent 0.01: half the general stage's reconstruction, twice its mouth.
    config.stage.teeth.losses = ConfigDict(
        {f"teeth_{kind}": 2.0 * general_losses[f"mouth_{kind}"] for kind in ("l2", "lpips")}
        | {term: 0.5 * general_losses[term] for term in ("l2", "lpips", "raw_l2", "mask") if term in general_losses}
        | {term: general_losses[term] for term in ("id", "latent")}
    )

    config.init_from.update({"generator": "", "encoder": "", "run": f"runs/{general}"})
    config.init_from.made_by = f"{made_by}:small" if size == "small" else made_by
    return config.lock()
