"""What came out for each claim, and the JSON file it is kept in."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.claims.bootstrap import compare_by_subject
from pipelines.claims.papers import CLAIMS
from pipelines.claims.prediction import next_seed
from pipelines.evaluate.metrics import Interval, compare
from schemas.commits import encode_json, publish_bytes

Verdict = Literal["holds", "does not hold", "not tested"]


@dataclass(frozen=True)
class Finding:
    """What we found.

    Attributes:
      claim: id.
      verdict: by the claim's bound; "not tested" where there was nothing to test it with.
      ours: the numbers, in words.
      values: one a seed, in the order of `seeds`.
      seeds: of the galleries, or of the trainings.
      interval: 95 %, paired bootstrap over the queries of all seeds; None where there are no queries.
      note: what limits it, or why it was not tested.
      command: that makes it again.
      facts: more, for whoever reads the JSON.
    """

    claim: str
    verdict: Verdict
    ours: str = ""
    values: Sequence[float] = ()
    seeds: Sequence[int] = ()
    interval: tuple[float, float] | None = None
    note: str = ""
    command: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def verdict(holds: bool) -> Verdict:
    """In words."""
    return "holds" if holds else "does not hold"


def not_tested(claim: str, why: str) -> Finding:
    """Says so."""
    return Finding(claim, "not tested", note=why)


def difference(
    claim: str,
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    *,
    holds: Callable[[float], bool],
    names: tuple[str, str],
    seeds: Sequence[int],
    subjects: Sequence[np.ndarray] | None = None,
    note: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Finding:
    """A claim about the difference of two means over the same queries.

    Args:
      ours, theirs: by seed, one value a query.
      holds: of the mean difference.
      names: of both sides.
      subjects: by seed, what each query is of; None: every query is of something else.
    """
    values = [float(a.mean() - b.mean()) for a, b in zip(ours, theirs, strict=True)]
    both = np.concatenate(ours), np.concatenate(theirs)
    found: Interval = compare(*both) if subjects is None else compare_by_subject(*both, np.concatenate(subjects))
    first, second = float(both[0].mean()), float(both[1].mean())
    said = f"{names[0]} {first:.1f}, {names[1]} {second:.1f}: {found.value:+.1f}"
    return Finding(
        claim,
        verdict(holds(found.value)),
        said,
        rounded(values),
        tuple(seeds),
        (round(found.low, 3), round(found.high, 3)),
        note,
        facts={"queries": len(ours[0]), **(facts or {})},
    )


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """To three places, so that files do not change with the last bits of a machine."""
    return tuple(round(float(value), 3) for value in values)


@dataclass(frozen=True)
class Made:
    """What was found on one bench.

    Attributes:
      findings: by claim.
      made: where and on what; of the last run of all claims.
    """

    findings: Mapping[str, Finding] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)


def read(path: Path) -> dict[str, Made]:
    """What was found by bench; none where there is no file."""
    if not path.is_file():
        return {}
    tuples = ("values", "seeds", "interval")  # lists in JSON
    benches: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["on"]
    return {
        name: Made(
            {
                row["claim"]: Finding(**row | {key: tuple(row[key]) for key in tuples if row[key] is not None})
                for row in one["findings"]
            },
            one["made"],
        )
        for name, one in benches.items()
    }


def write(path: Path, found: Mapping[str, Made]) -> None:
    """Findings in the order of the claims, by bench."""
    rows = {
        name: {"findings": [asdict(one.findings[claim]) for claim in CLAIMS if claim in one.findings], "made": one.made}
        for name, one in found.items()
    }
    publish_bytes(encode_json({"on": rows}), str(path))


def expected(found: Finding) -> tuple[float, float] | None:
    """Where another seed is expected to land; None where nothing says so."""
    queries = found.facts.get("queries")
    return next_seed(found.values, step=100 / queries if queries else 0.0)


def kept(before: Finding | None, now: Finding, seeds: Sequence[int]) -> bool:
    """Whether an earlier finding stays: it was tested, with seeds that are not all among those of now.

    Args:
      seeds: of the earlier finding, where it names none: those of a usual run.
    """
    if before is None or before.verdict == "not tested":
        return False
    return now.verdict == "not tested" or not set(before.seeds or seeds) <= set(now.seeds or seeds)
