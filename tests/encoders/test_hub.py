"""Hub models, against a hub on the loopback that speaks as much of the protocol as a download needs."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest

from encoders.sources import resolve
from schemas.configs import EncoderConfig
from schemas.errors import ModelError

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "people/tiny-clip"
COMMITS = {"main": "a" * 40, "refs/pr/7": "b" * 40}
PROGRAM = """
import sys
from encoders.sources import resolve
from schemas.configs import EncoderConfig
from schemas.errors import ModelError
try:
    folder = resolve(EncoderConfig(path=sys.argv[1], revision=sys.argv[2] or None))
    print(folder.name, *sorted(path.name for path in folder.iterdir()))
except ModelError as error:
    print("ModelError", error)
"""


class Hub:
    """Revisions of one repository, each a dict of file name -> bytes, served until closed."""

    def __init__(self, revisions: dict[str, dict[str, bytes]], discussions: list[dict]) -> None:
        hub, self.requests = self, []

        class Handler(BaseHTTPRequestHandler):
            def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
                hub.requests.append(self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_GET(self) -> None:
                path = urlparse(self.path).path.replace("%2F", "/")
                if path == f"/api/models/{REPOSITORY}/discussions":
                    page = {"discussions": discussions, "count": len(discussions), "start": 0}
                    return self.answer(json.dumps(page).encode(), Content_Type="application/json")
                for name, files in revisions.items():
                    commit = COMMITS[name]
                    if path == f"/api/models/{REPOSITORY}/revision/{name}":
                        found = {"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
                        return self.answer(json.dumps(found).encode(), Content_Type="application/json")
                    if path == f"/api/models/{REPOSITORY}/tree/{commit}":
                        found = [{"type": "file", "path": file, "size": len(files[file]), "oid": ""} for file in files]
                        return self.answer(json.dumps(found).encode(), Content_Type="application/json")
                    file = path.removeprefix(f"/{REPOSITORY}/resolve/{commit}/")
                    if file in files:
                        etag = hashlib.sha256(files[file]).hexdigest()
                        return self.answer(files[file], ETag=f'"{etag}"', X_Repo_Commit=commit)
                return self.answer(b"", 404, X_Error_Code="RevisionNotFound")

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def files(tiny_clip) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_clip.iterdir()} | {"flax_model.msgpack": b"not wanted"}


@pytest.fixture
def serve():
    """(revisions, discussions) -> a running hub."""
    hubs = []

    def start(revisions, discussions=()) -> Hub:
        hubs.append(Hub(revisions, list(discussions)))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


@pytest.fixture
def ask(tmp_path):
    """(hub or None, revision) -> what resolving the repository printed, in a fresh process with a cache of its own."""

    def run(hub: Hub | None, revision: str = "", *, path: str = REPOSITORY) -> str:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_HUB_OFFLINE": "0" if hub else "1", "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, path, revision],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def conversion(**changes) -> dict:
    return {
        "num": 7,
        "title": "Adding `safetensors` variant of this model",
        "author": {"name": "SFconvertbot"},
        "status": "open",
        "isPullRequest": True,
        "createdAt": "2023-01-01T00:00:00.000Z",
        "repo": {"name": REPOSITORY, "type": "model"},
    } | changes


def test_a_hub_model_is_fetched_once_and_then_used_offline(serve, ask, files):
    hub = serve({"main": files})
    fetched = ask(hub)
    assert fetched.split()[0] == COMMITS["main"]
    assert set(fetched.split()[1:]) == set(files) - {"flax_model.msgpack"}
    asked = len(hub.requests)
    assert ask(hub) == fetched
    assert len(hub.requests) == asked
    assert ask(None) == fetched


def test_where_main_has_only_pickles_the_hubs_own_conversion_is_taken(serve, ask, files):
    old = {name: data for name, data in files.items() if name != "model.safetensors"} | {"pytorch_model.bin": b"pickle"}
    hub = serve({"main": old, "refs/pr/7": files}, [conversion()])
    fetched = ask(hub)
    assert fetched.split()[0] == COMMITS["refs/pr/7"]
    assert "pytorch_model.bin" not in fetched
    assert ask(None) == fetched


def test_a_conversion_by_anybody_else_is_not_taken(serve, ask, files):
    old = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub = serve({"main": old, "refs/pr/7": files}, [conversion(author={"name": "mallory"})])
    assert "no safetensors weights; give a `revision`" in ask(hub)
    assert ask(hub, "refs/pr/7").split()[0] == COMMITS["refs/pr/7"]  # unless asked for by name


def test_a_cache_that_holds_only_a_part_is_completed(serve, ask, files, tmp_path):
    hub = serve({"main": files})
    fetched = ask(hub)
    (lost,) = tmp_path.glob("hf/hub/*/snapshots/*/preprocessor_config.json")
    lost.unlink()
    (tmp_path / "hf/hub/models--people--tiny-clip/snapshots" / COMMITS["main"] / "processor_config.json").unlink()
    assert "not in the hub's local cache" in ask(None)
    assert ask(hub) == fetched


def test_a_missing_hub_model_without_network_names_both_ways_out(ask):
    message = ask(None)
    assert message.startswith(f"ModelError {REPOSITORY}: not a folder here, not in the hub's local cache")
    assert "connect this machine" in message
    assert "set `path` to it" in message


def test_an_unknown_revision_is_named(serve, ask, files):
    assert f"ModelError {REPOSITORY} at revision v9: not a folder here" in ask(serve({"main": files}), "v9")


def test_what_is_neither_a_folder_nor_a_hub_id_is_refused():
    with pytest.raises(ModelError, match="./no/such/model: expected an existing folder, builtin:NAME or a hub id"):
        resolve(EncoderConfig(path="./no/such/model"))
