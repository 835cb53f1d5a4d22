"""The DAG in a real Airflow, with the real command: a night that publishes, one without news, one that is refused."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.reindex import publish
from pipelines.reindex.lock import locked
from schemas.layout import Layout

AIRFLOW = Path(__file__).resolve().parents[2] / "deploy" / "schedule" / "airflow"
SMALL = ["--set", "prepare.images=96", "--set", "prepare.videos=0", "--set", "prepare.images_per_shard=48"]
TASKS = ["embed", "index", "rerank", "evaluate", "publish", "gc"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(kept) -> Path:
    """An environment with Airflow alone, whose pins are not ours."""
    pins = AIRFLOW / "requirements.txt"

    def install(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        uv = Path(sys.executable).with_name("uv")
        pip = [str(uv), "pip", "install", "--python", f"{folder}/bin/python"]
        command = pip if uv.exists() else [f"{folder}/bin/pip", "install"]
        done = subprocess.run([*command, "--quiet", "-r", str(pins)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"Airflow cannot be installed here: {done.stderr.strip().splitlines()[-1]}")

    return kept(f"airflow-{hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]}", install)


@dataclass
class Airflow:
    """One Airflow with its database, and a root to index into."""

    environment: Path
    home: Path
    command: Path

    @property
    def layout(self) -> Layout:
        return Layout(str(self.home / "root"), "demo")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = os.environ | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "FASTSLOW_COMMAND": str(self.command),
            "FASTSLOW_ROOT": self.layout.root,
            "FASTSLOW_METRICS": str(self.home),
        }
        program = str(self.environment / "bin" / "airflow")
        return subprocess.run([program, *arguments], env=variables, capture_output=True, text=True, check=False)

    def run(self, day: str, *options: str, dag: str = "fastslow_demo") -> tuple[int, dict[str, tuple[str, int]], str]:
        """One run of a DAG: exit code, (state, tries) of every task, and what was logged."""
        conf = json.dumps({"options": [*SMALL, *options]})
        done = self("dags", "test", dag, day, "--conf", conf)
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            rows = database.execute(
                "select task_id, t.state, try_number from task_instance t join dag_run r using (run_id) "
                "where r.id = (select max(id) from dag_run)"
            ).fetchall()
        return done.returncode, {task: (state, tries) for task, state, tries in rows}, done.stdout + done.stderr

    def figures(self) -> dict[str, float]:
        """The metrics that the last task left."""
        families = text_string_to_metric_families((self.home / "demo.prom").read_text())
        return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture(scope="module")
def airflow(environment, make_command, tmp_path_factory) -> Airflow:
    made = Airflow(environment, tmp_path_factory.mktemp("airflow"), make_command())
    (made.home / "dags").mkdir()
    quick = 'nightly("fastslow_quick", "demo", retry_delay=timedelta(seconds=3))\n'  # a line for every dataset
    (made.home / "dags" / "fastslow_reindex.py").write_text((AIRFLOW / "fastslow_reindex.py").read_text() + quick)
    done = made("db", "migrate")
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def first(airflow) -> tuple[int, dict[str, tuple[str, int]], str]:
    return airflow.run("2026-11-20")


def test_airflow_reads_the_dag(airflow):
    done = airflow("dags", "list-import-errors")
    assert "No data found" in done.stdout, done.stdout + done.stderr


def test_a_night_publishes(airflow, first):
    code, tasks, shown = first
    assert code == 0, shown
    assert tasks == dict.fromkeys(TASKS, ("success", 1))
    assert publish.current(airflow.layout) == 1


def test_a_night_without_news_publishes_nothing(airflow, first):
    code, tasks, shown = airflow.run("2026-11-21")
    assert code == 0, shown
    assert tasks == dict.fromkeys(TASKS, ("success", 1))
    assert publish.numbers(airflow.layout) == [1]


def test_a_night_that_a_gate_refuses_fails_without_retries(airflow, first):
    code, tasks, shown = airflow.run("2026-11-22", "--scorer", "none")
    assert code != 0
    assert tasks["publish"] == ("failed", 1)
    assert tasks["gc"][0] == "upstream_failed"
    assert {tasks[name] for name in TASKS[:4]} == {("success", 1)}
    assert "exit code 3: demo: R@1 fell from" in shown
    assert publish.current(airflow.layout) == 1
    assert airflow.figures()["fastslow_last_run_exit_code"] == 3
    assert airflow.figures()["fastslow_generation_number"] == 1


def test_a_night_that_finds_the_dataset_locked_tries_again(airflow, first):
    with ThreadPoolExecutor() as pool:
        with locked(airflow.layout, "another run"):
            run = pool.submit(airflow.run, "2026-11-23", dag="fastslow_quick")
            while airflow.figures()["fastslow_last_run_exit_code"] != 75:
                assert not run.done(), run.result()
                time.sleep(0.1)
        code, tasks, shown = run.result()
    assert code == 0, shown
    assert "exit code 75: demo is locked by another run" in shown
    assert tasks["embed"][0] == "success"
    assert tasks["embed"][1] > 1
    assert {tasks[name] for name in TASKS[1:]} == {("success", 1)}
