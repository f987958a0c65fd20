"""Compensation stage (Sec. 3.3, Eqs. 10 and 11): C alone, on images, each its own target.

    python train.py --config=configs/compensation.py --workdir=runs/compensation             the paper, from runs/teeth
    python train.py --config=configs/compensation.py:quickstart --workdir=runs/compensation  from runs/quickstart

Paper: batch 32, 100,000 steps on FFHQ. Needs ported ArcFace and LPIPS, a packed FFHQ (one image a clip will do) and the
run of teeth.py. `small` and `quickstart` start from the general stage, since GFPGAN may not be at hand, and draw on the
same embedded heads.
"""

from ml_collections import ConfigDict

from nofa_jax.cli import general_config


def get_config(size: str = "paper") -> ConfigDict:
    config = general_config(__file__, size)
    general = config.name
    config.name = "compensation" if size == "paper" else f"compensation-{size}"
    config.train.steps = {"paper": 100_000, "small": 1_500, "quickstart": 1_500}[size]
    config.train.batch_size = 32 if size == "paper" else config.train.batch_size
    if size != "paper":
        # C is still zero; the paper gives one rate for all stages, 1e-4, and Adam. What was tried: docs/training.md.
        config.train.update({"learning_rate": 4e-3, "muon": "compensation/.*"})
    config.train.targets_per_source = 0  # the source is the target

    losses = config.stage.general.losses
    config.stages = ("compensation",)
    config.stage = ConfigDict()
    config.stage.compensation = ConfigDict()
    config.stage.compensation.until = 1.0
    config.stage.compensation.self_supervised = True
    config.stage.compensation.compensate = True
    config.stage.compensation.trainable = (("compensation/.*", 1.0), (".*", 0.0))
    # Weights of Eq. 11: rec 1, id 0.1, depth 0.01. Reconstruction and identity weigh what they weigh in the general
    # stage, at small sizes too; ours there, raw_l2 and mask, keep C from making skin transparent.
    config.stage.compensation.losses = ConfigDict(
        {term: losses[term] for term in ("l2", "lpips", "id", "raw_l2", "mask") if term in losses} | {"depth": 0.01}
    )

    config.init_from.update({"generator": "", "encoder": ""})
    before = {"paper": ("runs/teeth", "configs/teeth.py"), "small": (f"runs/{general}", "configs/general.py:small")}
    run, made_by = before.get(size, (f"runs/{general}", "configs/quickstart.py"))
    config.init_from.update({"run": run, "made_by": made_by})
    return config.lock()
