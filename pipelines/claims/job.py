"""Runs claims, keeps the findings, writes the page. Run again, what was trained is not trained again."""

import logging
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.claims import findings, trained
from pipelines.claims.findings import Finding, not_tested
from pipelines.claims.page import render
from pipelines.claims.papers import CLAIMS, SYSTEMS
from schemas.commits import publish_bytes
from schemas.errors import ConfigError, ModelError

logger = logging.getLogger(__name__)

SEEDS = (1, 2, 3)
QUICK_SEEDS = 2
"""Of the trainings of a quick run."""

WIDTHS = (64, 256, 768)
SIZES = (1_000, 10_000, 100_000)
"""Of HV2: widths as a paper's encoder would have, and numbers of items."""


def run(
    out: Path,
    *,
    folder: Path,
    quick: bool,
    seeds: Sequence[int] = SEEDS,
    only: Sequence[str] = (),
    models: dict[str, str] | None = None,
) -> dict[str, Finding]:
    """Measures claims, and writes `out`/claims.json and `out`/claims.md.

    Args:
      out: findings of other claims in its claims.json stay.
      folder: of checkpoints trained on the way.
      quick: leave out those whose trainings take more than minutes; what was found of them before stays.
      only: ids; empty: all.
      models: checkpoint by letters of the system, instead of those of the demo.

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
    wanted = list(only) or list(CLAIMS)
    known = findings.read(out / "claims.json")
    found: dict[str, Finding] = {}
    made = {"quick": quick, "galleries": _galleries(), "machine": _machine()}
    for name, one in _decided(wanted, folder, quick=quick, seeds=seeds, models=models or {}, known=known):
        logger.info("%s: %s%s", name, one.verdict, f", {one.ours}" if one.ours else "")
        again = " ".join(f"--seeds {seed}" for seed in one.seeds or seeds)
        found[name] = replace(one, command=f"fastslow claims --only {name} {again}")
        findings.write(out / "claims.json", known | found, surroundings=made)
        publish_bytes(render(known | found, made).encode(), str(out / "claims.md"))
    return found


def _decided(
    wanted: Sequence[str],
    folder: Path,
    *,
    quick: bool,
    seeds: Sequence[int],
    models: dict[str, str],
    known: dict[str, Finding],
) -> Any:
    """Claims and findings, system by system; a system without a model is not tested."""
    from pipelines.claims.cost import hv2
    from pipelines.claims.measured import MEASURES, Measured
    from pipelines.claims.scores import open_checkpoint

    on = trained.Trained(folder, seeds[:QUICK_SEEDS] if quick else seeds, tell=logger.info)
    for letters, (title, shipped) in SYSTEMS.items():
        ours = [name for name in wanted if CLAIMS[name].system == letters]
        if not ours:
            continue
        logger.info("%s", title)
        measured = None
        if any(name in MEASURES for name in ours):
            try:
                model = open_checkpoint(models.get(letters, f"builtin:{shipped}"))
            except (ConfigError, ModelError) as error:
                yield from ((name, not_tested(name, f"no trained model: {error}")) for name in ours)
                continue
            measured = Measured(model, seeds, tell=logger.info)
        for name in ours:
            started = time.monotonic()
            if name in MEASURES and measured is not None:
                yield name, MEASURES[name](measured)
            elif name == "HV2":
                with tempfile.TemporaryDirectory() as scratch:
                    yield name, hv2(WIDTHS, SIZES, Path(scratch))
            elif not quick or name in trained.QUICK:
                yield name, trained.decide([name], on)[name]
            elif name not in known:
                yield name, not_tested(name, "its trainings take hours: `fastslow claims` without --quick")
            logger.debug("%s: %.0f s", name, time.monotonic() - started)


def _galleries() -> str:
    from pipelines.claims.measured import ITEMS, TEXTS

    return f"galleries of {ITEMS:,} scenes with {TEXTS} texts, one a seed, unless a row says else"


def _machine() -> dict[str, Any]:
    from encoders.training.train import LIBRARIES

    versions = {name: version(name) for name in LIBRARIES}
    return {"CPU": platform.machine(), "Python": platform.python_version(), **versions}
