"""fastslow doctor: every check in turn, one that breaks down is an error of its own; nothing is left behind."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from pipelines.doctor import accelerator, dataset, environment, machine, models, runner, served, store
from pipelines.doctor.finding import Finding, error, ok
from pipelines.index.proposal import parse_bytes
from pipelines.jobs import resolve_job, resolve_runner
from schemas.errors import ConfigError, FastslowError
from schemas.jobs import Job

LEAST_ROOM = 1 << 30
"""Wanted on a disk whatever the dataset."""

ROOM_SHARE = 0.2
"""Of the shards' bytes, for what a run leaves: 4 kB an item on the demo, more with wider vectors."""


@dataclass(frozen=True)
class Report:
    """All that was found, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[str]:
        """Names of the checks that found an error."""
        return [finding.check for finding in self.findings if finding.state == "error"]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {"errors": self.errors, "findings": [finding._asdict() for finding in self.findings]}

    def refuse(self) -> None:
        """Passes silently without errors.

        Raises:
          FastslowError: a run would fail.
        """
        if self.errors:
            raise FastslowError(f"a run would fail: {', '.join(dict.fromkeys(self.errors))}")


def run(name: str | None, beam_args: Sequence[str] | None = None, *, root: str, **overrides: Any) -> Report:
    """Looks at everything a run would need.

    Args:
      name: of the dataset, or its YAML file; None: the machine, the root and the options alone.
      root: output root.
      overrides: as `resolve_job` takes them.
    """
    with ThreadPoolExecutor(len(environment.TOGETHER)) as pool:  # in processes of their own, meanwhile:
        loading = [pool.submit(environment.loaded, *one) for one in environment.TOGETHER.items()]
        findings, job, named = [], None, overrides.get("runner")
        if name is not None:
            try:
                job = resolve_job(name, beam_args, root=root, **overrides)
                findings.append(ok("config", job.dataset.name))
            except ConfigError as problem:
                findings.append(error("config", str(problem)))
        inputs = _inputs(job) if job else dataset.Inputs([])
        for check, look in _looks(job, inputs, root, named, beam_args or ()):
            findings += _guarded(check, look)
        loads = [future.result() for future in loading]
    torch = next((one.torch for one in loads if one.torch), None)
    gpu = _guarded("gpu", lambda: [accelerator.look(torch)] if torch else [])
    return Report(
        (
            environment.python(),
            environment.packages(),
            environment.compiled(),
            *(one.finding for one in loads),
            *gpu,
            *findings,
        )
    )


Look = Callable[[], Iterable[Finding]]


def _looks(
    job: Job | None, inputs: dataset.Inputs, root: str, named: str | None, beam_args: Sequence[str]
) -> list[tuple[str, Look]]:
    """Name and check, in order."""
    needed = LEAST_ROOM + int(ROOM_SHARE * inputs.size_bytes)
    looks: list[tuple[str, Look]] = [
        ("cores", lambda: [machine.cores()]),
        ("memory", lambda: [machine.memory(_build_memory(job))]),
        ("temp", lambda: [machine.room("temp", tempfile.gettempdir(), needed)]),
        ("disk", lambda: [machine.room("disk", url_to_fs(root)[1], needed)] if store.is_local(root) else []),
        ("root", lambda: store.look(root)),
    ]
    if job is not None:
        looks += [
            ("inputs", lambda: inputs.findings),
            ("encoder", lambda: [models.look("encoder", job.encoder)]),
            ("scorer", lambda: [models.look("scorer", job.scorer)] if job.scorer else [ok("scorer", "none")]),
            ("lock", lambda: [served.lock(job.layout)]),
            ("served", lambda: [served.generation(job.layout)]),
        ]
    loaded = job.models if job is not None else {}
    return [*looks, ("runner", lambda: _where(named, beam_args, root, inputs.shards, loaded))]


def _where(
    named: str | None, beam_args: Sequence[str], root: str, shards: Sequence[str], loaded: Mapping[str, str]
) -> list[Finding]:
    try:
        return runner.look(resolve_runner(named, beam_args), root=root, shards=shards, models=loaded)
    except ConfigError as problem:
        return [error("runner", str(problem))]


def _guarded(check: str, look: Look) -> list[Finding]:
    """What a check finds; that it cannot be made is an error of its own."""
    try:
        return list(look())
    except Exception as problem:  # noqa: BLE001 - a store or a driver may raise anything
        return [_broken(check, problem)]


def _inputs(job: Job) -> dataset.Inputs:
    """The same for what the other checks build on."""
    try:
        return dataset.look(job)
    except Exception as problem:  # noqa: BLE001 - as above
        return dataset.Inputs([_broken("shards", problem)])


def _broken(check: str, problem: Exception) -> Finding:
    said = str(problem) if isinstance(problem, FastslowError) else f"{type(problem).__name__}: {problem}"
    return error(check, f"could not be looked at: {said}")


def _build_memory(job: Job | None) -> int | None:
    return parse_bytes(job.dataset.index.build_memory, what="index.build_memory") if job else None
