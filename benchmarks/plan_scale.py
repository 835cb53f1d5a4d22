"""A run over more items than were ever tried here, on paper, from the unit costs the benchmarks have measured.

    python -m benchmarks.plan_scale                                      the tables of docs/scale.md, as Markdown
    python -m benchmarks.plan_scale --items 1e8 --queries 1e6 --workers 20
    python -m benchmarks.plan_scale --gpu-images-per-s 2000              GPU hours at a rate of your own
    python -m benchmarks.plan_scale --write docs/scale.md                puts them between the marks there

Nothing is run. Costs are taken from `benchmarks/results` and multiplied by what they grow with, in proportion unless a
table says otherwise; docs/scale.md says what that leaves out. The kind of index, its bytes and the multiply-adds of its
training come from the functions behind `fastslow index --plan`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).resolve().parent / "results"

HOUR = 3600.0
MAPS = 65_530
"""Of a process, Linux's default of vm.max_map_count."""

JOB_GRAPH = 10_000_000
"""Bytes, Dataflow's documented limit: https://cloud.google.com/dataflow/docs/request-quotas."""

READ_AT_ONCE = 16 << 20
"""Of a shard that is embedded, from an object store (docs/object-stores.md)."""

PRICE_OF_READS, PRICE_OF_WRITES = 0.0004 / 1000, 0.005 / 1000
"""Dollars for a GET or HEAD, and for a LIST or PUT, as docs/object-stores.md has them."""

NIGHT = 0.01
"""Share of the items that are others, as the benchmarks of a night and of appending have it."""


@dataclass(frozen=True)
class Given:
    """What is planned.

    Attributes:
      items, queries, width, depth: of the dataset, the log, the vectors, and candidates a query.
      shard_items: items a shard.
      workers, worker_cores: of the cluster.
      cores, memory_gb: of the machine on which the run's own process is.
      serving_memory: index.max_memory.
      hours: a step that one process does alone may take so long.
      gpu_images_per_s, gpu_pairs_per_s: of one GPU; None: not known, and left as R and P.
    """

    items: int = 10**9
    queries: int = 10**7
    width: int = 512
    depth: int = 20
    shard_items: int = 10_000
    workers: int = 100
    worker_cores: int = 16
    cores: int = 16
    memory_gb: int = 128
    serving_memory: str = "64GB"
    hours: float = 8.0
    gpu_images_per_s: float | None = None
    gpu_pairs_per_s: float | None = None


class Row(NamedTuple):
    """A stage, or a step of one.

    Attributes:
      where: "workers" or "one process".
      elements: that are spread over workers; 0 where one process does it.
      read, written, moved: bytes; moved: between the steps of a Beam pipeline.
      core_hours: from, to; the same twice unless growth is in doubt.
      gpu_hours: for people.
      peak: bytes of memory of one process, None where it was not measured.
      threads: whether all cores of the one machine can help.
    """

    name: str
    where: str
    elements: int
    read: float
    written: float
    moved: float
    core_hours: tuple[float, float]
    gpu_hours: str
    peak: float | None
    threads: bool = True


class Limit(NamedTuple):
    """Where today's code stops.

    Attributes:
      of: what.
      here: what it comes to at the size planned.
      bound: what it may come to.
      items: size at which it is hit, queries growing with items.
      how: what happens.
    """

    of: str
    here: str
    bound: str
    items: float
    how: str


