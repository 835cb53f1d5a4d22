"""Cores, memory and room on disks, as far as this process may use them."""

import math
import os
import shutil
from pathlib import Path

from pipelines.doctor import cgroups
from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.index.proposal import human

LEAST_MEMORY = 2 << 30
"""A stage holds Beam, torch or FAISS, and a model."""

LEAST_ROOM = 100 << 20
"""Below it nothing of use can be written."""


def cores() -> Finding:
    """Cores of this process, against the time that its container gives it."""
    usable, quota = len(os.sched_getaffinity(0)), cgroups.cpu_limit()
    if quota is not None and quota < usable - 0.5:
        whole = math.ceil(quota)
        return warning(
            "cores",
            f"{usable}, but the container may use the time of {quota:g}: a lane a core would wait for the others",
            f"start it with so many cores (docker --cpuset-cpus=0-{whole - 1}), or: taskset -c 0-{whole - 1} ...",
        )
    return ok("cores", f"{usable} of {os.cpu_count()}")


def memory(build_memory: int | None = None) -> Finding:
    """Memory of this machine or container.

    Args:
      build_memory: bytes that building an index may take; None: not known.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = cgroups.memory_limit()
    most = min(machine, limit or machine)
    found = human(most) if most == machine else f"{human(most)} of {human(machine)}, a limit of the container"
    if most < LEAST_MEMORY:
        return warning("memory", f"{found}: a stage may be killed", f"give it {human(LEAST_MEMORY)} or more")
    if build_memory is not None and build_memory > most:
        return warning(
            "memory",
            f"{found}, index.build_memory allows {human(build_memory)}: a large index would be killed, not refused",
            f"--set index.build_memory={human(0.75 * most)}",
        )
    return ok("memory", found)


def room(check: str, folder: str, needed: int) -> Finding:
    """Free bytes on the disk of a folder, which need not be there yet.

    Args:
      needed: bytes, an estimate.
    """
    place = Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{human(free)} free in {folder}"
    if free < LEAST_ROOM:
        return error(check, found, "make room, or use another folder")
    if free < needed:
        return warning(check, f"{found}, a run may need {human(needed)}", "make room, or use another folder")
    return ok(check, found)
