"""Every numeric tolerance of the test suite, each with its reason."""

# Single operations and maths in float32 on CPU against numpy or float64: a few roundings of numbers near one.
OPS_RTOL = 1e-5
OPS_ATOL = 1e-5

# Whole float32 networks against the float64 reference: sums over thousands of terms per output.
NET_RTOL = 1e-3
NET_ATOL = 1e-4

# Metrics against their reference implementation, relative.
METRIC_RTOL = 1e-5
