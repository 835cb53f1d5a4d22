"""A web server on the loopback device that can misbehave, an in-memory root, and a small COCO."""

import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import simplejpeg


@dataclass
class Server:
    """Files by path, and what goes wrong with the next requests.

    Attributes:
      cuts: for each request to come, after how many body bytes the connection breaks; None: not.
      statuses: for each request to come, an answer other than the file; None: the file.
      extra_length: added to the announced size.
      asked: path and Range header of every request so far.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str = '"one"'
    cuts: list[int | None] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    extra_length: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.asked.append((self.path, wanted))
            status = server.statuses.pop(0) if server.statuses else None
            if status is None and self.path not in server.files:
                status = 404
            if status is not None:
                self.send_error(status)
                return
            data = server.files[self.path]
            total = len(data) + server.extra_length
            same = self.headers.get("If-Range", server.etag) == server.etag
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and same and server.ranges else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.send_header("ETag", server.etag)
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else None
            with suppress(ConnectionError):  # the client hangs up when it has seen enough
                self.wfile.write(data[start:] if cut is None else data[start : start + cut])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(found)) as web:
        found.url = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        web.shutdown()
        thread.join()


@pytest.fixture
def memory_root() -> Iterator[str]:
    yield "memory://prepare-tests"
    fsspec.filesystem("memory").rm("/prepare-tests", recursive=True)


@dataclass
class SmallCoco:
    """Archives of a COCO of twelve images, ids 10, 20, .., 120; the last two are not in the annotations."""

    images: bytes
    annotations: bytes
    captions: dict[int, list[tuple[int, str]]]


def zipped(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


@pytest.fixture(scope="session")
def small_coco() -> SmallCoco:
    rng = np.random.default_rng(0)
    numbers = list(range(10, 130, 10))
    pictures = {n: simplejpeg.encode_jpeg(rng.integers(0, 255, (24, 32, 3), np.uint8)) for n in numbers}
    members = {f"val2017/{n:012d}.jpg": pictures[n] for n in reversed(numbers)}
    captions = {n: [(n * 10 + k, f"caption {k} of\timage {n}\n") for k in range(5)] for n in [*numbers[:10], 999]}
    value = {
        "images": [{"id": n, "file_name": f"../../{n}.jpg"} for n in captions],
        "annotations": [
            {"id": i, "image_id": n, "caption": text} for k in (4, 0, 2, 1, 3) for n in captions
            for i, text in captions[n][k : k + 1]
        ],
    }  # fmt: skip
    annotations = zipped({"annotations/captions_val2017.json": json.dumps(value).encode()})
    return SmallCoco(zipped(members), annotations, captions)


@pytest.fixture
def place(tmp_path):
    """Writes bytes to a file below the test's folder and returns its path."""

    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write
