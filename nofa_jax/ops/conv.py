"""StyleGAN2's convolutions in NHWC: modulated, demodulated, upsampling (Karras et al. 2020, Sec. 2.2, App. B).

An upsampling convolution is a transposed convolution of stride 2 followed by the [1, 3, 3, 1] filter. Both are computed
on the four phases of the output (even and odd rows and columns), so no zeros are inserted and nothing is multiplied by
them.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.ops import winograd
from nofa_jax.ops.resample import interleave

FIR = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
_AROUND = [(1, 1), (1, 1)]  # padding by one pixel


def modulated_conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    style: Float[Array, "b i"],
    up: int = 1,
    demodulate: bool = True,
) -> Float[Array, "b y x o"]:
    """Convolution whose input channels are scaled by `style`; "same" padding; `up` is 1 or 2.

    Demodulation divides each output channel by the norm of its scaled kernel. The scales go where they cost least: into
    the kernel for one large image, else onto the activations (one shared kernel serves the whole batch).
    """
    style = style.astype(jnp.float32)
    norm = None
    if demodulate:
        taps = jnp.square(kernel.astype(jnp.float32)).reshape(-1, *kernel.shape[2:])
        energy = functools.reduce(jnp.add, taps)  # XLA's CPU takes twenty times as long for a reduction over two axes
        norm = jax.lax.rsqrt(jnp.matmul(jnp.square(style), energy, precision="highest") + 1e-8)
    if x.shape[0] == 1 and kernel[..., 0].size < x[0, ..., 0].size:
        kernel = kernel * style[0][None, None, :, None]
        if norm is not None:
            kernel = kernel * norm[0][None, None, None, :]
        return conv(x, kernel.astype(x.dtype), up)
    x = x * style[:, None, None, :].astype(x.dtype)
    y = conv(x, kernel.astype(x.dtype), up)
    return y if norm is None else y * norm[:, None, None, :].astype(x.dtype)


def conv(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], up: int = 1) -> Float[Array, "b y x o"]:
    """Correlation with "same" padding, or, with up = 2, doubling first (kernel 3x3)."""
    if up == 1:
        if not winograd.pays(x, kernel):
            return winograd.correlate_plainly(x, kernel)
        return jax.lax.platform_dependent(x, kernel, cpu=winograd.correlate, default=winograd.correlate_plainly)
    if up != 2 or kernel.shape[:2] != (3, 3):
        raise ValueError(f"conv: up {up} with a {kernel.shape[0]}x{kernel.shape[1]} kernel is not a case of StyleGAN2")
    return _smooth(_transposed_phases(x, kernel))


def pointwise(
    x: Float[Array, "b h w i"], kernel: Float[Array, "i o"], style: Float[Array, "b i"]
) -> Float[Array, "b h w o"]:
    """Modulated 1x1 convolution without demodulation (toRGB). Few outputs: the scales go into the matrix."""
    scaled = (style[:, :, None] * kernel[None]).astype(x.dtype)
    return jnp.einsum("bhwi,bio->bhwo", x, scaled)


def _transposed_phases(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> tuple[tuple[Array, ...], ...]:
    """The four phases t[2r + a, 2c + b] of the transposed convolution (stride 2, no padding, 2h + 1 by 2w + 1).

    t[2r] sees x[r] through the kernel's first row and x[r - 1] through its last: h + 1 rows. t[2r + 1] sees x[r]
    through the middle one: h rows, here with a row of zeros before and after. Columns likewise.
    """
    taps = (slice(2, None, -2), slice(1, 2))  # rows of the kernel, last first, seen by even and odd outputs
    return tuple(tuple(_phase(x, kernel[taps[a], taps[b]]) for b in range(2)) for a in range(2))


@jax.custom_vjp
def _phase(x: Array, kernel: Array) -> Array:
    """A correlation with zeros all around, whose kernel gradient is a matrix product for each tap.

    XLA's CPU convolution is 6 to 40 times slower for the kernel gradients of these small even kernels, and needs twice
    the time of a matrix product for a single tap.
    """
    if kernel.shape[:2] == (1, 1):
        return _surround(x @ kernel[0, 0])
    return winograd.correlate_plainly(x, kernel, _AROUND)


def _surround(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """With a border of zeros."""
    return jnp.pad(x, ((0, 0), *_AROUND, (0, 0)))


def _phase_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _phase(x, kernel), (x, kernel)


def _phase_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rows, columns = g.shape[1:3]
    padded = _surround(x)
    flat = g.reshape(-1, g.shape[-1])

    def tap(i: int, j: int) -> Array:
        return padded[:, i : i + rows, j : j + columns].reshape(-1, x.shape[-1]).T @ flat

    height, width = kernel.shape[:2]
    grad_kernel = jnp.stack([jnp.stack([tap(i, j) for j in range(width)]) for i in range(height)])
    _, pull_back = jax.vjp(lambda x: winograd.correlate_plainly(x, kernel, _AROUND), x)
    return pull_back(g)[0], grad_kernel.astype(kernel.dtype)


_phase.defvjp(_phase_forward, _phase_backward)


def _smooth(phases: tuple[tuple[Array, ...], ...]) -> Array:
    """The [1, 3, 3, 1] filter (gain 4, padding 1) over interleaved phases: [b, 2h, 2w, o]."""
    rows = zip(*(_filtered(phases[0][b], phases[1][b], 1) for b in range(2)), strict=True)
    return interleave(*(_filtered(even, odd, 2) for even, odd in rows))


def _filtered(even: Array, odd: Array, axis: int) -> tuple[Array, Array]:
    """Even and odd outputs of the filter along one axis: taps 1/4, 3/4, 3/4, 1/4 over odd, even, odd, even samples.

    `odd` has a zero before and after: one sample more than `even`.
    """
    size = even.shape[axis] - 1

    def cut(x: Array, start: int) -> Array:
        return jax.lax.slice_in_dim(x, start, start + size, axis=axis)

    a, b, c, d = (2 * tap for tap in FIR)
    before, here, after = (cut(odd, start) for start in range(3))
    first, second = cut(even, 0), cut(even, 1)
    return a * before + b * first + c * here + d * second, a * first + b * here + c * second + d * after


def upfirdn2d(
    x: Float[Array, "b h w c"],
    taps: Float[Array, "kh kw"],
    up: tuple[int, int] = (1, 1),
    down: tuple[int, int] = (1, 1),
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    gain: float = 1.0,
) -> Float[Array, "b y x c"]:
    """Zero insertion, padding (negative crops), convolution with `taps`, decimation; pairs are (vertical, horizontal).

    The general definition, for filters that are not on a hot path and as the reference of the phase forms above.
    """
    channels = x.shape[-1]
    kernel = jnp.broadcast_to((gain * taps[::-1, ::-1])[:, :, None, None], (*taps.shape, 1, channels)).astype(x.dtype)
    # lhs_dilation inserts zeros between pixels only; upfirdn inserts them after the last one too.
    full = [(low, high + factor - 1) for (low, high), factor in zip(padding, up, strict=True)]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        down,
        full,
        lhs_dilation=up,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
