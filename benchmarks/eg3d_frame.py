"""Time of one full-size EG3D frame, stage by stage: ws -> planes -> 128² rays of 48 + 48 samples -> 512² image.

    python benchmarks/eg3d_frame.py [--repeats=5] [--dtype=bfloat16] [--ray_chunk=0]

Random weights (the time does not depend on them), one frame, compiled and warm. Wall time is the best of the repeats;
CPU time is that of all threads and tells more on a busy machine. The first lines say what the machine computes in a
second of it: a stage's arithmetic over that is its floor. Peak memory is the process's, compilation included.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parents[1]))

from nofa_jax.models.eg3d import EG3D
from nofa_jax.models.generator import Generator
from nofa_jax.models.renderer import Decoder, VolumeRenderer
from nofa_jax.models.superres import SuperResolution
from nofa_jax.rendering import camera


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--ray_chunk", type=int, default=1024, help="rays traced at a time; 0: all")
    args = parser.parse_args()

    model = paper_size(jnp.dtype(args.dtype), args.ray_chunk)
    ws = jax.random.normal(jax.random.key(0), (1, model.generator.num_ws, model.generator.w_dim))
    label = camera.join_label(camera.look_at(0.3, 0.1), camera.fov_to_intrinsics(camera.EG3D_FOV_DEG)[None])
    small = model.clone(rendering_resolution=8)  # no variable depends on it
    variables = jax.jit(small.init)(jax.random.key(1), ws, label)

    def part(name: str) -> dict:
        return {collection: tree[name] for collection, tree in variables.items() if name in tree}

    rays = camera.make_rays(*camera.split_label(label), model.rendering_resolution)
    print(f"{jax.devices()[0].device_kind}, {args.dtype}, jax {jax.__version__}")
    print_speed()
    print(f"{'stage':18} {'wall':>8} {'cpu':>8} {'compile':>8} {'peak so far':>12}")
    planes = measure("planes", args.repeats, model.generator.apply, part("generator"), ws).planes
    rendered = measure("volume rendering", args.repeats, model.renderer.apply, part("renderer"), planes, rays)
    image = rendered.features.reshape(1, model.rendering_resolution, model.rendering_resolution, -1)
    measure("super-resolution", args.repeats, model.superres.apply, part("superres"), image, ws)
    measure("frame", args.repeats, model.apply, variables, ws, label)


def paper_size(dtype: jnp.dtype, ray_chunk: int) -> EG3D:
    """ffhqrebalanced512-128."""
    return EG3D(
        generator=Generator(dtype=dtype),
        renderer=VolumeRenderer(Decoder(dtype=dtype), ray_chunk=ray_chunk),
        superres=SuperResolution(dtype=dtype),
    )


def print_speed() -> None:
    """Of a large matrix product and of a convolution as in super-resolution, in float32."""
    square, image, kernel = jnp.ones((2048, 2048)), jnp.ones((1, 128, 128, 256)), jnp.ones((3, 3, 256, 256))

    def conv(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    for name, function, args, operations in (
        ("matrix product", jnp.matmul, (square, square), 2 * 2048**3),
        ("convolution", conv, (image, kernel), 2 * 128**2 * kernel.size),
    ):
        compiled, cpus = jax.jit(function), []
        jax.block_until_ready(compiled(*args))
        for _ in range(5):
            cpu = time.process_time()
            jax.block_until_ready(compiled(*args))
            cpus.append(time.process_time() - cpu)
        print(f"{name}: {operations / min(cpus) / 1e9:.0f} GFLOP in a CPU second")


def measure(name: str, repeats: int, function: Callable, *args):
    """Prints one row and returns the function's result."""
    compiled = jax.jit(function)
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    compile_s = time.perf_counter() - start
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(compiled(*args))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:18} {min(walls):7.2f}s {min(cpus):7.2f}s {compile_s:7.1f}s {peak:9.2f} GiB", flush=True)
    return result


if __name__ == "__main__":
    main()
