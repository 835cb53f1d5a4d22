"""What is added to Dataflow's options wherever the user stands; everything else of it is in tests/deploy/dataflow."""

from pathlib import Path

import pytest

from pipelines.runners import dataflow

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("folder", [REPO, REPO / "docs", Path("/")], ids=["checkout", "inside", "elsewhere"])
def test_our_package_is_found_wherever_the_user_stands(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert dataflow.complete(["--runner=DataflowRunner"]) == [
        "--runner=DataflowRunner",
        f"--setup_file={REPO}/setup.py",
    ]


def test_another_projects_setup_is_not_taken_for_ours(tmp_path, monkeypatch):
    (tmp_path / "setup.py").touch()
    monkeypatch.chdir(tmp_path)
    assert dataflow.complete(["--runner=DataflowRunner"])[-1] == f"--setup_file={REPO}/setup.py"


def test_a_package_that_is_given_is_sent_and_none_is_where_that_is_said():
    given = ["--runner=DataflowRunner", "--setup_file=mine/setup.py"]
    assert dataflow.complete(given) == given
    assert dataflow.complete(["--runner=DataflowRunner", "--setup_file="]) == ["--runner=DataflowRunner"]


def test_options_of_other_runners_stay_as_they_are():
    assert dataflow.complete(["--runner=FlinkRunner"]) == ["--runner=FlinkRunner"]
