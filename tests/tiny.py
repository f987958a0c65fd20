"""`--config=tests/tiny.py`: the quickstart, small enough to train in a test."""

from ml_collections import ConfigDict

from tests.fakes import tiny_config


def get_config() -> ConfigDict:
    return tiny_config()
