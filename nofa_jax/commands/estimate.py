"""What a training run takes, without running it: parameters, FLOPs, memory of each device, checkpoint, hours.

Nothing is allocated and no weights or data are needed. FLOPs come from the traced program. Memory comes from compiling
it for the CPU, which takes minutes at the paper's size (--no_compile leaves it out); other backends fuse differently,
so take it as a guide. docs/scale.md holds the paper's run.
"""

import argparse

EXAMPLE = "nofa estimate --config=configs/general.py --devices=8 --tflops=100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file, or FILE:ARGUMENT")
    parser.add_argument("--devices", type=int, default=1, help="over which the batch is shared (default 1)")
    parser.add_argument("--tflops", type=float, default=100.0, help="1e12 FLOP/s that a device sustains (default 100)")
    parser.add_argument("--fsdp", type=int, help="parts of the state, for config.mesh.fsdp")
    parser.add_argument("--batch_size", type=int, help="for config.train.batch_size")
    parser.add_argument("--accumulate", type=int, help="for config.train.accumulate")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="for config.model.dtype")
    parser.add_argument("--no_compile", action="store_true", help="leave the memory out, which takes a compilation")


def run(args: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # shapes only: leave accelerators to those who compute

    from nofa_jax.cli import load_config
    from nofa_jax.train.estimate import estimate

    config = load_config(args.config).unlock()
    if args.fsdp is not None:
        config.mesh.fsdp = args.fsdp
    for name in ("batch_size", "accumulate"):
        if getattr(args, name) is not None:
            config.train[name] = getattr(args, name)
    config.model.dtype = args.dtype or config.model.dtype
    stages = estimate(config.lock(), args.devices, compiled=not args.no_compile)
    for stage in stages:
        gigabytes = {
            "state": stage.state_bytes,
            "loss networks and batch": stage.input_bytes,
            "temporaries": stage.temporary_bytes,
        }
        memory = "not compiled"
        if stage.memory_bytes is not None:
            parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in gigabytes.items() if size is not None)
            memory = f"{stage.memory_bytes / 1e9:.2f} GB ({parts})"
        rows = {
            "parameters": f"{stage.parameters / 1e6:.1f} M, trained {stage.trained / 1e6:.1f} M; "
            f"frozen networks of the losses {stage.networks / 1e6:.1f} M",
            "a step": f"{stage.flops / 1e12:.3g} TFLOP for a batch of {stage.batch_size}",
            "memory per device": memory,
            "checkpoint": f"{stage.checkpoint_bytes / 1e9:.2f} GB",
            "time": f"{stage.hours(args.tflops):.3g} hours for {stage.steps:,} steps on {args.devices} device(s) at "
            f"{args.tflops:g} TFLOP/s each",
        }
        print(f"{config.name}, stage {stage.name}")
        print("\n".join(f"    {name + ':':<19}{text}" for name, text in rows.items()))
    if len(stages) > 1:
        print(f"all stages: {sum(stage.hours(args.tflops) for stage in stages):.3g} hours")