class Costs:
    """Unit costs, each with the file it is from.

    Args:
      folder: of the results.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        def read(name: str) -> Any:
            return json.loads((folder / f"{name}.json").read_text())

        embed, self.large, small = read("embed"), read("index_10m"), read("index_1m")
        rates, cores = embed["rates"], embed["surroundings"]["cores"]
        self.core_s_an_image = {dtype: cores / found["end_to_end_images_per_s"] for dtype, found in rates.items()}
        self.core_s_a_text = cores / rates["bfloat16"]["texts_per_s"]["padded_to_batch"]
        self.driver = read("driver")["measured"]
        self.core_s_an_image_read = 1 / self.driver["decode"]["pictures_a_cpu_s"]
        self.image_bytes = self.driver["decode"]["bytes_a_picture"]
        self.row_bytes = read("parquet")["plain_mb"] * 1e6 / 100_000 / 512  # of a number of a vector
        self.embed_peak = max(one["peak_mb"] for one in read("memory")["measured"]) * 2**20
        self.cores = self.large["surroundings"]["cores"]
        self.rows, self.dim = self.large["rows"], self.large["dim"]
        self.seconds = self.large["steps"]["ours"]["seconds"]
        self.append_s = self.large["steps"]["append"]["seconds"]["all"]
        growth = self.rows / small["rows"]
        before = small["steps"]["ours"]["seconds"]
        self.merge_exponent = math.log(self.seconds["merge"] / before["merge"]) / math.log(growth)
        speed = [one["steps"]["answers"]["ours"]["qps"] for one in (small, self.large)]
        self.core_s_a_query = self.cores / speed[1]
        self.query_exponent = math.log(speed[0] / speed[1]) / math.log(growth)
        night = read("night_demo")
        full, changed = night["runs"]["full"], night["runs"]["night"]
        self.core_s_a_pair = night["surroundings"]["cores"] * full["stages"]["rerank"] / full["pairs_scored"]
        self.pairs_of_a_night = changed["pairs_scored"] / full["pairs_scored"]
        self.requests = read("requests")["runs"]
        systems = read("systems")["systems"]
        self.pair_ms = [(one["reranked_ms"] - one["fast_ms"]) / one["pairs_a_query"] for one in systems]


class Built(NamedTuple):
    """An index that is proposed, as `estimate.Estimate` has it, without what is timed."""

    key: str
    lists: int
    serving: int
    building: int
    train_rows: int
    train_macs: int


def proposed(rows: int, dim: int, memory: str, build_memory: str, part_rows: int) -> Built:
    """What `fastslow index --plan` would say of kind and bytes; the same on every machine."""
    from pipelines.index.build import build_bytes, training_rows
    from pipelines.index.estimate import train_work
    from pipelines.index.proposal import propose
    from schemas.configs import Index

    config = Index(max_memory=memory, build_memory=build_memory, refine=True)
    found = propose(rows, dim, config)
    drawn = training_rows(found, rows, dim, config)
    needed = build_bytes(found, dim, train_rows=drawn, part_rows=part_rows)
    lists = re.search(r"IVF(\d+)", found.key)
    macs = sum(train_work(found.key, dim, drawn).values())
    return Built(found.key, int(lists[1]) if lists else 0, found.estimated_bytes, needed.total, drawn, macs)


class Plan:
    """A run of a size.

    Args:
      given: the size.
      costs: of a unit.
    """

    def __init__(self, given: Given, costs: Costs) -> None:
        self.given, self.costs = given, costs
        self.shards = -(-given.items // given.shard_items)
        self.pairs = given.queries * given.depth
        self.candidates = given.items * -math.expm1(-self.pairs / given.items)
        """Distinct ones where they are spread evenly; in a real log fewer."""

        self.vector_bytes = given.items * given.width * costs.row_bytes
        self.growth = given.items / costs.rows * given.width / costs.dim
        """Of what reads or compares each vector, against what was measured."""

    @cached_property
    def built(self) -> Built:
        """The index."""
        given = self.given
        return proposed(given.items, given.width, given.serving_memory, f"{given.memory_gb}GB", given.shard_items)

    @cached_property
    def _train_hours(self) -> float:
        costs, large = self.costs, self.costs.large
        before = proposed(costs.rows, costs.dim, large["memory"], large["build_memory"], 50_000)
        return float(costs.seconds["train"] * costs.cores * self.built.train_macs / before.train_macs / HOUR)

    def exact_hours(self, queries: float, *, walks: int = 1) -> float:
        """Core hours of exhaustive search."""
        macs = queries * self.given.items * self.given.width * walks
        return float(macs / self.costs.driver["exact"]["macs_a_cpu_s"] / HOUR)

    @cached_property
    def tune_queries(self) -> int:
        """Whose neighbours are looked for: texts to tune on, texts held out, items."""
        from pipelines.index.truth import IMAGE_QUERIES, MOST_QUERIES

        return min(2 * MOST_QUERIES, self.given.queries) + IMAGE_QUERIES

    @cached_property
    def stage_queries(self) -> int:
        """That are searched exhaustively to be measured."""
        from pipelines.evaluate.measure import STAGE_QUERIES

        return min(STAGE_QUERIES, self.given.queries)

    @cached_property
    def _tune_hours(self) -> float:
        """Exhaustive search, and the operating points, whose cost is taken to grow with the items."""
        costs = self.costs
        searched = self.tune_queries * costs.rows * costs.dim / costs.driver["exact"]["macs_a_cpu_s"]
        points = max(0.0, costs.seconds["tune"] * costs.cores - searched)
        return self.exact_hours(self.tune_queries) + points * self.given.items / costs.rows / HOUR

    def _same(self, seconds: float) -> tuple[float, float]:
        return seconds / HOUR, seconds / HOUR

    def gpu(self, units: float, rate: float | None, name: str) -> str:
        """GPU hours, or the formula."""
        return f"{units / HOUR:,.0f} / {name}" if rate is None else f"{units / rate / HOUR:,.1f} (rate as given)"

    @cached_property
    def locate_s(self) -> float:
        """CPU seconds of finding candidates in the shards, and of writing the pairs of each."""
        unit = self.costs.driver["pairs"]
        found = (unit["locate_cpu_s_an_item"] + unit["search_cpu_s_an_item"]) * self.given.items
        return float(found + unit["cut_cpu_s_a_pair"] * self.pairs + unit["cut_cpu_s_a_shard"] * self.shards)

    @cached_property
    def collect_s(self) -> float:
        """CPU seconds of collecting the scores of the shards."""
        return float(self.costs.driver["pairs"]["fill_cpu_s_a_shard_and_query"] * self.shards * self.given.queries)

    def merge_s(self, *, exponent: float = 1.0) -> float:
        """Seconds of merging, one thread."""
        costs, given = self.costs, self.given
        return float(costs.seconds["merge"] * (given.items / costs.rows) ** exponent * given.width / costs.dim)

    @cached_property
    def merge_bytes(self) -> float:
        """Memory of all partial indexes, open at once."""
        return float(self.shards * self.built.lists * self.costs.driver["lists"]["bytes_a_list"])

    def search_hours(self, *, exponent: float = 0.0) -> float:
        """Core hours of searching for every query."""
        costs, given = self.costs, self.given
        return costs.core_s_a_query * given.queries * (given.items / costs.rows) ** exponent / HOUR

    @cached_property
    def stages(self) -> list[Row]:
        """Of a first run, in order."""
        given, costs, driver = self.given, self.costs, self.costs.driver
        n, q, ids = given.items, given.queries, 8.0 * given.items
        shuffled = {stage: self.shards * driver["submit"][f"{stage}_moved_bytes_a_shard"] for stage in MOVED}
        lists, vectors = float(self.built.serving), 2.0 * n * given.width
        images, texts = n * costs.image_bytes, 4.0 * q * given.width
        alone, spread = "one process", "workers"
        embed = self._same(n * costs.core_s_an_image["bfloat16"])
        part = self.built.building - self.built.train_rows * given.width * 10
        merge = (self.merge_s() / HOUR, self.merge_s(exponent=costs.merge_exponent) / HOUR)
        search = (self.search_hours(), self.search_hours(exponent=costs.query_exponent))
        fill = self._same(costs.seconds["fill"] * costs.cores * self.growth)
        exact = self.exact_hours(self.stage_queries, walks=2)
        score = self._same(self.pairs * costs.core_s_a_pair)
        locate = self._same(self.locate_s)
        returned = self._same(self.collect_s)
        gpu = self.gpu(n, given.gpu_images_per_s, "R")
        gpu_pairs = self.gpu(self.pairs, given.gpu_pairs_per_s, "P")
        pair_rows, pair_bytes = 40.0 * self.pairs, driver["pairs"]["bytes_a_pair"] * self.pairs
        return [
            Row("embed", spread, self.shards, images, self.vector_bytes, shuffled["embed"], embed, gpu,
                costs.embed_peak),
            Row("embed: ids are unique", alone, 0, ids, 0, 0, (0, 0), "", driver["unique"]["bytes_an_item"] * n, False),
            Row("encode queries", alone, 0, 0, texts, 0, self._same(q * costs.core_s_a_text), "", None),
            Row("index: check", alone, 0, vectors, 0, 0, self._same(costs.seconds["check"] * self.growth), "",
                driver["check"]["bytes_an_item"] * n, False),
            Row("index: train", alone, 0, vectors, 0, 0, (self._train_hours,) * 2, "", float(self.built.building)),
            Row("index: fill", spread, self.shards, vectors, lists, shuffled["fill"], fill, "", float(max(part, 0))),
            Row("index: merge", alone, 0, lists + vectors, 2 * lists + vectors + ids, 0, merge, "", self.merge_bytes,
                False),
            Row("index: tune", alone, 0, vectors, 0, 0, (self._tune_hours,) * 2, "", None),
            Row("candidates", alone, 0, texts + lists, pair_rows, 0, search, "", 3.0 * texts),
            Row("rerank: find and cut by shard", alone, 0, pair_rows, 2 * pair_rows, 0, locate, "", pair_bytes, False),
            Row("rerank: score", spread, self.shards, self.candidates * costs.image_bytes, pair_rows,
                shuffled["rerank"], score, gpu_pairs, None),
            Row("rerank: collect and rank", alone, 0, pair_rows, 2 * pair_rows, 0, returned, "", pair_bytes, False),
            Row("evaluate", alone, 0, 4 * vectors, 0, 0, (exact, exact), "", 2 * texts + pair_bytes / 2),
        ]  # fmt: skip

    @cached_property
    def night(self) -> list[tuple[str, str, float, float]]:
        """Of a night: step, why so much, core hours, share of the same step of a first run."""
        by_name = {row.name: row.core_hours[0] for row in self.stages}
        append = self.costs.append_s * self.costs.cores * self.growth / HOUR
        whole = sum(by_name[name] for name in by_name if name.startswith("index"))
        steps = [
            ("embed", "what changed", NIGHT * by_name["embed"], by_name["embed"]),
            ("index", "appended, and measured on queries whose neighbours are known", append, whole),
            ("candidates", "every query again: the index is another", by_name["candidates"], by_name["candidates"]),
            ("rerank: find and cut by shard", "every candidate again",
             by_name["rerank: find and cut by shard"], by_name["rerank: find and cut by shard"]),
            ("rerank: score", "pairs that are new", self.costs.pairs_of_a_night * by_name["rerank: score"],
             by_name["rerank: score"]),
            ("rerank: collect and rank", "all pairs", by_name["rerank: collect and rank"],
             by_name["rerank: collect and rank"]),
            ("evaluate", "exhaustive search again: nothing of it is kept", by_name["evaluate"], by_name["evaluate"]),
        ]  # fmt: skip
        return [(name, why, hours, hours / before) for name, why, hours, before in steps]

    @cached_property
    def limits(self) -> list[Limit]:
        """Where today's code stops, the smallest size first."""
        given, costs, driver = self.given, self.costs, self.costs.driver
        n, allowed, memory = given.items, given.hours * HOUR, given.memory_gb * 2.0**30
        merge = self.merge_s(exponent=costs.merge_exponent)
        exact = self.exact_hours(self.stage_queries, walks=2) * HOUR / given.cores
        search = self.search_hours(exponent=costs.query_exponent) * HOUR / given.cores
        hours, gb = f"{given.hours:g} hours", f"{given.memory_gb} GB"
        sent = driver["submit"]["embed_sent_bytes_a_shard"] * self.shards
        held, ids = driver["pairs"]["bytes_a_pair"] * self.pairs, driver["unique"]["bytes_an_item"] * n
        tables = [
            ("rerank: every shard's scores are collected by hashing all queries", f"{self.collect_s / HOUR:,.0f} hours",
             f"{hours} of one core", n * (allowed / self.collect_s) ** 0.5, "slow"),
            ("rerank: one process finds the candidates and cuts them by shard", f"{self.locate_s / HOUR:,.1f} hours",
             f"{hours} of one core", n * allowed / self.locate_s, "slow"),
            ("merge: one process writes all lists, and all vectors in the order of ids",
             f"{self.merge_s() / HOUR:,.0f} to {merge / HOUR:,.0f} hours", f"{hours} of one core",
             costs.rows * (allowed / self.merge_s(exponent=0.0)) ** (1 / costs.merge_exponent), "slow"),
            ("merge: all partial indexes are open at once", size(self.merge_bytes), gb,
             n * memory / self.merge_bytes, "out of memory"),
            ("merge: each is a mapping of the process", f"{self.shards:,} maps", f"{MAPS:,}, Linux's default",
             float(MAPS * given.shard_items), "fails"),
            ("evaluate: exhaustive search in one process", f"{exact / HOUR:,.0f} hours",
             f"{hours} of {given.cores} cores", n * allowed / exact, "slow"),
            ("candidates: all queries in one process", f"{search / HOUR:,.0f} hours",
             f"{hours} of {given.cores} cores", n * (allowed / search) ** (1 / (1 + costs.query_exponent)), "slow"),
            ("a pipeline names its shards: what is submitted", size(sent),
             f"{size(JOB_GRAPH)}, documented by Dataflow", n * JOB_GRAPH / sent, "not tried"),
            ("rerank: all pairs in one process", size(held), gb, n * memory / held, "out of memory"),
            ("embed: ids are unique, in one process", size(ids), gb, n * memory / ids, "out of memory"),
        ]  # fmt: skip
        return sorted((Limit(*one) for one in tables), key=lambda limit: limit.items)

    @cached_property
    def requests(self) -> list[tuple[str, float, float]]:
        """Of a bucket: run, reads, writes."""
        kinds = (("GET", "HEAD"), ("LIST", "PUT"))
        each = {run: [sum(found["a shard"][kind] for kind in some) for some in kinds]
                for run, found in self.costs.requests.items()}  # fmt: skip
        new, nothing = each["everything new"], each["nothing changed"]
        stretches = self.given.items * self.costs.image_bytes / READ_AT_ONCE
        first = new[0] * self.shards + stretches + self.candidates
        share = self.costs.pairs_of_a_night
        reads = nothing[0] * self.shards + NIGHT * (new[0] * self.shards + stretches) + share * self.candidates
        return [
            ("a first run", first, new[1] * self.shards),
            ("a night, 1 % others", reads, nothing[1] * self.shards + NIGHT * new[1] * self.shards),
            ("nothing changed", nothing[0] * self.shards, nothing[1] * self.shards),
        ]


