"""What is shipped to workers and installed by pip is whole: code, configs, the page's template, the demo's model."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source package, built from the tracked files alone."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(["git", "archive", "HEAD"], cwd=REPO, capture_output=True, check=False)
    if files.returncode:
        pytest.skip("not a git checkout")
    (source / "files.tar").write_bytes(files.stdout)
    with tarfile.open(source / "files.tar") as tar:
        tar.extractall(source, filter="data")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


WANTED = [
    "pipelines/configs/datasets/demo.yaml",
    "pipelines/configs/encoders/demo-loopitr.yaml",
    "pipelines/configs/train/demo-loopitr.yaml",
    "pipelines/evaluate/report.html",
    "encoders/checkpoints/demo-loopitr/model.safetensors",
    "schemas/layout.py",
]


def test_the_wheel_holds_all_that_runs_and_no_tests(built):
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in WANTED if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_installed_from_the_wheel_configs_and_model_are_found(built, tmp_path):
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = (
        "from pipelines.jobs import resolve_job\n"
        "from encoders.sources import resolve\n"
        "import pipelines; print(pipelines.__file__)\n"
        "print(resolve(resolve_job('demo', root='r').encoder))\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(tmp_path / "site")) for line in done.stdout.splitlines())


def test_the_source_package_builds_the_same_wheel_contents(built):
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"setup.py", "configs/datasets/demo.yaml", "pipelines/evaluate/report.html"} <= names
    assert "encoders/checkpoints/demo-loopitr/model.safetensors" in names
