"""General training stage (Sec. 3.3, Eq. 7): E, G, decoder, super-resolution and D on video pairs.

    python train.py --config=configs/general.py --workdir=runs/general       the paper
    python train.py --config=configs/general.py:small --workdir=runs/small    128 pixels, embedded heads

Paper: 512² images, batch 16, Adam 1e-4, 250,000 steps on CelebV-HQ; all three stages took 4 days on 8 V100 (Sec. 4.1).
Needs, at the paper's size: CelebV-HQ packed with `python -m data_prep folder … --layout=celebvhq --tracker=deep3d
--size=512` (config.data.path) and ported EG3D, IR-SE50 (ArcFace), LPIPS.
`small` needs nothing: it makes its data.
"""

from ml_collections import ConfigDict


def get_config(size: str = "paper") -> ConfigDict:
    if size not in ("paper", "small"):
        raise ValueError(f"size is 'paper' or 'small', not {size!r}")
    config = ConfigDict()
    config.name = "general"
    config.seed = 0
    config.compile_cache = ""  # directory of compiled programs; empty: below $NOFA_CACHE; off
    config.profile = (0, 0)  # steps start <= step < stop to trace into workdir/profile

    config.mesh = ConfigDict()  # docs/scale.md
    config.mesh.fsdp = 1  # parts that parameters and optimizer state are cut into; divides the number of devices

    config.data = ConfigDict()
    config.data.path = ""  # a packed data set; empty: made from the embedded heads as described below
    config.data.head = "bfm"  # the morphable model behind alpha and beta: bfm, procedural, ict
    config.data.tracker = ""  # landmarks or deep3d; empty: deep3d with bfm, else landmarks
    config.data.ict = ""  # with head=ict: folder or npz of ICT FaceKit
    config.data.identities = 0  # the next ones describe the embedded heads to make when path is empty
    config.data.frames = 0
    config.data.seconds = 0.0  # that the frames of a clip span
    config.data.size = 512  # pixels per side of the stored images
    config.data.seed = 0  # decides the people; evaluation's regressor is trained on another one
    config.data.workers = 2
    config.data.threads = 2  # reading threads

    config.model = ConfigDict()
    config.model.source_size = 256  # E's input (e4e)
    config.model.output_size = 512
    config.model.rendering_resolution = 128  # rays per side (EG3D's final stage)
    config.model.halo = 0  # rays traced beyond the border for super-resolution's sake
    config.model.id_coeffs = 80  # alpha of the Basel Face Model as Deep3DFaceRecon uses it
    config.model.exp_coeffs = 64  # beta
    config.model.dtype = "float32"  # compute dtype: float32 or bfloat16
    config.model.encoder = ConfigDict(
        {"units": (3, 4, 14, 3), "widths": (64, 128, 256, 512), "stem_width": 64, "head_init_std": 0.1}
    )
    config.model.generator = ConfigDict(
        {"z_dim": 512, "w_dim": 512, "plane_resolution": 256, "plane_channels": 32}
        | {"channel_base": 32768, "channel_max": 512, "fine_init_std": 1.0}
    )
    config.model.compensation = ConfigDict({"channels": (512, 256, 128, 96), "hidden": 128})  # Fig. 9
    config.model.deformation = ConfigDict(
        {"depth": 6, "width": 128, "skip": 4, "weight_depth": 3, "weight_width": 64, "octaves": 7}
        | {"use_weight_net": True, "use_identity": True, "modulate": False}
    )
    config.model.renderer = ConfigDict(
        {"near": 2.25, "far": 3.3, "samples": 48, "importance_samples": 48, "white_back": False}
        | {"ray_chunk": 4096, "remat": True, "decoder_width": 64, "decoder_features": 32}
    )
    config.model.superres = ConfigDict({"channels": (256, 128), "resize": "always"})  # EG3D's 8XDC

    config.train = ConfigDict()
    config.train.steps = 250_000
    config.train.batch_size = 16  # sources
    config.train.targets_per_source = 1
    config.train.accumulate = 1  # parts of the batch taken one after the other, to save memory
    config.train.window = 0  # rays per side of the traced window; 0: whole images
    config.train.window_focus = 0.6
    config.train.learning_rate = 1e-4
    config.train.learning_rate_final = 1.0  # of the peak, reached by cosine; 1: constant
    config.train.learning_rate_warmup = 0
    config.train.adam_b2 = 0.999
    config.train.muon = ""  # parameter paths (regex) whose matrices Muon moves instead of Adam
    config.train.clip = 0.0  # bound of the gradient's norm; 0: none
    config.train.ema = 0.9993  # half life of 1,000 steps
    config.train.mouth_size = 128  # pixels per side of the mouth crop (ROI align)
    config.train.perceptual = "lpips-vgg"  # or lpips-alex, laplacian-pyramid (a stand-in without weights)
    config.train.identity = "arcface-irse50"  # or lowpass-cosine (a stand-in without weights)
    config.train.stand_ins = False  # may these two be replaced, with a line in the log, where weights are missing?
    config.train.checkpoint_every = 5_000
    config.train.log_every = 100
    config.train.preview_every = 1_000
    config.train.keep = 3  # newest checkpoints
    config.train.keep_best = True  # and the one with the best PSNR on the preview's held-out pairs
    config.train.skip_nonfinite = 0  # steps with a loss or gradient that is not finite to leave out before stopping

    config.warm_start = ConfigDict()  # of D on the morphable model; ours, off in the paper. Not where a run goes on
    config.warm_start.steps = 0
    config.warm_start.encoder_batches = 0  # photos / 16 to set a random encoder's batch-norm statistics with
    config.warm_start.heads = 64  # examples of (alpha, beta) a step
    config.warm_start.points = 64
    config.warm_start.vertices = 2_000
    config.warm_start.reach = 0.05  # world units: how far from the surface points move with it
    config.warm_start.id_scale = 0.8
    config.warm_start.learning_rate = 5e-3

    # Stages run in this order within `train.steps`, each to its share of them.
    config.stages = ("general",)
    config.stage = ConfigDict()
    config.stage.general = ConfigDict()
    config.stage.general.until = 1.0
    config.stage.general.self_supervised = False
    config.stage.general.compensate = False
    config.stage.general.trainable = (  # (parameter paths, factor of the learning rate); the first match decides
        ("generator/mapping/.*", 0.0),  # E replaces it
        ("compensation/.*", 0.0),  # "we train the base model without the compensation branch"
        (".*", 1.0),  # the paper does not say whether G is fine-tuned here; e2e training is its wording, so it is
    )
    config.stage.general.losses = ConfigDict(  # weights of Eq. 7: rec 1, mouth 0.5, id 0.1, latent 0.01
        {"l2": 1.0, "lpips": 1.0, "mouth_l2": 0.5, "mouth_lpips": 0.5, "id": 0.1, "latent": 0.01}
    )

    config.finetune = ConfigDict()  # one-shot fine-tuning of C on a photo, by eval.py and reenact
    config.finetune.steps = 100  # at most; `--finetune_steps=N` does exactly N
    config.finetune.seconds = 600.0  # at most, compilation included; the paper's 10 minutes. 0: any number
    config.finetune.check_every = 20  # steps from one look at held-out views to the next; 0: never, no early end
    config.finetune.patience = 3  # looks without improvement before it ends
    config.finetune.learning_rate = 1e-4
    config.finetune.losses = ConfigDict(  # weights of Eq. 12: rec 1, mouth 0.5, id 0.1, depth 0.01
        {"l2": 1.0, "lpips": 1.0, "mouth_l2": 0.5, "mouth_lpips": 0.5, "id": 0.1, "depth": 0.01}
    )

    # Where the parts start from: ported weights, see `python -m nofa_jax weights`. Empty: random. `run`: the workdir of
    # an earlier run instead, all of it; `made_by` is the config that makes one, for the message where it is missing.
    config.init_from = ConfigDict({"generator": "eg3d", "encoder": "ir_se50", "run": "", "made_by": ""})

    if size == "small":
        make_small(config)
    return config.lock()