MOVED = ("embed", "fill", "rerank")
"""Stages that Beam spreads."""


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000.

    >>> size(8e9), size(1.02e12)
    ('8 GB', '1.02 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def span(low: float, high: float) -> str:
    """One number, or from and to."""
    low_text, high_text = (f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in (low, high))
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def costs_table(plan: Plan) -> str:
    """Unit costs and where they are from."""
    costs, driver = plan.costs, plan.costs.driver
    per, pairs, million = costs.core_s_an_image, driver["pairs"], costs.rows / 1e6
    rows = [
        ("embed a picture, ViT-B/32, bfloat16", f"{1e3 * per['bfloat16']:.0f} core ms", "embed"),
        ("the same, float32", f"{1e3 * per['float32']:.0f} core ms", "embed"),
        ("read and decode a picture, without a model", f"{1e3 * costs.core_s_an_image_read:.2f} core ms", "driver"),
        ("encode a query", f"{1e3 * costs.core_s_a_text:.1f} core ms", "embed"),
        ("peak of a worker that embeds", size(costs.embed_peak), "memory"),
        ("a number of a stored vector", f"{costs.row_bytes:.2f} bytes", "parquet"),
        *((f"{name} an index of {million:.0f} million x {costs.dim}", f"{costs.seconds[name]:,.0f} s", "index_10m")
          for name in ("check", "train", "fill", "merge", "tune")),
        ("1 % more, appended to it", f"{costs.append_s:,.0f} s", "index_10m"),
        ("merge: seconds grow with items to the power of", f"{costs.merge_exponent:.2f}", "index_1m, index_10m"),
        ("search it for a query, at recall 0.95", f"{1e3 * costs.core_s_a_query:.1f} core ms",
         "index_10m"),
        ("the same: core time grows with items to the power of", f"{costs.query_exponent:.2f}", "index_1m, index_10m"),
        ("score a pair in a batch, the demo's LoopITR", f"{1e3 * costs.core_s_a_pair:.1f} core ms", "night_demo"),
        ("score a pair for one query, the five demo systems",
         f"{min(costs.pair_ms):.1f} to {max(costs.pair_ms):.1f} ms", "systems"),
        ("exhaustive search", f"{driver['exact']['macs_a_cpu_s'] / 1e9:.0f} billion multiply-adds a core second",
         "driver"),
        ("find candidates in the shards: read names; look them up",
         f"{1e9 * pairs['locate_cpu_s_an_item']:,.0f}; {1e9 * pairs['search_cpu_s_an_item']:,.0f} core ns an item",
         "driver"),
        ("cut pairs by shard", f"{1e6 * pairs['cut_cpu_s_a_pair']:.2g} core µs a pair, "
         f"{1e3 * pairs['cut_cpu_s_a_shard']:.2g} core ms a shard", "driver"),
        ("collect a shard's scores",
         f"{1e9 * pairs['fill_cpu_s_a_shard_and_query']:.1f} core ns a query of all", "driver"),
        ("pairs in the process that plans the rerank", f"{pairs['bytes_a_pair']:.0f} bytes each", "driver"),
        ("ids: unique; checked before training",
         f"{driver['unique']['bytes_an_item']:.0f}; {driver['check']['bytes_an_item']:.0f} bytes an item", "driver"),
        ("a partial index, open", f"{driver['lists']['bytes_a_list']:.0f} bytes a list", "driver"),
        ("a shard in the pipeline that is submitted", f"{driver['submit']['embed_sent_bytes_a_shard']:.0f} bytes",
         "driver"),
    ]  # fmt: skip
    return markdown(
        ("unit", "costs", "measured in"),
        [(a, b, ", ".join(f"`{name}.json`" for name in c.split(", "))) for a, b, c in rows],
    )


def stages_table(plan: Plan) -> str:
    """A first run."""
    given, rows = plan.given, []
    for row in plan.stages:
        spread = row.where == "workers"
        cores = given.workers * given.worker_cores if spread else given.cores if row.threads else 1
        wall = span(*(hours / cores for hours in row.core_hours)) if row.core_hours[1] else "not measured"
        core = span(*row.core_hours) if row.core_hours[1] else "not measured"
        elements = f"{row.elements:,}" if spread else "1"
        done = f"{cores:,}"
        bytes_of = [size(value) if value else "" for value in (row.read, row.written, row.moved)]
        peak = size(row.peak) if row.peak else "not measured"
        rows.append((row.name, row.where, elements, *bytes_of, core, row.gpu_hours, peak, done, wall))
    head = ("step", "done by", "elements", "read", "written", "moved", "core hours", "GPU hours", "peak of a process",
            "cores", "hours")  # fmt: skip
    return markdown(head, rows)


def gpu_table(plan: Plan) -> str:
    """What is known of a GPU: how fast it can be fed."""
    given, rate = plan.given, 1 / plan.costs.core_s_an_image_read
    rows = [
        ("pictures a second that one core reads and decodes", f"{rate:,.0f}"),
        ("cores beside a GPU that embeds R pictures a second", f"R / {rate:,.0f}"),
        ("core hours of reading and decoding all", f"{given.items / rate / HOUR:,.0f}"),
        ("GPU hours of embedding all", plan.gpu(given.items, given.gpu_images_per_s, "R")),
        (f"at least, with {given.worker_cores} cores beside each GPU, however fast it is",
         f"{given.items / rate / given.worker_cores / HOUR:,.0f}"),
        ("GPU hours of scoring all pairs, at P pairs a second", plan.gpu(plan.pairs, given.gpu_pairs_per_s, "P")),
    ]  # fmt: skip
    if given.gpu_images_per_s is not None:
        rows.append(("cores beside a GPU of the rate given", f"{given.gpu_images_per_s / rate:,.1f}"))
    return markdown(("what", "comes to"), rows)


def index_table(plan: Plan) -> str:
    """Kinds of index by the memory a serving process has."""
    from schemas.errors import IndexBuildError

    given, rows = plan.given, []
    for memory in ("16GB", "32GB", "64GB", "128GB", "256GB"):
        try:
            found = proposed(given.items, given.width, memory, "128GB", given.shard_items)
        except IndexBuildError as error:
            rows.append((memory, f"refused: {str(error).rsplit(';', 1)[-1].strip()}", "", "", "", ""))
            continue
        disk = 2.0 * found.serving + given.items * (8 + 2 * given.width)
        cells = (size(found.serving), size(found.building), size(disk), f"{found.train_rows:,}")
        rows.append((memory, f"`{found.key}`", *cells))
    return markdown(("index.max_memory", "kind", "serving", "building", "disk", "trained on"), rows)


def limits_table(plan: Plan) -> str:
    """Where today's code stops."""
    rows = [(limit.of, limit.here, limit.bound, f"{limit.items / 1e6:,.0f} million", limit.how)
            for limit in plan.limits]  # fmt: skip
    return markdown(("limit", f"at {plan.given.items:,} items", "bound", "hit at items", "then"), rows)


def night_table(plan: Plan) -> str:
    """A night."""
    rows = [(name, why, span(hours, hours), f"{100 * share:.3g} %") for name, why, hours, share in plan.night]
    return markdown(("step", "what is done", "core hours", "of a first run's"), rows)


def requests_table(plan: Plan) -> str:
    """Of an object store."""
    rows = []
    for run, reads, writes in plan.requests:
        price = reads * PRICE_OF_READS + writes * PRICE_OF_WRITES
        rows.append((run, f"{reads / 1e6:,.1f} million", f"{writes / 1e6:,.2f} million", f"${price:,.2f}"))
    return markdown(("run", "GET and HEAD", "LIST and PUT", "price"), rows)


def summary(plan: Plan) -> str:
    """What is planned, and what the tables add up to."""
    given, rows = plan.given, plan.stages
    spread = sum(row.core_hours[0] for row in rows if row.where == "workers")
    embed = next(row.core_hours[0] for row in rows if row.name == "embed")
    mine = [row for row in rows if row.where != "workers"]
    alone = [sum(row.core_hours[end] / (given.cores if row.threads else 1) for row in mine) for end in (0, 1)]
    nightly = sum(hours for _, _, hours, _ in plan.night)
    first = " and ".join(f"{one.items / 1e6:,.0f}" for one in plan.limits[:2])
    lines = [
        f"{given.items:,} pictures of {size(plan.costs.image_bytes)} in {plan.shards:,} shards, vectors of width "
        f"{given.width}, {given.queries:,} queries of depth {given.depth}: {plan.pairs:,} pairs; {given.workers} "
        f"workers of {given.worker_cores} cores; the run's own process on {given.cores} cores and "
        f"{given.memory_gb} GB.",
        "",
        f"- Workers: {spread:,.0f} core hours without a GPU, {100 * embed / spread:.0f} % of them to embed.",
        f"- The run's own process, as long as nothing stops it: {span(*alone)} hours.",
        f"- A night that changes one item in a hundred: {nightly:,.0f} core hours, {NIGHT * embed:,.0f} to embed.",
        f"- The first two limits of today's code are hit at {first} million items.",
    ]
    return "\n".join(lines)


TABLES = {
    "summary": summary,
    "costs": costs_table,
    "stages": stages_table,
    "gpu": gpu_table,
    "index": index_table,
    "limits": limits_table,
    "night": night_table,
    "requests": requests_table,
}


def tables(given: Given, costs: Costs | None = None) -> dict[str, str]:
    """All tables as Markdown, by name."""
    plan = Plan(given, costs or Costs())
    return {name: make(plan) for name, make in TABLES.items()}


def filled(page: str, made: Mapping[str, str]) -> str:
    """A page with the tables between its marks, `<!-- plan: NAME -->` and `<!-- end -->`.

    Raises:
      ValueError: a mark is missing.
    """
    for name, table in made.items():
        mark = re.compile(rf"(<!-- plan: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(page):
            raise ValueError(f"no mark <!-- plan: {name} --> ... <!-- end --> in the page")
        page = mark.sub(lambda found, text=table: f"{found[1]}{text}\n{found[2]}", page)
    return page


def main() -> None:
    """Prints the tables, or writes them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plain = Given()
    for name, kind in Given.__annotations__.items():
        value = getattr(plain, name)
        count = (lambda text: int(float(text))) if kind is int else str if kind is str else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=count, default=value, help=f"default: {value}")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = vars(parser.parse_args())
    page = options.pop("write")
    made = tables(Given(**options))
    if page is not None:
        page.write_text(filled(page.read_text(), made))
        return
    sys.stdout.write("\n\n".join(f"{name}\n\n{table}" for name, table in made.items()) + "\n")


if __name__ == "__main__":
    main()
