"""The whole job on a small demo, as a user runs it: published, searchable, done again in no time, the same bytes."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families

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
    asked = ["reindex", "demo", "--json", "--metrics", "demo.prom", *SMALL]
    return folder / "build", json.loads(fastslow(*asked, cwd=folder))


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


def figures(path: Path) -> dict[str, float]:
    """Metrics by name and labels, without the dataset."""
    families = text_string_to_metric_families(path.read_text())
    samples = (sample for family in families for sample in family.samples)
    return {
        " ".join([one.name, *(one.labels[name] for name in sorted(one.labels) if name != "dataset")]): one.value
        for one in samples
    }


def test_the_metrics_say_what_the_summary_says(built):
    root, summary = built
    told = figures(root.parent / "demo.prom")
    assert told["fastslow_last_run_exit_code"] == 0
    assert told["fastslow_items"] == 184
    assert told["fastslow_index_recall_ratio 10"] == summary["index"]["recall"]
    stages = "fastslow_last_run_stage_duration_seconds"
    assert {stage: round(told[f"{stages} {stage}"], 2) for stage in summary["seconds"]} == summary["seconds"]
    for side in ("fast", "reranked"):
        expected = summary["metrics"]["text_to_image"][side]["R@5"]
        assert told[f"fastslow_query_recall_ratio text_to_image 5 {side}"] == expected


@pytest.mark.slow
def test_a_refused_night_and_one_without_news(built, tmp_path):
    root, _ = built
    shutil.copytree(root, tmp_path / "build")
    shutil.copy(root.parent / "demo.prom", tmp_path)
    before = figures(tmp_path / "demo.prom")
    asked = ["reindex", "demo", "--json", "--metrics", "demo.prom", *SMALL]
    done = subprocess.run(
        command(*asked, "--scorer", "none"), capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert (said["error"], said["exit_code"]) == ("GateError", 3)
    assert "quality R@1: R@1 changed by -" in said["message"]
    refused = figures(tmp_path / "demo.prom")
    changed = {name for name in before if name not in refused or refused[name] != before[name]}
    assert {name.split()[0].removeprefix("fastslow_last_run_") for name in changed} == {
        "exit_code",
        "timestamp_seconds",
        "duration_seconds",
        "stage_duration_seconds",
    }
    assert refused["fastslow_last_run_exit_code"] == 3
    assert json.loads(fastslow(*asked, cwd=tmp_path))["published"] is None
    idle = figures(tmp_path / "demo.prom")
    assert idle["fastslow_last_run_exit_code"] == 0
    assert idle["fastslow_generation_number"] == 1
    assert idle["fastslow_last_success_timestamp_seconds"] > before["fastslow_last_success_timestamp_seconds"]


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


@pytest.mark.slow
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
