"""`fastslow reindex coco` on real archives over HTTP, with tiny models in place of the hub's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
REAL = REPO.parent / "shared" / "data" / "coco-mini"


def fastslow(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "--quiet", *arguments],
        capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": str(REPO)},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real COCO images of ../shared/data are not here")
def test_coco_is_fetched_indexed_reranked_and_served(server, tmp_path, tiny_clip, tiny_blip):
    server.files = {f"/{path.name}": path.read_bytes() for path in REAL.glob("*.zip")}
    urls = ["--set", f"prepare.images_url={server.url}", "--set", f"prepare.annotations_url={server.url}"]
    models = ["--encoder", str(tiny_clip), "--scorer", str(tiny_blip), "--set", "rerank.depth=3"]
    done = fastslow(
        "reindex", "coco", "--root", "out", *urls, *models, "--set", "queries.max_queries=100", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["counts"]["embedded"] == summary["counts"]["seen"] == 159
    assert summary["published"] == 1
    assert summary["metrics"]["pair_evaluations"] == 300
    assert set(summary["metrics"]["text_to_image"]) == {"fast", "reranked", "gain"}


def test_without_network_and_files_the_message_names_both_ways_out(tmp_path):
    nowhere = "http://127.0.0.1:9"  # the discard port: nobody listens
    urls = ["--set", f"prepare.images_url={nowhere}", "--set", f"prepare.annotations_url={nowhere}"]
    done = fastslow("prepare", "coco", "--root", "out", *urls, cwd=tmp_path)
    assert done.returncode == 1
    assert "data/coco" in done.stderr
    assert "prepare.images_url" in done.stderr or "prepare.annotations_url" in done.stderr
