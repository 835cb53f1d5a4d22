"""Processes side by side: every element once, counters summed, and a failure of one that ends them all."""

import os
import signal
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics

from pipelines.runners.run import remembering_errors, run_over
from schemas.errors import FastslowError, InputError
from schemas.jobs import Runner


def writing(folder: Path, bad: str = "", how: str = "") -> beam.PTransform:
    """Leaves a file for each element, named by the element, that says which process wrote it."""

    def write(name: str) -> str:
        if name == bad and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if bad and name != bad:
            time.sleep(60)  # until it is stopped
        with remembering_errors():
            if name == bad:
                raise InputError(f"{name}: expected a tar")
        Metrics.counter("write", "files").inc()
        (folder / name).write_text(str(os.getpid()))
        return name

    return beam.Map(write)


def test_every_element_once_and_all_counted(tmp_path):
    names = [f"shard-{i}" for i in range(5)]
    assert run_over(names, writing(tmp_path), counted="write", runner=Runner(processes=2)) == {"files": 5}
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 2


def test_no_more_processes_than_elements_and_one_where_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_over(["a"], writing(tmp_path), counted="write", runner=Runner(processes=4)) == {"files": 1}
    assert run_over(["b", "c"], writing(tmp_path), counted="write", runner=Runner(processes="gpus")) == {"files": 2}
    assert (tmp_path / "b").read_text() == (tmp_path / "c").read_text()


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [("raises", InputError, "^b: expected a tar$"), ("killed", FastslowError, r"died \(signal 9\)")],
)
def test_one_that_fails_ends_them_all(tmp_path, how, error, message):
    begun = time.monotonic()
    with pytest.raises(error, match=message):
        run_over(["a", "b"], writing(tmp_path, bad="b", how=how), counted="write", runner=Runner(processes=2))
    assert time.monotonic() - begun < 50
    assert not list(tmp_path.iterdir())
