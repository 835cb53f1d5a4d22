"""Google's side of a submission, on one port of loopback: Cloud Storage's JSON API, and Dataflow's v1b3.

Objects have generations and their conditions, so that a root can lie here. A job is recorded as it came; what becomes
of it is up to the test: `created` is called with it in a thread of its own, `answering` before its creation is
answered.
"""

import base64
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

STATES = ("UNKNOWN", "STOPPED", "RUNNING", "DONE", "FAILED", "CANCELLED")
"""By the numbers that Dataflow's client sends; each is a JOB_STATE_..."""

ERROR = 4
"""JOB_MESSAGE_ERROR, likewise."""


@dataclass(frozen=True)
class Stored:
    """An object."""

    data: bytes
    generation: int
    described: dict[str, Any]
    written: str

    @property
    def crc32c(self) -> str:
        """As Cloud Storage writes it; a client that is told another one downloads again."""
        return base64.b64encode(google_crc32c.Checksum(self.data).digest()).decode()


@dataclass
class Job:
    """A job as it was created, and what is known of it since."""

    id: str
    created: dict[str, Any]
    state: str = "JOB_STATE_PENDING"
    messages: list[str] = field(default_factory=list)

    def end(self, state: str, *messages: str) -> None:
        """Its last state, and errors that its workers reported; one that has ended stays as it is."""
        if self.state in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
            self.messages += messages
            self.state = f"JOB_STATE_{state}"

    @property
    def pool(self) -> dict[str, Any]:
        """Its only worker pool."""
        [pool] = self.created["environment"]["workerPools"]
        return dict(pool)

    @property
    def options(self) -> dict[str, Any]:
        """Beam's options, as workers are given them."""
        return dict(self.created["environment"]["sdkPipelineOptions"]["options"])


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """An answer other than 200."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


class Google:
    """Buckets and jobs; use as a context."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Stored] = {}
        self.jobs: list[Job] = []
        self.asked: list[tuple[str, str]] = []
        self.created: Callable[[Job], None] = lambda job: job.end("DONE")
        self.answering: Callable[[Job], None] = lambda job: None
        self._uploads: dict[str, tuple[str, dict[str, Any], dict[str, str], bytearray]] = {}
        self._generations = itertools.count(1)
        self._one = threading.Lock()
        google = self

        class Handler(_Handler):
            side = google

        self._server = _Server(("localhost", 0), Handler)
        self.url = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> "Google":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __getitem__(self, url: str) -> bytes:
        """The bytes of `gs://bucket/name`."""
        bucket, _, name = url.removeprefix("gs://").partition("/")
        return self.objects[bucket, name].data

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        parts = urlsplit(target)
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        with self._one:
            self.asked.append((method, parts.path))
            for pattern, handle in _ROUTES:
                if found := re.fullmatch(pattern, parts.path):
                    names = [unquote(name) if name is not None else None for name in found.groups()]
                    return handle(self, method, names, asked, headers, body)
        raise Refused(501, f"not here: {method} {target}")

    # -- Cloud Storage ------------------------------------------------------------------------------------------------

    def upload(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """In one request of two parts, or piece by piece."""
        [bucket] = names
        if "upload_id" in asked:
            return self._piece(asked["upload_id"], headers.get("Content-Range", ""), body)
        if asked["uploadType"] == "resumable":
            described = json.loads(body or b"{}")
            described.setdefault("name", asked.get("name"))
            key = str(next(self._generations))
            self._uploads[key] = (bucket, described, asked, bytearray())
            location = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
            return 200, {"Location": location}, b"{}"
        mark = re.search(r"boundary=[\"']?([^\"';]+)", headers["Content-Type"])
        assert mark is not None
        first, second = body.split(b"--" + mark[1].encode())[1:3]
        end = b"\r\n" if first.startswith(b"\r\n") else b"\n"  # libraries differ
        described = json.loads(first.partition(end * 2)[2])
        data = second.partition(end * 2)[2].removesuffix(end)
        described.setdefault("name", asked.get("name"))
        return self._store(bucket, described, data, asked)

    def _piece(self, key: str, spread: str, body: bytes) -> Any:
        bucket, described, asked, held = self._uploads[key]
        held += body
        if spread.endswith("/*"):
            return 308, {"Range": f"bytes=0-{len(held) - 1}"}, b""
        return self._store(bucket, described, bytes(held), asked)

    def _store(self, bucket: str, described: dict[str, Any], data: bytes, asked: dict[str, str]) -> Any:
        key = (bucket, described["name"])
        self._check(key, asked)
        self.objects[key] = Stored(data, next(self._generations), described, _now())
        return self._said(key)

    def _check(self, key: tuple[str, str], asked: dict[str, str]) -> None:
        wanted = asked.get("ifGenerationMatch")
        held = self.objects[key].generation if key in self.objects else 0
        if wanted is not None and int(wanted) != held:
            raise Refused(412, "conditionNotMet")

    def thing(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """One object: its bytes, what is known of it, or its end."""
        key = (names[0], names[1])
        if key not in self.objects:
            raise Refused(404, f"no such object: {names}")
        if method == "DELETE":
            self._check(key, asked)
            del self.objects[key]
            return 204, {}, b""
        if asked.get("alt") != "media":
            return self._said(key)
        stored = self.objects[key]
        known = {"X-Goog-Generation": str(stored.generation), "X-Goog-Hash": f"crc32c={stored.crc32c}"}
        spread = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if spread is None:
            return 200, known, stored.data
        begin, end = int(spread[1]), min(int(spread[2] or len(stored.data)), len(stored.data) - 1)
        if begin > end:
            raise Refused(416)
        known["Content-Range"] = f"bytes {begin}-{end}/{len(stored.data)}"
        return 206, known, stored.data[begin : end + 1]

    def copy(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """From one name to another."""
        source, target = (names[0], names[1]), (names[2], names[3])
        if source not in self.objects:
            raise Refused(404, f"no such object: {source}")
        self._check(target, asked)
        held = self.objects[source]
        self.objects[target] = Stored(held.data, next(self._generations), held.described, _now())
        size = str(len(held.data))
        said = {"done": True, "resource": self._known(target), "totalBytesRewritten": size, "objectSize": size}
        return 200, {}, json.dumps(said).encode()

    def listing(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """Objects below a prefix, and folders where a delimiter makes some."""
        prefix, mark = asked.get("prefix", ""), asked.get("delimiter")
        keys = sorted(key for key in self.objects if key[0] == names[0] and key[1].startswith(prefix))
        folders = {prefix + key[1][len(prefix) :].partition(mark)[0] + mark for key in keys if mark}
        folders &= {key[1][: len(folder)] for key in keys for folder in folders if key[1].startswith(folder)}
        items = [self._known(key) for key in keys if not any(key[1].startswith(folder) for folder in folders)]
        return 200, {}, json.dumps({"items": items, "prefixes": sorted(folders)}).encode()

    def bucket(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """Every bucket is there."""
        return 200, {}, json.dumps({"name": names[0], "id": names[0], "projectNumber": "1", "location": "US"}).encode()

    def _said(self, key: tuple[str, str]) -> Any:
        return 200, {}, json.dumps(self._known(key)).encode()

    def _known(self, key: tuple[str, str]) -> dict[str, Any]:
        stored = self.objects[key]
        return {
            "kind": "storage#object",
            "bucket": key[0],
            "name": key[1],
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "crc32c": stored.crc32c,
            "etag": str(stored.generation),
            "metadata": stored.described.get("metadata", {}),
            "timeCreated": stored.written,
            "updated": stored.written,
        }

    # -- Dataflow -----------------------------------------------------------------------------------------------------

    def job_list(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """Creates one, or lists them."""
        if method == "GET":
            found = [
                self._shown(job) for job in self.jobs if asked.get("name", job.created["name"]) == job.created["name"]
            ]
            return 200, {}, json.dumps({"jobs": found}).encode()
        job = Job(f"2026-{len(self.jobs) + 1}", json.loads(body))
        self.jobs.append(job)
        answer = json.dumps(self._shown(job)).encode()
        threading.Thread(target=self.created, args=(job,), daemon=True).start()
        return 200, {}, answer

    def job(self, method: str, names: list[Any], asked: dict[str, str], headers: Any, body: bytes) -> Any:
        """One job, its messages, its metrics; PUT asks for another state."""
        job = next((job for job in self.jobs if job.id == names[2]), None)
        if job is None:
            raise Refused(404, f"no such job: {names}")
        if names[3] == "/messages":
            said = [
                {"id": str(i), "time": f"2026-01-01T00:00:{i:02d}Z", "messageText": text, "messageImportance": ERROR}
                for i, text in enumerate(job.messages)
            ]
            return 200, {}, json.dumps({"jobMessages": said}).encode()
        if names[3] == "/metrics":
            return 200, {}, b'{"metrics": []}'
        if method == "PUT":
            job.end(STATES[int(json.loads(body)["requestedState"])])
        elif job.state == "JOB_STATE_PENDING":
            job.state = "JOB_STATE_RUNNING"
        return 200, {}, json.dumps(self._shown(job)).encode()

    def _shown(self, job: Job) -> dict[str, Any]:
        kept = {name: job.created[name] for name in ("name", "type", "clientRequestId") if name in job.created}
        return {**kept, "id": job.id, "projectId": "p-1", "currentState": job.state}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_ROUTES = (
    (r"/upload/storage/v1/b/([^/]+)/o", Google.upload),
    (r"/storage/v1/b/([^/]+)/o/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", Google.copy),
    (r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", Google.thing),
    (r"/storage/v1/b/([^/]+)/o/?", Google.listing),
    (r"/storage/v1/b/([^/]+)", Google.bucket),
    (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs", Google.job_list),
    (r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+)(/\w+)?", Google.job),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A process that ends leaves its connections open: no error; any other one is answered, and so seen."""


class _Handler(BaseHTTPRequestHandler):
    """Reads requests, in chunks too; keeps connections open."""

    protocol_version = "HTTP/1.1"
    side: Google

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        try:
            status, headers, body = self.side.answer(self.command, self.path, self.headers, self._body())
            if self.command == "POST" and self.path.partition("?")[0].endswith("/jobs"):
                self.side.answering(self.side.jobs[-1])
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and fails
            refused = error if isinstance(error, Refused) else Refused(501, repr(error))
            said = {"error": {"code": refused.status, "message": str(refused)}}
            status, headers, body = refused.status, {}, json.dumps(said).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # whoever reads a tar closes it at its end, and not at that of the file
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        read = bytearray()
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(read)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any


def wait_for(true: Callable[[], object], *, within_s: float = 120.0) -> None:
    """Until something holds; an AssertionError after a while."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(0.05)
