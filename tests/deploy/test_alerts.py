"""The alerts look at figures that runs write, and fire on the nights they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.reindex.metrics import LAST, SERVED

PROMETHEUS = Path(__file__).resolve().parents[2] / "deploy" / "schedule" / "prometheus"


def rules() -> list[dict]:
    return [
        rule for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_names_figures_there_are_and_says_what_to_do(rule):
    named = set(re.findall(r"\b(?:fastslow|node)_\w+", rule["expr"]))
    assert named
    assert named <= {*SERVED, *LAST, "node_textfile_scrape_error"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert {"summary", "description"} == rule["annotations"].keys()
    labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert labels <= {"dataset", "instance"} | {
        label for name in named & {*SERVED, *LAST} for label in (SERVED | LAST)[name].labels
    }


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed, and PROMTOOL does not say where it is")
    return subprocess.run([program, *arguments], capture_output=True, text=True, cwd=PROMETHEUS, check=False)


def test_prometheus_takes_the_rules():
    done = promtool("check", "rules", "--lint-fatal", "alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_fire_on_the_nights_they_should():
    done = promtool("test", "rules", "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_figure_is_in_the_docs():
    text = (PROMETHEUS.parent / "README.md").read_text()
    assert [name for name in SERVED | LAST if f"`{name}`" not in text] == []
    assert set(re.findall(r"`(fastslow_\w+)`", text)) <= {*SERVED, *LAST}
