"""Every numeric tolerance of the test suite, each with its reason."""

# Single operations and maths in float32 on CPU against numpy or float64: a few roundings of numbers near one.
OPS_RTOL = 1e-5
OPS_ATOL = 1e-5

# Whole float32 networks against the float64 reference: sums over thousands of terms per output.
NET_RTOL = 1e-3
NET_ATOL = 1e-4

# Metrics against their reference implementation, relative.
METRIC_RTOL = 1e-5

# The same where the reference's own float32 run stays below 1e-5 of the array's range: ten times tighter; ATOL is a
# fraction of the reference's largest absolute value.
NET_TIGHT_RTOL = 1e-4
NET_TIGHT_ATOL = 1e-5

# EG3D parity: largest difference over the array's range, in multiples of the original's own float32-vs-float64 error on
# that array. 4: another order of summation and polyphase filters double the roundings at most, and maxima scatter.
GOLDEN_FACTOR = 4.0
# Where that error is (nearly) zero: a few float32 roundings (6e-8 each) of the largest value.
GOLDEN_FLOOR = 2e-6

# Cosines of embeddings in float32 against the float64 reference.
COSINE_ATOL = 1e-6

# Relative L2 of float32 gradients through whole rectifier networks: rounding moves single activations across a kink,
# and one in a late layer touches every pixel (ArcFace IR-SE50: 2.8e-3 in float32, 2.7e-7 with the same code in
# float64).
GRADIENT_RELATIVE_L2 = 1e-2

# The same row alone or in a batch, float32: XLA may order the sums differently.
BATCH_ATOL = 1e-5

# bfloat16 against float32, relative L2, untrained toy networks of ten to twenty layers (measured: 0.3 to 1 %).
BF16_RELATIVE_L2 = 0.03

# LPIPS distances in float32 against float64, relative (the reference's own float32 run: up to 2e-7).
LPIPS_RTOL = 1e-5
# LPIPS gradients, relative L2 error: ten times that of the reference's own float32 run. At 256 pixels rounding flips
# winners of VGG's max-pools, which moves single numbers by percents.
LPIPS_GRAD_RL2 = {"vgg_grad0": 3e-5, "alex_grad0": 7e-5, "vgg_grad2": 1.8e-2, "alex_grad2": 4.3e-5}
# LPIPS distances with a bfloat16 trunk, relative (measured 1.1e-3 at most; the format rounds to 4e-3).
LPIPS_BF16_RTOL = 1e-2

# ROI align of a 128-pixel image in [-1, 1], absolute: float32 rounds the sample positions (torchvision's own float32:
# 5e-6 in value; 2e-5 in gradient, whose values reach about 1).
ROI_MOUTH_ATOL = 2e-5
ROI_MOUTH_GRAD_ATOL = 5e-5

# Gradients of losses in float64 against central differences (step 1e-6): the truncation and cancellation of the latter.
FINITE_RTOL = 1e-5
FINITE_ATOL = 1e-9

# A bfloat16 block against the float32 one, of the largest value: 8 bits of mantissa (0.4 %) through a dozen roundings.
BFLOAT16_REL = 0.05

# SSIM against an implementation whose Gaussian window is rounded to float32 (differs from the exact one by 1.2e-5).
SSIM_FLOAT32_WINDOW_RTOL = 2e-5
# Frechet distance near zero, absolute: the reference's non-symmetric formula gives -5.5e-6 for a set and itself.
FID_ATOL = 1e-5

# Grey levels of 255 after TensorFlow 1's resize, against the official float32 run: a few float32 roundings of 255.
TF1_RESIZE_ATOL = 2e-4

# 1 - cosine of embeddings through `nofa port run`, float32 against float64 (measured 8e-13 at most).
PORT_RUN_COSINE = 1e-11

# Gradients of float32 networks with kinks against central differences (step 1e-3 of the input), relative.
DIFFERENCES_RTOL = 3e-2
