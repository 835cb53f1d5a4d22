"""The lock of a dataset, and the generation that is served."""

from pipelines.doctor.finding import Finding, error, ok, warning
from pipelines.reindex import publish
from pipelines.reindex.lock import held
from pipelines.reindex.named import missing
from schemas.errors import InputError
from schemas.layout import Layout
from schemas.manifests import Generation


def lock(layout: Layout) -> Finding:
    """Who is at work on the dataset."""
    try:
        owner = held(layout)
    except InputError as problem:
        return error("lock", str(problem), f"if no run is at work, remove {layout.lock()}")
    if owner is None:
        return ok("lock", "free")
    if owner.stale:
        return warning("lock", f"left by {owner.who}: {owner.stale}", "nothing: the next run takes it over")
    return warning("lock", f"held by {owner.who}", "wait: another run would end with exit code 75")


def generation(layout: Layout) -> Finding:
    """What CURRENT names, and whether all of its files are there."""
    try:
        number = publish.current(layout)
    except InputError as problem:
        known = ", ".join(map(str, publish.numbers(layout))) or "none"
        return error("served", str(problem), f"put a number into it (there are {known}), or remove it and reindex")
    if number is None:
        return ok("served", "nothing yet")
    try:
        gone = missing(layout, Generation.read(layout.generation(number)))
    except InputError as problem:
        gone = [str(problem)]
    if gone:
        found = f"generation {number}: {len(gone)} of its files cannot be read: {gone[0]}"
        return error("served", found, _back(layout, number))
    return ok("served", f"generation {number}")


def _back(layout: Layout, lost: int) -> str:
    others = [number for number in publish.numbers(layout) if number != lost]
    if others:
        return f"fastslow rollback {layout.dataset} {others[-1]}"
    return f"fastslow verify {layout.dataset} says what is lost, and how to make it again"
