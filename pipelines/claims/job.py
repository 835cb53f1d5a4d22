"""Runs claims on a bench, keeps the findings, writes the page. Run again, what was trained is not trained again."""

import logging
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipelines.claims import contests, findings, records
from pipelines.claims.bench import Bench
from pipelines.claims.findings import Finding, Made, not_tested
from pipelines.claims.on_scenes import scenes_bench
from pipelines.claims.page import render
from pipelines.claims.papers import CLAIMS, SYSTEMS
from pipelines.claims.trained import Trained
from schemas.commits import publish_bytes
from schemas.errors import ConfigError, InputError, ModelError

logger = logging.getLogger(__name__)

SEEDS = (1, 2, 3)
QUICK_SEEDS = 2
"""Of the trainings of a quick run."""

WIDTHS = (64, 256, 768)
SIZES = (1_000, 10_000, 100_000)
"""Of HV2: widths as a paper's encoder would have, and numbers of items."""

FILE = "claims.json"
RECORDS = "claims"
TARGETS = "targets.json"


@dataclass(frozen=True)
class Outcome:
    """What a run found of a claim, beside what was recorded before.

    Attributes:
      finding: of this run.
      recorded: the earlier finding, where it stays because its seeds are others; None: that of this run is recorded.
    """

    finding: Finding
    recorded: Finding | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Where the recorded seeds say that those of this run should land."""
        return None if self.recorded is None else findings.expected(self.recorded)

    @property
    def lands(self) -> bool | None:
        """Whether all values of this run are there; None where that cannot be said."""
        bounds = self.bounds
        if bounds is None or not self.finding.values:
            return None
        return all(bounds[0] <= value <= bounds[1] for value in self.finding.values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {"verdict": self.finding.verdict, "values": list(self.finding.values)}
        bounds = {"recorded_range": self.bounds, "lands": self.lands}
        return found | ({} if self.recorded is None else bounds)


def run(
    out: Path,
    *,
    folder: Path,
    quick: bool,
    seeds: Sequence[int] = SEEDS,
    only: Sequence[str] = (),
    bench: Bench | None = None,
    again: bool = False,
) -> dict[str, Outcome]:
    """Measures claims, and writes `out`/claims.json, `out`/claims.md and a record of each training.

    A finding that was recorded with seeds which are not all among those of now stays as it is; what is found now is
    then told beside the range that the recorded seeds predict.

    Args:
      out: findings of other claims and of the other bench in its claims.json stay.
      folder: of checkpoints trained on the way.
      quick: leave out those whose trainings take more than minutes; what was found of them before stays.
      only: ids; empty: all.
      bench: None: the scenes.
      again: record what is found now, whatever the seeds.

    Returns:
      What was found now.

    Raises:
      ConfigError: an unknown id, or seeds that are not distinct.
    """
    unknown = [name for name in only if name not in CLAIMS]
    if unknown:
        raise ConfigError(f"unknown claim {unknown[0]!r}; known: {', '.join(CLAIMS)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds: expected one or more, all different, got {list(seeds)}")
    bench = bench or scenes_bench()
    ours = findings.read(out / FILE).get(bench.name, Made())
    stay, made = ours.findings, ours.made
    if not only or not made:
        made = {"quick": quick, "galleries": bench.galleries, "machine": _machine()}
    on = Trained(bench, folder, seeds, out / RECORDS / bench.name, tell=logger.info)
    found: dict[str, Outcome] = {}
    for name, one in _decided(list(only) or list(CLAIMS), on, quick=quick, known=stay):
        logger.info("%s: %s%s", name, one.verdict, f", {one.ours}" if one.ours else "")
        before, now = stay.get(name), replace(one, command=_command(bench, name, one.seeds or seeds))
        if before is not None and not again and findings.kept(before, now, SEEDS):
            found[name] = Outcome(now, before)
            continue
        found[name] = Outcome(now)
        _record(out, bench.name, name, now, made)
    return found


def _record(out: Path, bench: str, claim: str, now: Finding, made: Mapping[str, Any]) -> None:
    """Puts a finding into claims.json and onto the page, beside what another run may have put there meanwhile."""
    with FileLock(out / f".{FILE}.lock"):
        known = findings.read(out / FILE)
        there = known.get(bench, Made()).findings
        findings.write(out / FILE, known | {bench: Made({**there, claim: now}, made)})
        page(out)


def page(out: Path) -> None:
    """Writes `out`/claims.md from the JSON files beside it; no model is needed.

    Raises:
      InputError: there is no claims.json.
    """
    found = findings.read(out / FILE)
    if not found:
        raise InputError(f"{out / FILE}: expected findings, found none; measure some first: fastslow claims --quick")
    trainings = {name: records.read_all(out / RECORDS / name) for name in found}
    targets = records.read(out / RECORDS / "flickr8k" / TARGETS)
    publish_bytes(render(found, trainings, targets).encode(), str(out / "claims.md"))


def bench_of(name: str, *, folder: Path | None, work: Path, settings: Sequence[str]) -> Bench:
    """The scenes, or Flickr8k.

    Args:
      folder: of Flickr8k's shards.
      work: folder under which the features of its photos are kept.
      settings: laid over every training on Flickr8k.

    Raises:
      ConfigError: an unknown name, or options of the other bench.
      InputError: shards that are not there.
    """
    if name == "scenes":
        if folder is not None or settings:
            raise ConfigError("--shards and --set are of photos; expected --on flickr8k beside them")
        return scenes_bench()
    if name != "flickr8k":
        raise ConfigError(f"--on: expected scenes or flickr8k, got {name!r}")
    from pipelines.claims.on_photos import photo_bench

    return photo_bench(_given(folder), features=work / "features", settings=settings)


def reach(
    out: Path, *, encoder: str | None, scorer: str | None, folder: Path | None, texts: int, others: Sequence[str]
) -> dict[str, Any]:
    """Measures targets on Flickr8k, keeps them in `out`, and writes the page anew.

    Args:
      encoder, scorer: checkpoints; expected both.
      folder: of Flickr8k's shards and expert grades.
      texts: captions scored with all photos.
      others: `NAME=GLOB` of other captioned shards.

    Returns:
      See `pipelines.claims.targets.measure`.

    Raises:
      ConfigError: an option that is missing or cannot be read.
      InputError: shards or grades that are not there.
    """
    if encoder is None or scorer is None:
        raise ConfigError("--targets: expected the checkpoints --encoder and --scorer, as `fastslow train` writes them")
    named: dict[str, str] = {}
    for one in others:
        name, _, pattern = one.partition("=")
        if not name or not pattern:
            raise ConfigError(f"--other: expected NAME=GLOB, got {one!r}")
        named[name] = pattern
    from pipelines.claims import targets

    found = targets.measure(encoder, scorer, _given(folder), texts=texts, others=named)
    targets.write(out / RECORDS / "flickr8k" / TARGETS, found)
    if (out / FILE).is_file():
        page(out)
    return found


def _given(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError("Flickr8k: expected the folder of its shards, flickr8k-{train,dev,test}-*.tar; give --shards")
    return folder


def _command(bench: Bench, claim: str, seeds: Sequence[int]) -> str:
    parts = ["fastslow claims", bench.option, f"--only {claim}", *(f"--seeds {seed}" for seed in seeds)]
    return " ".join(part for part in parts if part)


def _decided(
    wanted: Sequence[str], on: Trained, *, quick: bool, known: Mapping[str, Finding]
) -> Iterator[tuple[str, Finding]]:
    """Claims and findings, system by system; a system without a model is not tested."""
    from pipelines.claims.cost import hv2
    from pipelines.claims.measured import MEASURES, Measured

    bench = on.bench
    few = replace(on, seeds=on.seeds[:QUICK_SEEDS]) if quick else on
    for letters, (title, _) in SYSTEMS.items():
        ours = [name for name in wanted if CLAIMS[name].system == letters]
        if not ours:
            continue
        logger.info("%s", title)
        measured = Measured(on, bench.mains[letters])
        missing = _missing(measured) if any(name in MEASURES for name in ours) else ""
        for name in ours:
            started = time.monotonic()
            if missing:
                yield name, not_tested(name, missing)
            elif name in MEASURES:
                yield name, MEASURES[name](measured)
            elif name == "HV2":
                with tempfile.TemporaryDirectory() as scratch:
                    yield name, hv2(WIDTHS, SIZES, Path(scratch))
            elif not quick or name in bench.quick:
                yield name, contests.decide([name], few)[name]
            elif name not in known:
                options = f" {bench.option}" if bench.option else ""
                yield name, not_tested(name, f"its trainings take hours: `fastslow claims{options}` without --quick")
            logger.debug("%s: %.0f s", name, time.monotonic() - started)


def _missing(measured: "Any") -> str:
    """Why the main model of a system cannot be had; empty where it can. One that is trained here can, or fails."""
    if measured.name in measured.on.bench.trainings:
        return ""
    try:
        measured.model(measured.seeds[0])
    except (ConfigError, ModelError) as error:
        return f"no trained model: {error}"
    return ""


def _machine() -> dict[str, Any]:
    from encoders.training.train import LIBRARIES

    versions = {name: version(name) for name in LIBRARIES}
    return {"CPU": platform.machine(), "Python": platform.python_version(), **versions}
