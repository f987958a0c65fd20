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
