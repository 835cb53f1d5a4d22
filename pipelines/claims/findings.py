"""What came out for each claim, and the JSON file it is kept in."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.claims.papers import CLAIMS
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
    note: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Finding:
    """A claim about the difference of two means over the same queries.

    Args:
      ours, theirs: by seed, one value a query.
      holds: of the mean difference.
      names: of both sides.
    """
    values = [float(a.mean() - b.mean()) for a, b in zip(ours, theirs, strict=True)]
    found: Interval = compare(np.concatenate(ours), np.concatenate(theirs))
    first, second = float(np.concatenate(ours).mean()), float(np.concatenate(theirs).mean())
    said = f"{names[0]} {first:.1f}, {names[1]} {second:.1f}: {found.value:+.1f}"
    verdict: Verdict = "holds" if holds(found.value) else "does not hold"
    return Finding(
        claim,
        verdict,
        said,
        rounded(values),
        tuple(seeds),
        (round(found.low, 3), round(found.high, 3)),
        note,
        facts=facts or {},
    )


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """To three places, so that files do not change with the last bits of a machine."""
    return tuple(round(float(value), 3) for value in values)


def read(path: Path) -> dict[str, Finding]:
    """Findings by claim; none where there is no file."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["findings"]
    tuples = ("values", "seeds", "interval")  # lists in JSON
    return {
        row["claim"]: Finding(**row | {name: tuple(row[name]) for name in tuples if row[name] is not None})
        for row in rows
    }


def write(path: Path, found: Mapping[str, Finding], *, surroundings: Mapping[str, Any]) -> None:
    """Findings in the order of the claims, and where they were made."""
    rows = [asdict(found[name]) for name in CLAIMS if name in found]
    publish_bytes(encode_json({"findings": rows, "made": surroundings}), str(path))
