"""Progress of workers elsewhere: what they commit is counted once; in this process nothing is looked for."""

import time
from pathlib import Path

from pipelines import progress
from pipelines.runners.following import following
from schemas.jobs import Runner

ELSEWHERE = Runner(beam_args=("--runner=FlinkRunner", "--environment_type=EXTERNAL"))
HERE = Runner(beam_args=("--runner=FlinkRunner", "--environment_type=LOOPBACK"))


def read(url: str) -> int:
    return int(Path(url).read_text())


def test_what_appears_is_counted_once_also_at_the_very_end(tmp_path):
    units = {str(tmp_path / "parts" / f"{n}.json"): 100.0 for n in range(3)}
    first, second, _ = units
    before = progress.reading()
    with following(units, ELSEWHERE, read, every_s=0.01):
        (tmp_path / "parts").mkdir()
        Path(first).write_text("7")
        deadline = time.monotonic() + 20
        while progress.reading().items == before.items:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert progress.reading() == progress.Reading(before.items + 7, before.done + 100)
        Path(second).write_text("5")
    assert progress.reading() == progress.Reading(before.items + 12, before.done + 200)


def test_workers_of_this_process_count_by_themselves(tmp_path):
    (tmp_path / "0.json").write_text("7")
    for runner in (Runner(), HERE):
        before = progress.reading()
        with following({str(tmp_path / "0.json"): 1.0}, runner, read, every_s=0.01):
            time.sleep(0.05)
        assert progress.reading() == before
    with following({str(tmp_path / "0.json"): 1.0}, Runner(processes=2), read, every_s=0.01):
        pass
    assert progress.reading().items == before.items + 7


def test_a_manifest_that_cannot_be_read_ends_nothing(tmp_path):
    (tmp_path / "0.json").write_text("not a number")
    with following({str(tmp_path / "0.json"): 1.0}, ELSEWHERE, read, every_s=0.01):
        pass
