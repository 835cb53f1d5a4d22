"""Nights that go wrong: killed, the disk full, the root read-only, two at once, the clock set back."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.reindex import publish
from pipelines.reindex.named import missing
from schemas.layout import Layout
from schemas.manifests import Generation
from tests.nights import REPO, Week, fastslow, make_week, read, write

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FASTSLOW_KILLS", "25"))


@pytest.fixture(scope="module")
def second_night(tmp_path_factory) -> Week:
    """After the first night, with changes that wait for the second: new, changed and removed items."""
    week = make_week(tmp_path_factory.mktemp("nights"))
    week.night()
    [new] = (week.folder / "other").rglob("scenes-*.tar")
    write(week.folder / "shards" / "new.tar", {f"new-{key}": members for key, members in read(new).items()})
    changed = read(week.shard(1))
    write(week.shard(1), {key: members for row, (key, members) in enumerate(changed.items()) if row % 4})
    week.shard(3).unlink()
    return week


def copied(week: Week, folder: Path) -> Week:
    """The same, to go wrong with; shards and config are looked at where they are, the root is another."""
    shutil.copytree(week.root, folder / "root", dirs_exist_ok=True)
    return Week(week.folder, str(folder / "root"))


def layout_of(week: Week) -> Layout:
    return Layout(week.root, "week")


def contents(week: Week) -> dict[str, bytes]:
    """All that is no measured time, page or memo."""
    folders = ("embeddings", "queries", "trained", "indexes", "candidates", "scores", "rankings")
    return {
        str(path.relative_to(week.root)): path.read_bytes()
        for folder in folders
        for path in Path(week.root, folder).rglob("*")
        if path.is_file() and path.name != "timings.json"
    }


def whole(week: Week, *numbers: int) -> Generation:
    """The generation being served, one of those expected, with all of its files."""
    served = publish.served(layout_of(week))
    assert served is not None
    assert served.number in numbers
    assert missing(layout_of(week), served) == []
    return served


@pytest.fixture(scope="module")
def unharmed(second_night, tmp_path_factory) -> Week:
    week = copied(second_night, tmp_path_factory.mktemp("unharmed"))
    week.night()
    return week


def started(week: Week) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines.cli", "reindex", "week.yaml", "--root", week.root, "--json"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=week.folder, env=environment, start_new_session=True, **pipes)


def test_killed_at_random_moments_nothing_is_half_published_and_nothing_is_lost(second_night, unharmed, tmp_path):
    chance, kills, rounds = random.Random(11), 0, 0
    begun = time.monotonic()
    copied(second_night, tmp_path / "timed").night()
    longest = time.monotonic() - begun
    while kills < KILLS:
        rounds += 1
        week = copied(second_night, tmp_path / f"round-{rounds}")
        while True:
            run = started(week)
            try:
                log = run.communicate(timeout=chance.uniform(0.5, longest))[1]
                assert run.returncode == 0, log
                break
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.communicate()
                kills += 1
                whole(week, 1, 2)
        assert whole(week, 2).counts == whole(unharmed, 2).counts
        assert contents(week) == contents(unharmed)
        assert not list(Path(week.root).rglob("*.tmp")), "half-written files are left over"
        shutil.rmtree(week.root)


def test_of_two_nights_at_once_one_waits(second_night, tmp_path):
    week = copied(second_night, tmp_path)
    runs = [started(week) for _ in range(2)]
    said = [run.communicate() for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 75]
    assert any("locked by fastslow reindex" in log for _, log in said)
    whole(week, 2)
    assert publish.numbers(layout_of(week)) == [1, 2]


@contextmanager
def small_disk(folder: Path, megabytes: float) -> Iterator[None]:
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system of a given size cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def megabytes_used(folder: Path) -> float:
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize / 2**20


def remounted(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_full_disk_ends_the_night_and_room_lets_it_go_on(second_night, unharmed, tmp_path):
    with small_disk(tmp_path / "disk", 64):
        week = copied(second_night, tmp_path / "disk")
        used = megabytes_used(tmp_path / "disk")
        shutil.copytree(unharmed.root, tmp_path / "disk" / "after")
        more = megabytes_used(tmp_path / "disk") - 2 * used  # what the night will add
        shutil.rmtree(tmp_path / "disk" / "after")
        for share in (0.02, 0.3, 0.6, 0.9):
            remounted(tmp_path / "disk", f"size={int((used + share * more) * 1024)}k")
            log = fastslow("reindex", "week.yaml", "--root", week.root, cwd=week.folder, code=None).stderr
            if whole(week, 1, 2).number == 1:
                assert "No space left on device" in log
                assert "Traceback" not in log
                assert log.splitlines()[-1].startswith("fastslow: ")
        remounted(tmp_path / "disk", "size=65536k")
        week.night()
        whole(week, 2)
        assert contents(week) == contents(unharmed)


def test_a_read_only_root_is_said_at_once_and_still_answers(second_night, tmp_path):
    with small_disk(tmp_path / "disk", 200):
        week = copied(second_night, tmp_path / "disk")
        remounted(tmp_path / "disk", "ro")
        done = fastslow("reindex", "week.yaml", "--root", week.root, cwd=week.folder, code=1)
        assert "cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert week.answers()
        whole(week, 1)


def test_a_clock_set_back_hides_no_change(second_night, unharmed, tmp_path):
    week = copied(second_night, tmp_path)
    for path in week.shards:  # written "long ago", after everything else
        os.utime(path, (10**9, 10**9))
    for path in Path(week.root).rglob("*"):
        os.utime(path, (4 * 10**9, 4 * 10**9))
    week.night()
    whole(week, 2)
    assert contents(week) == contents(unharmed)
    fastslow("gc", "week.yaml", "--keep", "1", "--root", week.root, cwd=week.folder)
    whole(week, 2)


def test_a_shard_rewritten_within_the_same_size_and_time_is_seen(second_night, tmp_path):
    folder = tmp_path / "nights"
    shutil.copytree(second_night.folder, folder)
    week = Week(folder, str(folder / "root"))
    path = week.shard(2)
    before = path.stat()
    changed = read(path)
    first, second = list(changed)[:2]
    changed[first], changed[second] = changed[second], changed[first]
    write(path, changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    log = week.night()[1]
    assert "embedding 3 of 14 shards" in log
