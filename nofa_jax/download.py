"""Downloads of large files over HTTP: resumed after an interruption, checked, and in place only when complete."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from nofa_jax import __version__
from nofa_jax.errors import UserError
from nofa_jax.progress import Progress, log

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5
BLOCK = 1 << 18
_PASSING = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def download(url: str, path: str | Path, size: int | None = None, sha256: str = "", wait: float = 2.0) -> Path:
    """The file at `url`, as `path`.

    What an interrupted download left (`path`.partial) is continued where the server can do that and the result can be
    trusted: its checksum is known, or the server says that the file has not changed since. `wait` seconds, doubled each
    time, lie between attempts.

    Raises:
      UserError: the server refuses, offers something else (a web page, another size), or the checksum is wrong; the
        disk is full; it is interrupted again and again.
    """
    path = Path(path)
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http and https are downloaded")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            try:
                _fetch(url, partial, size, bool(sha256))
                break
            except _PASSING as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
                if attempt == ATTEMPTS - 1:
                    kept = f"; {partial.stat().st_size} bytes are kept, run it again" if partial.exists() else ""
                    raise UserError(f"{url}: {getattr(error, 'reason', None) or error!r}{kept}") from error
                log(f"interrupted ({getattr(error, 'reason', None) or error!r}); trying again")
                time.sleep(wait * 2**attempt)
        _check(partial, url, size, sha256)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    _tag_file(partial).unlink(missing_ok=True)
    return path


def _tag_file(partial: Path) -> Path:
    """Holds what the server calls the version of the file that is being downloaded."""
    return partial.with_name(partial.name + ".etag")


def _fetch(url: str, partial: Path, size: int | None, checked: bool) -> None:
    """One attempt: writes `partial` from its end, or from the beginning."""
    start, headers = _resume(partial, checked)
    request = urllib.request.Request(url, headers={"User-Agent": f"nofa_jax/{__version__}", **headers})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies behind what we have
            raise
        if size is None or start != size:
            partial.unlink()  # it is not this file's beginning
            raise ConnectionError("what was there does not belong to this file") from error
        return
    with answer:
        start = start if answer.status == 206 and _continues(answer.headers, start) else 0
        total = _length(answer.headers, start, url, size)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        _tag_file(partial).write_text(tag)
        if total is not None and total - start > shutil.disk_usage(partial.parent).free:
            raise UserError(f"{partial.parent}: no room for {total - start} bytes more")
        _copy(answer, partial, start, total, size)


def _resume(partial: Path, checked: bool) -> tuple[int, dict[str, str]]:
    """Where to go on, and the headers that ask for it."""
    if not partial.is_file() or not partial.stat().st_size:
        return 0, {}
    tag = _tag_file(partial).read_text() if _tag_file(partial).is_file() else ""
    if tag and not tag.startswith("W/"):
        return partial.stat().st_size, {"Range": f"bytes={partial.stat().st_size}-", "If-Range": tag}
    return (partial.stat().st_size, {"Range": f"bytes={partial.stat().st_size}-"}) if checked else (0, {})


def _continues(headers: Any, start: int) -> bool:
    return bool(re.match(rf"bytes {start}-", headers.get("Content-Range", "")))


def _length(headers: Any, start: int, url: str, size: int | None) -> int | None:
    """Bytes of the whole file, where the server says it."""
    if headers.get_content_type() == "text/html":
        raise UserError(f"{url}: the server sends a web page, not the file (it may want a login or consent)")
    text = headers.get("Content-Length", "")
    total = start + int(text) if text.isdigit() else None
    if size is not None and total is not None and total != size:
        raise UserError(f"{url}: the server offers {total} bytes, the published file has {size}")
    return total


def _copy(answer: Any, partial: Path, start: int, total: int | None, size: int | None) -> None:
    with partial.open("r+b" if start else "wb") as file, Progress(total or size, "downloading", start) as progress:
        file.seek(start)
        file.truncate()
        while block := answer.read(BLOCK):
            file.write(block)
            progress.update(len(block))
            if size is not None and file.tell() > size:
                raise UserError(f"{partial}: the server sends more than the published {size} bytes")
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() != total:
            raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")


def _check(partial: Path, url: str, size: int | None, sha256: str) -> None:
    """Removes the file and raises UserError when it is not the published one."""
    found = partial.stat().st_size
    if size is not None and found != size:
        partial.unlink()
        raise UserError(f"{url}: {found} bytes came, the published file has {size}")
    if not sha256:
        return
    digest = hashlib.sha256()
    with partial.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != sha256:
        partial.unlink()
        raise UserError(f"{url}: its sha256 is {digest.hexdigest()}, the published file's is {sha256}; removed")
