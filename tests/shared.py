"""Where tests find the parity data and media that are not part of the repository."""

import os
from pathlib import Path

import pytest


def shared_path(relative: str) -> Path:
    """Path below $NOFA_SHARED; skips the calling test when the variable is unset, fails when CI demands it."""
    root = os.environ.get("NOFA_SHARED")
    if not root:
        if os.environ.get("NOFA_REQUIRE_SHARED") == "1":
            pytest.fail("NOFA_REQUIRE_SHARED=1 but NOFA_SHARED is not set")
        pytest.skip("NOFA_SHARED is not set: the parity data and test media are not part of the repository")
    path = Path(root) / relative
    if not path.exists():
        pytest.fail(f"NOFA_SHARED is set but {path} does not exist")
    return path
