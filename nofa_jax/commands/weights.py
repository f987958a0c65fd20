"""The external weights that NOFA can use: what for, where from, under which licence, and whether they are here.

    nofa weights                  all of them
    nofa weights fetch NAME       downloads one, or says what to do where that needs your consent or a browser

Nothing is downloaded unless you ask. Files go to $NOFA_WEIGHTS, or to the cache ($NOFA_CACHE, ~/.cache/nofa_jax).
"""

import argparse

from nofa_jax.errors import UserError

EXAMPLE = "nofa weights fetch inception"
USAGE = "nofa weights\n       nofa weights fetch NAME [--url=URL]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    parser.add_argument("words", nargs="*", metavar="fetch NAME", help="download one of them")
    parser.add_argument("--url", metavar="URL", help="mirror to fetch from; size and checksum are checked all the same")


def run(args: argparse.Namespace) -> None:
    from nofa_jax.weights import WEIGHTS

    if not args.words:
        for name in WEIGHTS:
            print("\n".join(describe(name)))
        return
    if args.words[0] != "fetch" or len(args.words) != 2:
        raise UserError(f"wanted `fetch NAME`, got {' '.join(args.words)!r} (see nofa weights --help)")
    fetch(args.words[1], args.url)


def describe(name: str) -> list[str]:
    """Everything about one file, a line each."""
    from nofa_jax.weights import WEIGHTS, find, published_path, weight_path

    entry, path = WEIGHTS[name], find(name)
    heads = name.endswith("-heads")  # used while porting only
    published = published_path(name).is_file()
    if path is not None:
        state = f"here: {path}"
    elif published:
        state = f"here: {published_path(name)}" + ("" if heads else ", to be ported")
    else:
        state = "not here"
    size = "size not published" if entry.size is None else f"{entry.size} bytes ({entry.size / 1e6:.1f} MB)"
    commercial = {True: "yes", False: "no", None: "the licence does not say"}[entry.commercial_use]
    rows = {
        "for": f"{entry.used_for}",
        "needed by": entry.needed_by,
        "file": f"{entry.source}, {size}",
        "from": entry.url + ("" if entry.download else " (by hand)"),
        "sha256": entry.sha256 or "not published",
        "licence": f"{entry.licence}; commercial use: {commercial}",
        "looked for": str(published_path(name) if heads else weight_path(name)),
    }
    return [f"{name}: {state}", *(f"    {key + ':':<12}{text}" for key, text in rows.items())]


def fetch(name: str, url: str | None = None) -> None:
    """Downloads a file, or prints what to do; then the command that ports it."""
    from nofa_jax.download import download
    from nofa_jax.progress import log
    from nofa_jax.weights import port_command, published_path, weight

    entry, path = weight(name), published_path(name)
    log(f"{entry.source}: {entry.licence}")
    if not (entry.download or url):
        log(f"This file cannot be fetched for you. {entry.url}")
        log(f"  1. {entry.how}: {path}")
    elif path.is_file():
        log(f"{path} is here already")
    else:
        download(url or entry.url, path, entry.size, entry.sha256)
        log(f"{path}: {path.stat().st_size} bytes, sha256 {'as' if entry.sha256 else 'not'} published")
    if entry.kind and not name.endswith("-heads"):
        if entry.heads and not published_path(entry.heads).is_file():
            log(f"next: nofa weights fetch {entry.heads}")
        log(f"{'  2.' if not (entry.download or url) else 'then:'} {port_command(name)}")
