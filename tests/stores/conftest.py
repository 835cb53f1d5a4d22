"""Object stores on this machine: an S3 API (moto) and a GCS emulator (fake-gcs-server), each a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.stores import open_store

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read at import: else it asks a gRPC API the emulator lacks
GCS_SERVER = "github.com/fsouza/fake-gcs-server@v1.56.1"


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and how it is told to fail."""

    url: str

    def faults(self, *faults: dict) -> None:
        """Takes the place of those before; counts start anew."""
        data = json.dumps(faults).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/-/faults", data=data)).close()

    def counts(self) -> dict[str, int]:
        """Requests by method, what of them were listings or of a lock, and bytes sent, since `faults`."""
        with urllib.request.urlopen(f"{self.url}/-/counts") as answer:
            return json.load(answer)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="S3 is tested against moto: pip install -r requirements.txt")
    script = Path(__file__).parent / "s3_server.py"
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield S3Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.terminate()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    go = shutil.which("go")
    home = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True).stdout.strip() if go else ""
    program = shutil.which("fake-gcs-server", path=f"{os.environ['PATH']}:{home}/bin")
    if program is None:
        pytest.skip(f"no GCS emulator; to have one: go install {GCS_SERVER}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["-backend=memory", "-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"]
    with subprocess.Popen([program, *arguments, "-log-level=error"]) as process:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/storage/v1/b").close()
                break
            except OSError:
                time.sleep(0.05)
        yield url
        process.terminate()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch) -> str:
    """The root of a fresh bucket; endpoint and credentials as anybody gives them."""
    pytest.importorskip("s3fs", reason="needs fastslow[s3]")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3_server.faults()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    open_store(f"s3://{bucket}")[0].mkdir(bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def gcs(gcs_server: str, monkeypatch) -> str:
    """The same on GCS."""
    pytest.importorskip("gcsfs", reason="needs fastslow[gcs]")
    import fsspec

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")  # of other processes; here the environment was read before
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    data = json.dumps({"name": bucket}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{gcs_server}/storage/v1/b?project=p", data, headers)).close()
    return f"gs://{bucket}/some/prefix"


@pytest.fixture(params=["local", "memory", "s3", "gcs"])
def root(request, tmp_path) -> str:
    """A root of each kind."""
    if request.param == "local":
        return str(tmp_path / "root")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["s3", "gcs"])
def remote(request) -> str:
    """A root in each object store."""
    return request.getfixturevalue(request.param)
