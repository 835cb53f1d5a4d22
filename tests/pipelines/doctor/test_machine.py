"""Limits of containers as the kernel writes them, and what of them a run would feel."""

import os
from pathlib import Path

import pytest

from pipelines.doctor import cgroups, machine

GB = 1 << 30


@pytest.fixture
def groups(tmp_path):
    """({file: content}, content of /proc/self/cgroup) -> arguments of both functions."""

    def make(files: dict[str, str], process: str) -> tuple[Path, Path]:
        (tmp_path / "process").write_text(process)
        for name, content in files.items():
            path = tmp_path / "mounted" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / "process", tmp_path / "mounted"

    return make


@pytest.mark.parametrize(
    ("files", "process", "memory", "cpu"),
    [
        ({"memory.max": f"{GB}\n", "cpu.max": "150000 100000\n"}, "0::/\n", GB, 1.5),
        ({"memory.max": "max\n", "cpu.max": "max 100000\n"}, "0::/\n", None, None),
        ({"a/memory.max": f"{2 * GB}\n", "a/b/memory.max": f"{8 * GB}\n"}, "0::/a/b\n", 2 * GB, None),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 100000\n", "c/cpu.max": "1 100"}, "0::/a/b", None, 0.5),
        (
            {
                "memory/docker/x/memory.limit_in_bytes": f"{3 * GB}\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            "9:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n",
            3 * GB,
            2.5,
        ),
        # inside a container of version 1 the path is the host's, and only its own group is mounted
        ({"memory/memory.limit_in_bytes": f"{GB}\n"}, "9:memory:/docker/not-mounted-here\n", GB, None),
        ({}, "0::/\n", None, None),
    ],
    ids=["2", "2 without", "2, a group above is tighter", "2, time", "1", "1 in a container", "none"],
)
def test_the_tightest_limit_counts(groups, files, process, memory, cpu):
    where = groups(files, process)
    assert cgroups.memory_limit(*where) == memory
    assert cgroups.cpu_limit(*where) == cpu


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cgroups.memory_limit(tmp_path / "none", tmp_path) is None
    assert cgroups.cpu_limit(tmp_path / "none", tmp_path) is None


def test_cores_are_those_of_this_process():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cores()[1:3] == ("ok", f"1 of {os.cpu_count()}")
    finally:
        os.sched_setaffinity(0, before)


def test_less_time_than_cores_is_a_warning(monkeypatch):
    usable = len(os.sched_getaffinity(0))
    monkeypatch.setattr(cgroups, "cpu_limit", lambda: usable - 0.75)
    found = machine.cores()
    assert (found.state, "taskset" in found.remedy) == ("warning", True)
    monkeypatch.setattr(cgroups, "cpu_limit", lambda: float(usable))
    assert machine.cores().state == "ok"


def test_memory_is_the_machines_or_the_containers(monkeypatch):
    monkeypatch.setattr(cgroups, "memory_limit", lambda: None)
    assert machine.memory().state == "ok"
    found = machine.memory(1 << 60)
    assert (found.state, "killed, not refused" in found.found) == ("warning", True)
    monkeypatch.setattr(cgroups, "memory_limit", lambda: GB)
    found = machine.memory(16 * GB)
    assert (found.state, found.found.startswith("1GB of "), "may be killed" in found.found) == ("warning", True, True)
    monkeypatch.setattr(cgroups, "memory_limit", lambda: 3 * GB)
    assert machine.memory(16 * GB).remedy == "--set index.build_memory=2.3GB"
    assert machine.memory(2 * GB).state == "ok"


def test_room_is_that_of_the_disk_a_folder_will_be_on(tmp_path, monkeypatch):
    folder = str(tmp_path / "not" / "there" / "yet")
    assert machine.room("disk", folder, 1).state == "ok"
    found = machine.room("disk", folder, 1 << 50)
    assert (found.state, "a run may need 1024TB" in found.found) == ("warning", True)
    monkeypatch.setattr(machine, "LEAST_ROOM", 1 << 60)
    assert machine.room("disk", folder, 1).state == "error"
    assert not (tmp_path / "not").exists()
