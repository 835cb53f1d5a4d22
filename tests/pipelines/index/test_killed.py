"""Kill -9 while an index is made: the next run ends with the same bytes, and no part is filled twice."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.index.job import run
from tests.pipelines.index.conftest import make_world

KEY = "OPQ8_16,IVF32,PQ8x6"


BUILD = """
import pickle, sys
from pipelines.index.job import run
with open(sys.argv[1], "rb") as stream:
    run(*pickle.load(stream))
"""


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name not in ("timings.json",))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    settings = {"key": KEY, "recall_target": 0.3, "refine": True}
    whole, killed = (make_world(tmp_path / name, rows=30_000, queries=1000) for name in ("whole", "killed"))
    started = time.monotonic()
    url = run(whole.with_index(**settings), whole.parts, whole.queries_url)
    spent = time.monotonic() - started
    expected = files(Path(whole.job.layout.root))
    root, moments = Path(killed.job.layout.root), np.random.default_rng(0).uniform(2, 3 + 2 * spent, 12)
    manifest = Path(url.replace(whole.job.layout.root, killed.job.layout.root))
    deaths, filled = 0, {}
    (tmp_path / "job").write_bytes(pickle.dumps((killed.with_index(**settings), killed.parts, killed.queries_url)))
    for moment in sorted(moments.tolist()):
        if manifest.exists():
            break
        with subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "job")]) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                deaths += 1
        for path in root.glob("trained/toy/*/*.json"):
            assert filled.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert deaths >= 2
    assert run(killed.with_index(**settings), killed.parts, killed.queries_url) == str(manifest)
    for path, written in filled.items():
        assert path.stat().st_mtime_ns == written
    found = {name: data for name, data in files(root).items() if not name.endswith(".tmp")}
    assert found == expected
