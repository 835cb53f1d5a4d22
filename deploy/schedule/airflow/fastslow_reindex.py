"""The nightly reindex as an Airflow DAG: a task a stage, each the command; its exit code says what is tried again.

Put this file into the DAGs folder. Airflow's environment needs nothing of fastslow but its command, which stays in an
environment of its own:

  FASTSLOW_COMMAND   path of the command; default: fastslow on the PATH
  FASTSLOW_ROOT      default of the parameter `root`
  FASTSLOW_METRICS   default of the parameter `metrics`: a folder, or nothing

What is done is skipped, so a retry goes on where the last try stopped, and a night without news takes seconds.
"""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, chain, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

STAGES = ("embed", "index", "rerank", "evaluate", "publish")
"""`embed` prepares first where the dataset's config says how."""

NOT_RETRIED = (2, 3)
"""Usage, and a gate that refused: these need a person. 75 (locked), 1 and a process that was killed may pass."""


def fastslow(*arguments: str) -> dict[str, Any]:
    """Runs the command; its log is the task's, its JSON line the result.

    Raises:
      AirflowFailException: it is not to be tried again.
      AirflowException: it is.
    """
    command = [os.environ.get("FASTSLOW_COMMAND", "fastslow"), *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            out, _ = process.communicate()
        except BaseException:
            process.terminate()  # it stops its stage and lets go of the lock; leaving the block waits for it
            raise
    said: dict[str, Any] = json.loads(out.splitlines()[-1]) if out.strip() else {}
    if process.returncode == 0:
        return said
    error = AirflowFailException if process.returncode in NOT_RETRIED else AirflowException
    raise error(f"exit code {process.returncode}: {said.get('message', 'the log above says why')}")


@task
def stage(verb: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The job up to and including a stage."""
    asked = params or {}
    file = f"{asked['metrics']}/{Path(asked['dataset']).stem}.prom"
    metrics = ["--metrics", file] if asked["metrics"] else []
    return fastslow(verb, asked["dataset"], "--root", asked["root"], *metrics, *asked["options"])


@task
def gc(params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Removes what no kept generation names."""
    asked = params or {}
    return fastslow("gc", asked["dataset"], "--root", asked["root"])


def nightly(
    dag_id: str, dataset: str, schedule: str = "15 2 * * *", retry_delay: timedelta = timedelta(minutes=10)
) -> DAG:
    """The DAG of one dataset."""

    @dag(
        dag_id=dag_id,
        schedule=schedule,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=20),
        default_args={"retries": 5, "retry_delay": retry_delay},
        params={
            "dataset": Param(dataset, type="string", description="A name, or a YAML file."),
            "root": Param(os.environ.get("FASTSLOW_ROOT", "/var/lib/fastslow/index"), type="string"),
            "metrics": Param(os.environ.get("FASTSLOW_METRICS", ""), type="string", description="Folder, or nothing."),
            "options": Param([], type="array", items={"type": "string"}, description='As ["--scorer", "none"].'),
        },
        doc_md=__doc__,
        tags=["fastslow"],
    )
    def reindex() -> None:
        chain(*(stage.override(task_id=verb)(verb) for verb in STAGES), gc())

    return reindex()


nightly("fastslow_demo", "demo")  # a line for every dataset
