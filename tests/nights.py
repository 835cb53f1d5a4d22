"""A small demo that changes from night to night, and the command that reindexes it, for tests of whole nights."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

REPO = Path(__file__).resolve().parent.parent
Samples = dict[str, dict[str, bytes]]
"""Key -> suffix -> content, in the order of the shard."""


def fastslow(*arguments: str, cwd: Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command; `code` is the exit code it must have, None for any."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPO), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert code is None or done.returncode == code, f"{done.returncode}: {done.stderr[-3000:]}"
    return done


def read(shard: Path) -> Samples:
    found: Samples = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            stream = tar.extractfile(member)
            assert stream is not None
            found.setdefault(key, {})[suffix] = stream.read()
    return found


def write(shard: Path, samples: Samples) -> None:
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@dataclass
class Week:
    """The shards as they are today, and a root that is reindexed every night."""

    folder: Path
    root: str
    scratches: int = 0

    @property
    def shards(self) -> list[Path]:
        return sorted((self.folder / "shards").glob("*.tar"))

    def shard(self, number: int) -> Path:
        return self.folder / "shards" / f"scenes-{number:05d}.tar"

    def night(self, root: str | None = None, *, code: int = 0) -> tuple[dict[str, Any], str]:
        """Summary (of a run that ended well) and log."""
        done = fastslow("reindex", "week.yaml", "--json", "--root", root or self.root, cwd=self.folder, code=code)
        return json.loads(done.stdout) if code == 0 else {}, done.stderr

    def served(self) -> int:
        found = json.loads(fastslow("generations", "week.yaml", "--json", "--root", self.root, cwd=self.folder).stdout)
        return next(one["number"] for one in found if one["served"])

    def answers(self, root: str | None = None) -> dict[str, set[str]]:
        """The ten best keys of every query of the log."""
        out = self.folder / "answers.parquet"
        given = ("--queries", "queries.tsv", "--out", str(out), "-k", "10", "--root", root or self.root)
        fastslow("search", "week.yaml", *given, cwd=self.folder)
        return {query: set(keys) for query, keys in pd.read_parquet(out).groupby("query_id")["key"]}

    def check(self, summary: dict[str, Any]) -> None:
        """The ledger adds up to what is in the shards, and answers are those of an index made anew."""
        there = [key for shard in self.shards for key in read(shard)]
        counts = summary["counts"]
        assert counts["seen"] == counts["embedded"] + counts["rejected"] == len(there)
        assert summary["index"]["rows"] == counts["embedded"]
        self.scratches += 1
        scratch = str(self.folder / f"scratch-{self.scratches}")
        self.night(scratch)
        ours, theirs = self.answers(), self.answers(scratch)
        assert ours.keys() == theirs.keys()
        for keys in ours.values():
            assert keys <= set(there)
        overlap = sum(len(ours[query] & theirs[query]) / len(theirs[query]) for query in theirs) / len(theirs)
        assert overlap >= 0.97
        shutil.rmtree(scratch)


def make_week(folder: Path) -> Week:
    """Fourteen small shards, their captions as the query log, and another scene or two to come."""
    small = ("--set", "prepare.images=240", "--set", "prepare.videos=24", "--set", "prepare.images_per_shard=24")
    fastslow("prepare", "demo", *small, cwd=folder)
    [made] = {path.parent for path in (folder / "build" / "shards").rglob("*.tar")}
    shutil.move(made, folder / "shards")
    shutil.copy(folder / "shards" / "queries.tsv", folder)
    other = ("--root", "other", "--set", "prepare.seed=31", "--set", "prepare.images=8", "--set", "prepare.videos=0")
    fastslow("prepare", "demo", *other, cwd=folder)
    config = {
        "name": "week",
        "shards": ["shards/*.tar"],
        "encoder": "demo-loopitr",
        "scorer": "demo-loopitr",
        "queries": {"log": "queries.tsv"},
        "index": {
            "append": {"max_unmerged": 0.5, "max_changed": 1.0, "max_error_ratio": 10, "max_imbalance_ratio": 10}
        },
    }
    (folder / "week.yaml").write_text(yaml.safe_dump(config))
    return Week(folder, str(folder / "root"))
