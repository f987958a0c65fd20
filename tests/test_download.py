"""Downloads against a server on this machine: whole, resumed, changed, refused, damaged."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nofa_jax import download as module
from nofa_jax.download import download
from nofa_jax.errors import UserError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; the fields say how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"1"'
        self.ranges = True  # can it go on from a place?
        self.breaks: list[int] = []  # after how many bytes each of the next connections ends
        self.status, self.kind = 200, "application/octet-stream"
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server  # ty: ignore[incompatible-mutable-override]

    def do_GET(self) -> None:
        s = self.server
        wanted = self.headers.get("Range")
        s.asked.append(wanted)
        if s.status != 200:
            self.send_error(s.status)
            return
        start = 0
        same = self.headers.get("If-Range") in (None, s.tag)
        if wanted and s.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(s.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", s.kind)
        self.send_header("Content-Length", str(len(s.content) - start))
        if s.tag:
            self.send_header("ETag", s.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(s.content) - 1}/{len(s.content)}")
        self.end_headers()
        body = s.content[start:]
        self.wfile.write(body[: s.breaks.pop(0)] if s.breaks else body)

    def log_message(self, *args: object) -> None:  # ty: ignore[incompatible-method-override]
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as s:
        thread = threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield s
        s.shutdown()
        thread.join()


def fetch(server: Server, path: Path, **known) -> Path:
    return download(server.url, path, wait=0.0, **known)


def test_whole(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path / "new" / "file.bin", size=len(CONTENT), sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]
    assert server.asked == [None]


def test_a_broken_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000]
    path = fetch(server, tmp_path / "file.bin", sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_an_earlier_run_is_continued(server: Server, tmp_path: Path) -> None:
    """Only what can be trusted to be the same file: by its checksum, or by the server's word."""
    partial = tmp_path / "file.bin.partial"
    partial.write_bytes(CONTENT[:1000])
    fetch(server, tmp_path / "file.bin", sha256=SHA256)
    assert server.asked == ["bytes=1000-"]
    partial.write_bytes(b"something else")
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[1:] == [None]
    partial.write_bytes(CONTENT[:1000])
    (tmp_path / "file.bin.partial.etag").write_text('"0"')  # since then, the file on the server has changed
    assert fetch(server, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[2:] == ["bytes=1000-"]


def test_a_server_that_cannot_continue(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks = [100_000]
    assert fetch(server, tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT


def test_everything_was_there_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.partial").write_bytes(CONTENT)
    path = fetch(server, tmp_path / "file.bin", size=len(CONTENT), sha256=SHA256)
    assert path.read_bytes() == CONTENT
    (tmp_path / "file.bin.partial").write_bytes(CONTENT + b"more")
    assert fetch(server, path, size=len(CONTENT), sha256=SHA256).read_bytes() == CONTENT


def test_giving_up_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.breaks = [10_000] * module.ATTEMPTS
    with pytest.raises(UserError, match="50000 bytes are kept, run it again"):
        fetch(server, tmp_path / "file.bin", sha256=SHA256)
    assert not (tmp_path / "file.bin").exists()
    assert fetch(server, tmp_path / "file.bin", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "known", "reason"),
    [
        ({"status": 404}, {}, "the server answers 404"),
        ({"status": 503}, {}, "Service Unavailable"),
        ({"kind": "text/html; charset=utf-8"}, {}, "sends a web page, not the file"),
        ({}, {"size": 17}, "offers 512000 bytes, the published file has 17"),
        ({"content": CONTENT[:-1] + b"x"}, {"sha256": SHA256}, f"the published file's is {SHA256}; removed"),
    ],
)
def test_refusals(server: Server, tmp_path: Path, change: dict, known: dict, reason: str) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=reason):
        fetch(server, tmp_path / "file.bin", **known)
    assert not (tmp_path / "file.bin").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_other_addresses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "x")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/x: .*refused"):
        download("http://127.0.0.1:9/x", tmp_path / "x", wait=0.0)


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        fetch(server, tmp_path / "taken" / "file.bin")


def test_a_full_disk_is_noticed_before_it_is_full(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="no room for 512000 bytes more"):
        fetch(server, tmp_path / "file.bin")
