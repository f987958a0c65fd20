"""One-shot fine-tuning (Sec. 3.3, Eq. 12): C on one photo, until it stops improving.

    python train.py --config=configs/finetune.py --config.photo.file=photo.jpg --workdir=runs/finetune
    python train.py --config=configs/finetune.py:quickstart --workdir=runs/finetune     a head of the test split

The result is a run like any other: `nofa render --workdir=runs/finetune --source=photo.jpg --finetune_steps=0`. What
`nofa reenact`, `render` and Avatar.from_image do themselves is the same, by the config.finetune of the run they use.

Paper: 10 minutes on one V100, steps not given. Ours stops when the error on views it does not train on no longer falls
(train/held_out.py), after config.finetune.seconds, or after train.steps.
"""

from ml_collections import ConfigDict

from nofa_jax.cli import general_config


def get_config(size: str = "paper") -> ConfigDict:
    config = general_config(__file__, size)
    config.name = "finetune" if size == "paper" else f"finetune-{size}"
    config.photo = ConfigDict({"file": "", "split": "test", "identity": 0})  # no file: that person's first picture
    config.train.steps = config.finetune.steps
    config.train.learning_rate = config.finetune.learning_rate
    config.train.batch_size = 1
    config.train.targets_per_source = 0
    config.train.window = 0

    config.stages = ("finetune",)
    config.stage = ConfigDict()
    config.stage.finetune = ConfigDict()
    config.stage.finetune.until = 1.0
    config.stage.finetune.self_supervised = True
    config.stage.finetune.compensate = True
    config.stage.finetune.trainable = (("compensation/.*", 1.0), (".*", 0.0))
    config.stage.finetune.losses = config.finetune.losses  # weights of Eq. 12: rec 1, mouth 0.5, id 0.1, depth 0.01

    before = "compensation" if size == "paper" else f"compensation-{size}"
    made_by = "configs/compensation.py" if size == "paper" else f"configs/compensation.py:{size}"
    config.init_from.update({"generator": "", "encoder": "", "run": f"runs/{before}", "made_by": made_by})
    return config.lock()
