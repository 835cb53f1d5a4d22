"""Which kind of index: autofaiss's memory-capped heuristics behind our errors, or the key from the config."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from schemas.configs import Index
from schemas.errors import ConfigError, IndexBuildError

ID_BYTES = 8
UNITS = {unit: 1024**power for power, unit in enumerate("BKMGTP")}

_OWN_KEYS = re.compile(
    r"Flat|HNSW\d+|IVF\d+,Flat|OPQ\d+_\d+,IVF\d+(_HNSW\d+)?,PQ\d+(x\d+)?|Pad\d+,IVF\d+_HNSW\d+,PQ\d+(x\d+)?"
)
"""Keys autofaiss builds right. It matches by search, so that it takes `IVF16_HNSW32,PQ8` for a plain HNSW."""


class Proposal(NamedTuple):
    """A kind of index.

    Attributes:
      key: FAISS factory string.
      reason: one sentence on why this one.
      estimated_bytes: of the filled index in memory.
    """

    key: str
    reason: str
    estimated_bytes: int


def parse_bytes(text: str, *, what: str) -> int:
    """Bytes of a size such as "4GB", "512M" or "1.5 GiB"; units are powers of 1024, as autofaiss takes them.

    >>> parse_bytes("1.5GB", what="index.max_memory")
    1610612736

    Raises:
      ConfigError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([BKMGTP])(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{what}: expected a size like 4GB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def propose(rows: int, dim: int, config: Index) -> Proposal:
    """The kind of index for `rows` vectors of width `dim` within `config.max_memory`.

    Raises:
      ConfigError: the key or the size in the config cannot be understood.
      IndexBuildError: nothing fits; names the least memory that would do.
    """
    cap = parse_bytes(config.max_memory, what="index.max_memory")
    if config.key != "auto":
        needed = estimated_bytes(config.key, rows, dim)
        if needed > cap:
            raise IndexBuildError(
                f"index.key {config.key!r} needs about {human(needed)} for {rows} vectors of width {dim}, "
                f"index.max_memory is {human(cap)}: raise it to {human(needed)}, or set index.key to auto"
            )
        return Proposal(config.key, "set in the config", needed)
    found = _within(cap, rows, dim)
    if found is None:
        least = _least(lambda limit: _within(limit, rows, dim) is not None, cap)
        raise IndexBuildError(
            f"no index of {rows} vectors of width {dim} fits into index.max_memory {human(cap)}; "
            + (f"the least that would do is {human(least)}" if least else "nor into a thousand times as much")
        )
    key, needed = found
    plain = rows * (4 * dim + ID_BYTES)
    why = (
        "vectors are kept whole"
        if "Flat" in key
        else f"vectors are compressed, whole they would take {human(plain)} and more"
    )
    reason = f"autofaiss's choice for {rows} vectors of width {dim} within {human(cap)}: {why}"
    return Proposal(key, reason, needed)


def human(count: float) -> str:
    """A number of bytes for people, rounded up so that it can be pasted into a config.

    >>> human(1610612736)
    '1.5GB'
    """
    for unit in "BKMGT":
        if count < 1024 or unit == "T":
            tenths = -int(-count * 10 // 1)
            return f"{tenths / 10:g}{'' if unit == 'B' else unit}B"
        count /= 1024
    raise AssertionError  # the last unit always returns


def estimated_bytes(key: str, rows: int, dim: int) -> int:
    """Memory of a filled index, from its parts; within a few percent of the written file.

    Raises:
      ConfigError: FAISS does not know the key, or the kind is not supported.
    """
    index = empty_index(key, dim)
    try:
        return _bytes_of(index, rows) + rows * ID_BYTES
    except RuntimeError as error:
        raise ConfigError(
            f"index.key: {key!r}: {type(index).__name__} is a kind that is not supported; "
            "use Flat, IVF, HNSW, PQ or SQ kinds, or auto"
        ) from error


def empty_index(key: str, dim: int) -> Any:
    """An untrained FAISS index by inner product.

    Built by autofaiss where it knows the kind (it corrects FAISS's factory for inner products), else by FAISS.

    Raises:
      ConfigError: neither knows the key.
    """
    import faiss
    from autofaiss.indices.training import create_empty_index

    try:
        with quiet_autofaiss():
            if _OWN_KEYS.fullmatch(key):
                return create_empty_index(dim, key, faiss.METRIC_INNER_PRODUCT)
            return faiss.index_factory(dim, key, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"index.key: {key!r} is no FAISS factory string for vectors of width {dim} "
            f"({str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__})"
        ) from error


@contextmanager
def quiet_autofaiss() -> Iterator[None]:
    """Keeps autofaiss's log to warnings; it reports every call at INFO."""
    logger = logging.getLogger("autofaiss")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _within(cap: int, rows: int, dim: int) -> tuple[str, int] | None:
    """Autofaiss's best key whose whole size fits, or None.

    Its own estimate leaves ids out and it does not look at the cap below 10,000 rows; so what it names is
    measured here, and it is asked again for less.
    """
    asked = cap
    for _ in range(12):
        keys = _ask_autofaiss(rows, dim, asked)
        for key in keys:
            needed = estimated_bytes(key, rows, dim)
            if needed <= cap:
                return key, needed
        if not keys:
            return None
        asked = int(asked * 0.8)
    return None


def _ask_autofaiss(rows: int, dim: int, limit: int) -> list[str]:
    from autofaiss.external.optimize import get_optimal_index_keys_v2

    try:
        with quiet_autofaiss():
            # Memory-mappable kinds only: an index is served from its file, and holds its ids itself.
            keys = get_optimal_index_keys_v2(rows, dim, f"{limit}B", should_be_memory_mappable=True)
    except Exception as error:
        raise IndexBuildError(
            f"autofaiss cannot propose an index for {rows} vectors of width {dim} within {human(limit)}: "
            f"{type(error).__name__}: {error}; set index.key to a FAISS factory string"
        ) from error
    return list(keys or [])


def _least(fits: Callable[[int], bool], start: int) -> int | None:
    """The least number of bytes that fits, to 1 %, found by trying; None when 1000 x `start` (or 1 TiB) does not."""
    low, high = start, max(start, 1024)
    while not fits(high):
        low, high = high, high * 2
        if high > max(1000 * start, UNITS["T"]):
            return None
    while high - low > high // 100 + 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _bytes_of(index: Any, rows: int) -> int:
    """Bytes of an index's structure and codes for a number of rows, without the ids of its items."""
    import faiss

    whole = faiss.downcast_index(index)  # not rebound: the caller may hold no other reference
    if isinstance(whole, faiss.IndexIDMap):
        return _bytes_of(whole.index, rows)
    if isinstance(whole, faiss.IndexPreTransform):
        chain = [whole.chain.at(i) for i in range(whole.chain.size())]
        return sum(_link_bytes(faiss.downcast_VectorTransform(link)) for link in chain) + _bytes_of(whole.index, rows)
    if isinstance(whole, faiss.IndexRefine):
        return _bytes_of(whole.base_index, rows) + _bytes_of(whole.refine_index, rows)
    if isinstance(whole, faiss.IndexIVF):
        return rows * int(whole.code_size) + _bytes_of(whole.quantizer, whole.nlist) + _codebook_bytes(whole)
    if isinstance(whole, faiss.IndexHNSW):
        # Links: 2 M on the ground floor and M above, where one node in M goes; level and offset of each node.
        links = 4 * whole.hnsw.nb_neighbors(0) * (1 + 1 / max(1, whole.hnsw.nb_neighbors(1)))
        return int(rows * (links + 12)) + _bytes_of(whole.storage, rows)
    return rows * int(whole.sa_code_size()) + _codebook_bytes(whole)


def _link_bytes(link: Any) -> int:
    """Bytes of a vector transform: its matrix, and for PCA the whole basis beside it."""
    import faiss

    basis = int(link.d_in) ** 2 if isinstance(link, faiss.PCAMatrix) else 0
    return 4 * (int(link.d_in) * int(link.d_out) + basis)


def _codebook_bytes(index: Any) -> int:
    quantizer = getattr(index, "pq", None)
    return 0 if quantizer is None else 4 * int(quantizer.d) * int(quantizer.ksub)
