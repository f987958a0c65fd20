"""The baseline "Optimize generator" (Table 3, Fig. 8 c): pivotal tuning (PTI, Roich et al. 2021) of the base model.

    python train.py --config=configs/pti.py --config.photo.file=photo.jpg --workdir=runs/pti
    python train.py --config=configs/pti.py:quickstart --workdir=runs/pti               a head of the test split

First the latent, 500 steps, then G around it, 1,000 steps, on one photo. Paper: 20 minutes on four V100; no more is
said, so the rest follows PTI's own code (danielroich/PTI): rates 5e-3 for the latent and 3e-4 for the generator. Ours:

- the losses are Eqs. 3 and 5, rec 1 and id 0.1, as in the paper's other stages;
- the latent starts from E's answer instead of the mean, and is optimised in W+ (one code a layer), as E makes it. It is
  held by the biases of E's style heads, through which any W+ code of this photo can be reached;
- "the generator" is G with the decoder and super-resolution, as where PTI is used on EG3D; D stays, C is off;
- PTI's locality regularisation, which keeps other latents' pictures, is left out: one photo is all the model must show.
"""

from ml_collections import ConfigDict

from nofa_jax.cli import general_config


def get_config(size: str = "paper") -> ConfigDict:
    config = general_config(__file__, size)
    general = config.name
    config.name = "pti" if size == "paper" else f"pti-{size}"
    config.photo = ConfigDict({"file": "", "split": "test", "identity": 0})  # no file: that person's first picture
    config.train.steps = {"paper": 1_500, "small": 600, "quickstart": 300}[size]
    config.train.learning_rate = 1e-4  # times the factors below
    config.train.batch_size = 1
    config.train.targets_per_source = 0
    config.train.window = 0
    config.finetune.update({"seconds": 0.0, "check_every": 0})  # PTI has no early end
    # Small models: rates in proportion to those they were trained at, 15 times the paper's.
    factor = 1.0 if size == "paper" else 10.0

    losses = config.stage.general.losses
    config.stages = ("latent", "generator")
    config.stage = ConfigDict()
    trainable = {
        "latent": (("encoder/heads_.*/bias", 50.0), (".*", 0.0)),
        "generator": (
            ("generator/mapping/.*", 0.0),
            ("(generator|renderer|superres)/.*", 3.0 * factor),
            (".*", 0.0),
        ),
    }
    for name, until in (("latent", 1 / 3), ("generator", 1.0)):
        config.stage[name] = ConfigDict()
        config.stage[name].until = until
        config.stage[name].self_supervised = True
        config.stage[name].compensate = False
        config.stage[name].trainable = trainable[name]
        config.stage[name].losses = ConfigDict({term: losses[term] for term in ("l2", "lpips", "id")})

    run, made_by = (
        ("runs/teeth", "configs/teeth.py") if size == "paper" else (f"runs/{general}", "configs/quickstart.py")
    )
    config.init_from.update({"generator": "", "encoder": "", "run": run})
    config.init_from.made_by = "configs/general.py:small" if size == "small" else made_by
    return config.lock()
