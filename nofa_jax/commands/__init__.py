"""Subcommands of `nofa`, one module each; the table is in nofa_jax/__main__.py."""
