"""deploy/dataflow agrees with itself, with setup.py and with the pins of the checkout."""

import json
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
FOLDER = REPO / "deploy/dataflow"


def pins(path: Path) -> dict[str, str]:
    return dict(line.strip().split("==") for line in path.read_text().splitlines() if "==" in line and line[0] != "#")


def test_the_image_has_the_beam_and_the_python_of_whoever_submits():
    [beam] = re.findall(r'"apache-beam==([\d.]+)"', (REPO / "setup.py").read_text())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = (FOLDER / "Dockerfile").read_text()
    assert f"FROM apache/beam_python{python}_sdk:{beam}\n" in text
    assert f"python{python.replace('.', '')}-template-launcher-base" in text
    assert pins(FOLDER / "requirements.txt")["apache-beam"] == beam


def test_the_image_has_the_versions_of_the_checkout_and_what_it_needs_beside():
    ours, theirs = pins(REPO / "requirements.txt"), pins(FOLDER / "requirements.txt")
    assert {name for name in theirs if name in ours and theirs[name] != ours[name]} == set()
    assert set(theirs) >= {"torch", "gcsfs", "google-cloud-dataflow-client", "faiss-cpu", "transformers"}
    assert not set(theirs) & {"pytest", "ruff", "mypy"}


def test_what_the_image_copies_is_there():
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (REPO / name).exists()] == []


@pytest.mark.parametrize(
    "name", [one["name"] for one in json.loads((FOLDER / "metadata.json").read_text())["parameters"]]
)
def test_the_launcher_takes_every_parameter_of_the_template(name):
    assert f'"--{name}"' in (FOLDER / "launch.py").read_text() or name == "sdk_container_image"  # Beam's
