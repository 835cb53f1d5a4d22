"""Fixtures for all tests: one torch thread, no network for models, tiny models made once a session."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from schemas.cache import cache_folder

# Read when torch and huggingface_hub are imported, so tests that need neither do not pay for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


settings.register_profile("steady", derandomize=True)  # a commit passes or fails whenever it is tested
settings.load_profile("steady")

LONGEST = ("test_engines.py", "test_end_to_end.py", "test_submission.py")
"""Files that take minutes: first, so that nobody waits for them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they are found."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def kept() -> Callable[[str, Callable[[Path], None]], Path]:
    """(name, fill) -> a folder that is filled once on this machine and kept, also by test runs side by side."""

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        folder = cache_folder() / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                (folder / "complete").touch()
        return folder

    return get


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Callable[[str], Path]:
    """name ("clip", "blip", "fastslow-loopitr", "fast_slow", ...) -> folder of a tiny model; made once."""
    # By path: an installed distribution may bring its own top-level `tests` package.
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parent / "encoders" / "tiny_models.py")
    assert spec is not None
    assert spec.loader is not None
    tiny_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny_models)
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = getattr(tiny_models, f"make_{name.removeprefix('fastslow-')}")(
                tmp_path_factory.mktemp(f"tiny-{name}")
            )
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny_clip(tiny_model) -> Path:
    return tiny_model("clip")


@pytest.fixture(scope="session")
def tiny_siglip(tiny_model) -> Path:
    return tiny_model("siglip")


@pytest.fixture(scope="session")
def tiny_siglip2(tiny_model) -> Path:
    return tiny_model("siglip2")


@pytest.fixture(scope="session")
def tiny_xclip(tiny_model) -> Path:
    return tiny_model("xclip")


@pytest.fixture(scope="session")
def tiny_blip(tiny_model) -> Path:
    return tiny_model("blip")


@pytest.fixture(scope="session")
def tiny_loopitr(tiny_model) -> Path:
    return tiny_model("loopitr")


@pytest.fixture(scope="session")
def tiny_fast_slow(tiny_model) -> Path:
    return tiny_model("fast_slow")


@pytest.fixture(scope="session")
def tiny_hivlp(tiny_model) -> Path:
    return tiny_model("hivlp")
