"""The whole job on a small demo, as a user runs it: published, searchable, done again in no time, the same bytes."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest

REPO = Path(__file__).resolve().parent.parent
SMALL = ["--set", "prepare.images=160", "--set", "prepare.videos=24", "--set", "prepare.images_per_shard=48"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "--quiet", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200"}


def fastslow(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def data_files(root: Path) -> dict[str, str]:
    """Digest of every file that holds data: all but memos, measured times, reports and generations."""
    folders = ("shards", "embeddings", "queries", "trained", "indexes", "candidates", "scores", "rankings")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and path.name != "timings.json"
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("whole")  # the root is given relative to it: manifests name shards by URL
    return folder / "build", json.loads(fastslow("reindex", "demo", "--json", *SMALL, cwd=folder))


def test_every_sample_is_accounted_for_and_the_generation_is_served(built):
    root, summary = built
    expected = {"seen": 184, "embedded": 184, "images": 160, "videos": 24}
    assert summary["counts"] == expected | {"rejected": 0, "caption_errors": 0, "ignored_members": 0}
    assert summary["published"] == summary["generation"] == 1
    assert summary["index"]["recall"] >= summary["index"]["recall_target"]
    assert json.loads((root / "CURRENT/demo").read_text()) == {"generation": 1}
    assert (root / "reports/demo/000001/index.html").stat().st_size > 10_000


def test_reranking_lifts_the_shipped_model_on_scenes_it_never_saw(built):
    _, summary = built
    figures = summary["metrics"]["text_to_image"]
    assert figures["reranked"]["R@1"] > figures["fast"]["R@1"]


def test_run_again_nothing_is_done_and_no_byte_changes(built):
    root, _ = built
    before = data_files(root)
    again = json.loads(fastslow("reindex", "demo", "--json", *SMALL, cwd=root.parent))
    assert again["published"] is None
    assert again["seconds"] == {}
    assert data_files(root) == before


def test_the_index_opens_in_plain_faiss_and_finds_what_search_finds(built):
    root, summary = built
    [index_file] = root.glob("indexes/demo/*/index.faiss")
    index = faiss.read_index(str(index_file))
    if summary["index"]["parameters"]:
        faiss.ParameterSpace().set_index_parameters(index, summary["index"]["parameters"])
    [query_file] = root.glob("queries/demo/*.parquet")
    queries = pd.read_parquet(query_file).head(20)
    parts = pd.concat(
        pd.read_parquet(path) for path in root.glob("embeddings/demo/*/*.parquet") if "rejects" not in path.name
    )
    _, ids = index.search(np.stack(queries["embedding"]).astype(np.float32), 1)
    keys = parts.set_index("item_id")["key"]
    text = queries["text"][3]
    answers = json.loads(fastslow("search", "demo", text, "-k", "1", "--no-rerank", "--json", cwd=root.parent))
    assert answers[0]["key"] == keys[ids[3, 0]]


def test_search_reranks_and_draws_a_contact_sheet(built, tmp_path):
    root, _ = built
    sheet = tmp_path / "out.png"
    shown = fastslow("search", "demo", "a red circle left of a blue square", "--save", str(sheet), cwd=root.parent)
    assert "slow" in shown
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_it_verifies_each_stage_of_the_check_in_a_process_of_its_own(built):
    root, _ = built
    found = json.loads(fastslow("verify", "demo", "--items", "12", "--json", cwd=root.parent))
    assert [(check["name"], check["state"]) for check in found["checks"]] == [
        (name, "ok") for name in ("manifests", "files", "agreement", "ids", "pictures", "vectors", "self-retrieval")
    ]
    assert {check["name"]: check["figure"] for check in found["checks"]}["vectors"].startswith("12 encoded again")


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(built, tmp_path):
    root, _ = built
    chance = random.Random(5)
    arguments = command("reindex", "demo", *SMALL)
    for _ in range(40):
        run = subprocess.Popen(
            arguments, cwd=tmp_path, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL
        )
        try:
            assert run.wait(timeout=chance.uniform(2, 25)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            time.sleep(0.2)
    else:
        fastslow("reindex", "demo", *SMALL, cwd=tmp_path)
    assert data_files(tmp_path / "build") == data_files(root)
    assert not list(tmp_path.rglob("*.tmp")), "half-written files are left over"
