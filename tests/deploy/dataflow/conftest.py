"""An environment that has Dataflow's client, Google on loopback, and workers that run what was submitted there."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent


def _absent() -> list[str]:
    """Pins of deploy/dataflow that this environment lacks."""
    pins = [line for line in (REPO / "deploy/dataflow/requirements.txt").read_text().splitlines() if "==" in line]
    return [pin for pin in pins if not _installed(*pin.split("=="))]


def _installed(name: str, version: str) -> bool:
    try:
        return metadata.version(name) == version
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="session")
def client(kept) -> str:
    """Folder that has what this environment lacks for Dataflow, to stand in front of all its packages; "": nothing.

    Beam with its clients is slower to load, so they are not in everybody's environment; they have 150 MB.
    """
    absent = _absent()
    if not absent:
        return ""

    def install(folder: Path) -> None:
        uv = Path(sys.executable).with_name("uv")
        pip = [str(uv), "pip"] if uv.exists() else [sys.executable, "-m", "pip"]
        command = [*pip, "install", "--quiet", "--no-deps", "--target", str(folder), *absent]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"Dataflow's client cannot be installed here: {done.stderr.strip().splitlines()[-1]}")

    name = hashlib.sha256("\n".join([sys.version, *absent]).encode()).hexdigest()[:12]
    return str(kept(f"dataflow-{name}", install))


@pytest.fixture(scope="session")
def google_cloud() -> ModuleType:
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("fastslow_google_cloud", HERE / "google_cloud.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def google(google_cloud):
    """One Google for the tests of a module."""
    with google_cloud.Google() as side:
        yield side


@pytest.fixture(scope="module")
def environment(google, client) -> dict[str, str]:
    """Variables by which Google's libraries find it, and Python this checkout and those libraries."""
    found = {
        "STORAGE_EMULATOR_HOST": google.url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "FSSPEC_GS_TOKEN": "anon",
    }
    return os.environ | found | {"PYTHONPATH": f"{REPO}{os.pathsep}{client}".rstrip(os.pathsep)}


@pytest.fixture(scope="module")
def options(google) -> list[str]:
    """What a user gives, and where to send it."""
    return [
        "--project=p-1",
        "--region=us-central1",
        "--temp_location=gs://bucket/tmp",
        "--sdk_container_image=us-central1-docker.pkg.dev/p-1/fastslow/worker:0.1.0",
        f"--dataflow_endpoint={google.url}",
        "--no_auth",
    ]
