"""What a container may use: the tightest limit of the control groups, versions 1 and 2, that this process is in."""

from collections.abc import Iterator
from pathlib import Path

PROCESS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")

NO_LIMIT = 1 << 60
"""Bytes; version 1 writes a number beyond it for none."""


def memory_limit(process: Path = PROCESS, mounted: Path = MOUNTED) -> int | None:
    """Bytes; None where there is no limit, or no control groups."""
    found = []
    for folder in _folders("memory", process, mounted):
        for name in ("memory.max", "memory.limit_in_bytes"):
            found += [int(word) for word in _words(folder / name) if word.isdigit()]
    return min((value for value in found if value < NO_LIMIT), default=None)


def cpu_limit(process: Path = PROCESS, mounted: Path = MOUNTED) -> float | None:
    """Cores' worth of time; None where there is no limit, or no control groups."""
    found = []
    for folder in _folders("cpu", process, mounted):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words):  # "max" or -1: no limit
            found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def _folders(controller: str, process: Path, mounted: Path) -> Iterator[Path]:
    """The group of this process and all above it; a container may see only the topmost."""
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mounted / controllers
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(base))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
