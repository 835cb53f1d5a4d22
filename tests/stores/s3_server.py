"""An S3 server for tests: moto behind a wrapper that counts requests and fails as real stores do, on request.

Run as a script; prints its port. One request is answered after the other: moto looks and writes in two steps, S3 does
both in one.
Control: GET /-/counts, POST /-/faults (a JSON list, see `Wrapper`).
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'


class Wrapper:
    """Faults are dictionaries: `kind`, `method`, `within` (text of the path), `times` (-1: always).

    kind: "lost" (done, but answered with 500), "cut" (half of the body), "ignore" (conditions are not looked at),
    "anonymous" (a refusal does not name its condition), or the code of an error with its `status`.
    """

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.one = threading.Lock()
        self.faults: list[dict] = []
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict, start: Callable) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/-/counts":
            start("200 OK", [])
            return [json.dumps(self.counts).encode()]
        if path == "/-/faults":
            self.faults = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self.counts.clear()
            start("200 OK", [])
            return [b"{}"]
        with self.one:
            fault = self._fault(method, path)
            kind = fault["kind"] if fault else ""
            if fault and "status" in fault:
                start(f"{fault['status']} x", [("Content-Type", "application/xml")])
                return [ERROR.format(code=kind).encode()]
            if kind == "ignore":
                environ = {k: v for k, v in environ.items() if k not in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")}
            said: dict = {}
            body = b"".join(self.app(environ, lambda status, headers, *_: said.update(status=status, headers=headers)))
            self.counts[method] += 1
            if method == "GET" and "list-type=" in environ.get("QUERY_STRING", ""):
                self.counts["listings"] += 1  # among GET; stores charge for them as for PUT
            if "/LOCK/" in path:
                self.counts[f"{method} of a lock"] += 1  # among PUT and so on; more of them in a longer run
            self.counts["sent"] += len(body)
        if kind == "lost":
            start("500 x", [])
            return [b""]
        if kind == "anonymous" and said["status"].startswith("412"):
            body = ERROR.format(code="PreconditionFailed").encode()
            said["headers"] = [("Content-Type", "application/xml")]
        start(said["status"], said["headers"])
        return _half(body) if kind == "cut" else [body]

    def _fault(self, method: str, path: str) -> dict | None:
        for fault in self.faults:
            if fault.get("times", -1) and fault.get("method", method) == method and fault.get("within", "") in path:
                fault["times"] = fault.get("times", -1) - 1
                return fault
        return None


def _half(body: bytes) -> Iterable[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionError("cut")


class Quiet(WSGIRequestHandler):
    """Keeps connections open as S3 does, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, *arguments: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, Wrapper(), threaded=True, request_handler=Quiet)
    print(server.server_address[1], flush=True)  # noqa: T201
    server.serve_forever()