def make_small(config: ConfigDict) -> None:
    """The same stage at 128 pixels on embedded heads. Its steps are what 45 minutes on two CPU cores allow."""
    config.name = "general-small"
    config.data.update({"head": "procedural", "identities": 1_000, "frames": 8, "seconds": 6.0, "size": 128})
    config.model.update({"source_size": 128, "output_size": 128, "rendering_resolution": 64})
    config.model.update({"halo": 1, "id_coeffs": 0, "exp_coeffs": 0})  # 0: those of the data set's head
    config.model.encoder.update({"units": (1, 2, 2, 1), "widths": (16, 32, 64, 96), "stem_width": 16})
    config.model.encoder.head_init_std = 2.0  # no pretrained G to stay close to
    config.model.generator.update({"z_dim": 96, "w_dim": 96, "plane_resolution": 128, "plane_channels": 16})
    config.model.generator.update({"channel_base": 4096, "channel_max": 96, "fine_init_std": 0.1})
    config.model.compensation.update({"channels": (96, 64, 48, 48), "hidden": 32})
    config.model.deformation.update({"depth": 3, "width": 64, "skip": 0, "weight_depth": 2, "weight_width": 32})
    config.model.deformation.update({"octaves": 5, "modulate": True})
    config.model.renderer.update({"near": 2.42, "far": 3.1, "samples": 20, "importance_samples": 0})
    config.model.renderer.update({"white_back": True, "ray_chunk": 0, "remat": False, "decoder_width": 32})
    config.model.renderer.decoder_features = 16
    config.model.superres.update({"channels": (32, 24), "resize": "never"})
    config.train.update({"steps": 1_500, "batch_size": 6, "targets_per_source": 1, "window": 40, "window_focus": 0.4})
    config.train.update({"learning_rate": 4e-3, "learning_rate_final": 0.05, "learning_rate_warmup": 50})
    config.train.update(
        {
            "muon": "(encoder|generator|renderer|superres)/.*",
            "adam_b2": 0.99,
            "clip": 1.0,
            "ema": 0.995,
            "mouth_size": 32,
        }
    )
    config.train.update({"perceptual": "lpips-alex", "identity": "arcface-irse50", "stand_ins": True})
    config.train.update({"checkpoint_every": 500, "log_every": 20, "preview_every": 500})
    config.warm_start.update({"steps": 2_000, "encoder_batches": 40})
    config.stage.general.trainable = (
        ("generator/mapping/.*", 0.0),
        ("compensation/.*", 0.0),
        ("deformation/.*", 0.02),  # it starts from the morphable model; at 0.2 it lost the eyes (docs/training.md)
        (
            "(generator|renderer|superres)/.*|encoder/heads_.*/weight",
            4.0,
        ),  # equalised layers: weights of size one, so steps must be larger
        (".*", 1.0),
    )
    # Ours, beside the paper's terms: on a white background an unsupervised volume makes pale skin of transparency.
    config.stage.general.losses = ConfigDict(
        {"l2": 6.0, "lpips": 0.3, "mouth_l2": 1.0, "mouth_lpips": 0.15, "id": 0.1, "latent": 0.0002}
        | {"raw_l2": 2.0, "mask": 1.0}
    )
    config.finetune.learning_rate = 4e-3
    config.finetune.losses.update({"l2": 4.0, "lpips": 0.5})
    config.init_from.update({"generator": "", "encoder": ""})
