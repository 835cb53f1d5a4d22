"""The doctor as a user calls it: all well on small data, each trouble in its line, nothing left behind."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.doctor import environment, job, machine
from pipelines.jobs import resolve_job
from pipelines.prepare import job as prepare
from schemas.errors import FastslowError

OF_THE_MACHINE = {"compiled", "packages", "gpu", "cores", "memory", "temp", "disk"}
"""Checks whose outcome is not ours to say here."""


@pytest.fixture
def light(monkeypatch):
    """Loads little in the fresh processes; what is loaded has tests of its own, and the slow one below."""
    monkeypatch.setattr(environment, "TOGETHER", {"embed": ("json", "pyarrow.parquet")})


@pytest.fixture
def dataset(tmp_path) -> tuple[str, str]:
    """A config like the demo's, its few shards made, and the root they are under."""
    config = yaml.safe_load(Path("configs/datasets/demo.yaml").read_text())
    config["prepare"] |= {"images": 16, "videos": 4, "images_per_shard": 8}
    path, root = tmp_path / "demo.yaml", tmp_path / "root"
    path.write_text(yaml.safe_dump(config))
    prepare.run(resolve_job(str(path), root=str(root)))
    return str(path), str(root)


def tree(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*"))


@pytest.mark.usefixtures("light")
def test_all_is_well_with_small_data_and_nothing_is_left_behind(dataset):
    path, root = dataset
    before = tree(root)
    report = job.run(path, root=root)
    states = {finding.check: finding.state for finding in report.findings if finding.check not in OF_THE_MACHINE}
    assert states == dict.fromkeys(
        [
            *("python", "loads: embed", "config", "root", "conditional write", "clock"),
            *("shards", "queries", "encoder", "scorer", "lock", "served", "runner"),
        ],
        "ok",
    )
    assert {finding.check for finding in report.findings} - set(states) <= OF_THE_MACHINE
    assert tree(root) == before
    [shards] = [finding.found for finding in report.findings if finding.check == "shards"]
    assert "20 samples, 0 refused" in shards


@pytest.mark.usefixtures("light")
def test_without_a_dataset_the_machine_and_the_root_are_looked_at(tmp_path):
    report = job.run(None, root=str(tmp_path / "root"))
    checks = {finding.check for finding in report.findings}
    assert {"python", "packages", "cores", "memory", "temp", "disk", "root", "clock", "runner"} <= checks
    assert not {"config", "shards", "encoder", "lock"} & checks
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("light")
def test_troubles_are_found_together_and_one_does_not_hide_another(dataset, tmp_path):
    path, root = dataset
    shard = next(Path(root).rglob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:700])
    blocked = tmp_path / "file"
    blocked.write_text("")
    settings = ["queries.log=nowhere.tsv"]
    report = job.run(path, ["--direct_num_workers=x"], root=f"{blocked}/root", shards=[str(shard)], settings=settings)
    assert {"root", "shards", "queries", "runner"} <= set(report.errors)
    with pytest.raises(FastslowError, match="a run would fail: .*root, shards, queries"):
        report.refuse()


@pytest.mark.usefixtures("light")
def test_a_check_that_breaks_down_is_an_error_and_the_others_go_on(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no such file in /proc")

    monkeypatch.setattr(machine, "cores", broken)
    report = job.run(None, root=str(tmp_path))
    found = {finding.check: finding for finding in report.findings}
    assert found["cores"].found == "could not be looked at: RuntimeError: no such file in /proc"
    assert "cores" in report.errors
    assert found["root"].state == "ok"


@pytest.mark.usefixtures("light")
def test_the_command_says_it_in_a_table_or_a_line_and_ends_with_1_on_errors(dataset, monkeypatch):
    monkeypatch.setattr(environment, "packages", lambda: environment.python())  # this environment may lack some
    path, root = dataset

    def run(*arguments: str):
        return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "300", "TERM": "dumb"})

    done = run(path, "--root", root, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["errors"] == []
    done = run(path, "--root", root, "--encoder", "demo-hivlp", "--scorer", "none", "--", "--direct_num_workers=99")
    assert done.exit_code == 0  # warnings are fine
    assert "warning" in done.stdout
    assert "leave it out: one worker already uses every core" in done.stdout
    done = run("--root", root, "--json", "--", "--runner=FlinkRunner", "--flink_version=1.2")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["errors"] == ["runner"]
    done = run("demmo", "--root", root)
    assert done.exit_code == 1
    assert "did you mean 'demo'?" in done.stdout
    assert str(done.exception) == "a run would fail: config"


@pytest.mark.slow
def test_what_the_stages_load_is_loaded_for_real(dataset):
    path, root = dataset
    report = job.run(path, root=root)
    states = {finding.check: finding.state for finding in report.findings}
    assert states["loads: embed, rerank"] == states["loads: index"] == "ok"
    assert states["gpu"] in ("ok", "warning")
