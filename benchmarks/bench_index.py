"""The index stage at scale: seconds of each step, memory, recall against speed, append; beside FAISS and autofaiss.

    python -m benchmarks.bench_index                                          1,000,000 x 256, about ten minutes
    python -m benchmarks.bench_index --rows 100000 --memory 16MB              some minutes
    python -m benchmarks.bench_index --rows 10000000 --memory 1GB --build-memory 8GB --no-autofaiss --no-limit
    python -m benchmarks.bench_index --rows 100000 --real build demo          vectors of a finished job, tiled

Every line is a process of its own, whose peak is its largest resident set (mapped files count for as far as they were
touched).

ours       the job as `fastslow index` runs it: checked, trained, filled by Beam, merged, tuned on text queries; refined
limit      one process: FAISS opens the same trained index, reads the same parts, adds and writes; the same bytes
autofaiss  `build_index` with its defaults over the same Parquet files, within the same serving memory
append     one part more (1 % new items, at least one part) worked into the index of `ours`
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import vectors
from benchmarks.synthetic import save, surroundings
from pipelines.index.plan import Base, IndexPlan, plan_index
from schemas.configs import Append, Index
from schemas.jobs import Job
from schemas.layout import Layout
from schemas.manifests import IndexManifest

K = 10
ROUNDS = 5


def settings(memory: str, build_memory: str) -> Index:
    """The config of `ours`; whatever the size, an appended part stays beside."""
    return Index(max_memory=memory, build_memory=build_memory, refine=True, append=Append(max_unmerged=1))


def prepare(given: argparse.Namespace) -> tuple[Job, IndexPlan]:
    """Parts and queries, made where they are not there; the plan of the whole index."""
    layout = Layout(str(given.folder), "bench")
    source = vectors.read_job(*given.real) if given.real else vectors.Clustered(given.dim)
    job = vectors.job(layout, settings(given.memory, given.build_memory))
    urls = vectors.write_parts(layout, source, rows=given.rows)
    return job, plan_index(job, urls, vectors.write_queries(layout, source))


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """The job."""
    from pipelines.index.job import run

    job, plan = prepare(given)
    url = run(job, plan.part_urls, plan.queries_url)
    manifest = IndexManifest.read(url)
    timings = json.loads(Path(url).with_name("timings.json").read_text())
    return {
        "key": manifest.key,
        "parameters": manifest.parameters,
        "shortlist": manifest.levels.shortlist[0] if manifest.levels else None,
        "seconds": timings["seconds"],
        "sha256": manifest.segments[0].lists.sha256,
        "size_mb": round(manifest.size_bytes / 1e6, 1),
        "self_recall": manifest.self_recall,
        "recall_tuned": manifest.recall,
    }


def limit(given: argparse.Namespace) -> dict[str, Any]:
    """FAISS alone, with the index that `ours` has trained."""
    from pipelines.index import build
    from pipelines.index.parts import Parts
    from pipelines.index.trained import named, open_trained
    from schemas.digests import digest_file

    job, plan = prepare(given)
    lineage = IndexManifest.read(plan.manifest_url).lineage
    if lineage is None:
        raise SystemExit("the index has no inverted lists: choose less --memory")
    index = open_trained(named(job.layout, lineage.trained))
    started, adding = time.perf_counter(), 0.0
    for block in Parts(plan.part_urls):
        ready = np.ascontiguousarray(block.vectors)
        begun = time.perf_counter()
        index.add_with_ids(ready, block.ids)
        adding += time.perf_counter() - begun
    out = given.folder / "limit.faiss"
    build.write(index, out)
    seconds = {"add": round(adding, 2), "read, add, write": round(time.perf_counter() - started, 2)}
    digest = digest_file(str(out))
    out.unlink()
    return {"seconds": seconds, "sha256": digest}


def autofaiss(given: argparse.Namespace) -> dict[str, Any]:
    """The peer."""
    import autofaiss as peer

    _, plan = prepare(given)
    started = time.perf_counter()
    peer.build_index(
        embeddings=plan.part_urls[0].rsplit("/", 1)[0],
        file_format="parquet",
        embedding_column_name="embedding",
        index_path=str(given.folder / "autofaiss.faiss"),
        index_infos_path=str(given.folder / "autofaiss.json"),
        max_index_memory_usage=given.memory,
        current_memory_available=given.build_memory,
        verbose=30,
    )
    infos = json.loads((given.folder / "autofaiss.json").read_text())
    return {
        "key": infos["index_key"],
        "parameters": infos["index_param"],
        "seconds": {"all": round(time.perf_counter() - started, 2)},
        "size_mb": round((given.folder / "autofaiss.faiss").stat().st_size / 1e6, 1),
    }


def append(given: argparse.Namespace) -> dict[str, Any]:
    """One hundredth more."""
    from pipelines.index.job import run

    job, plan = prepare(given)
    source = vectors.read_job(*given.real) if given.real else vectors.Clustered(given.dim)
    new = vectors.write_parts(job.layout, source, rows=max(1, given.rows // 100), first=10**6)
    base = Base(plan.manifest_url, plan.part_urls)
    started = time.perf_counter()
    url = run(job, [*plan.part_urls, *new], plan.queries_url, base)
    spent = time.perf_counter() - started
    manifest = IndexManifest.read(url)
    timings = json.loads(Path(url).with_name("timings.json").read_text())
    seconds = timings["seconds"] | {"all": round(spent, 2)}
    return {"rows": manifest.rows - plan.rows, "segments": len(manifest.segments), "seconds": seconds}


def answers(given: argparse.Namespace) -> dict[str, Any]:
    """Recall@10 on held-out text queries against exhaustive search, and queries a second, of both indexes reopened."""
    import faiss

    from pipelines.index.levels import open_coarse_to_fine
    from pipelines.index.search import open_index
    from pipelines.index.truth import find_truths, interval, recall_of_each

    job, plan = prepare(given)
    truth = find_truths(plan, job.dataset.index, layout=job.layout)[0].test
    asked = truth.queries[-1]
    searcher = open_index(plan.manifest_url)
    through = open_coarse_to_fine(plan.manifest_url, searcher)
    if through is None:
        raise SystemExit("the index is not refined")
    found = {"ours": _asked(lambda some: through.search([some, some], K)[1], asked)}
    if given.autofaiss:
        index = faiss.read_index(str(given.folder / "autofaiss.faiss"))
        infos = json.loads((given.folder / "autofaiss.json").read_text())
        faiss.ParameterSpace().set_index_parameters(index, infos["index_param"])
        ids = np.concatenate([block.ids for block in _ids_in_file_order(plan)])
        found["autofaiss"] = _asked(lambda some: ids[index.search(some, K)[1]], asked)
    return {
        side: {"recall": interval(recall_of_each(ids, truth.scores, truth.ids, K)), "qps": qps}
        for side, (ids, qps) in found.items()
    }


def _ids_in_file_order(plan: IndexPlan) -> Any:
    """Autofaiss numbers vectors in the order in which it lists the files."""
    from pipelines.index.parts import Parts

    return Parts(tuple(sorted(plan.part_urls)))


def _asked(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, float]:
    """Ids found, and queries a second: all in one call, all threads, the best of some rounds."""
    best, ids = float("inf"), np.empty(0)
    for _ in range(ROUNDS):
        started = time.perf_counter()
        ids = search(queries)
        best = min(best, time.perf_counter() - started)
    return ids, round(len(queries) / best, 1)


STEPS = {"ours": ours, "limit": limit, "autofaiss": autofaiss, "answers": answers, "append": append}


def apart(step: str, given: argparse.Namespace) -> dict[str, Any]:
    """Runs a step in a process of its own; its result, wall clock and peak."""
    command = [sys.executable, "-m", "benchmarks.bench_index", *sys.argv[1:], "--folder", str(given.folder)]
    done = subprocess.run([*command, "--step", step], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ratios(found: dict[str, Any], rows: int) -> dict[str, float]:
    """What is promised, as numbers."""
    mine, more = found["ours"], found["append"]
    made = {
        "append / all, seconds": more["seconds"]["all"] / sum(mine["seconds"].values()),
        "append / all, items": more["rows"] / rows,
    }
    if "limit" in found:
        filling, theirs = mine["seconds"]["fill"] + mine["seconds"]["merge"], found["limit"]["seconds"]
        made["fill and merge / add"] = filling / theirs["add"]
        made["fill and merge / read, add, write"] = filling / theirs["read, add, write"]
    if "autofaiss" in found:
        both = found["answers"]
        made["recall - autofaiss's"] = both["ours"]["recall"][0] - both["autofaiss"]["recall"][0]
        made["queries a second / autofaiss's"] = both["ours"]["qps"] / both["autofaiss"]["qps"]
    return {name: round(value, 3) for name, value in made.items()}


def table(result: dict[str, Any]) -> Table:
    """For people."""
    shown = Table(title=f"{result['rows']:,} x {result['dim']}, {result['memory']} to serve", title_justify="left")
    for name in ("step", "seconds", "peak", ""):
        shown.add_column(name)
    for step, one in result["steps"].items():
        seconds = ", ".join(f"{name} {value:,.1f}" for name, value in one.get("seconds", {}).items())
        more = {name: value for name, value in one.items() if name not in ("seconds", "peak_mb", "sha256")}
        shown.add_row(step, seconds, f"{one['peak_mb']:,.0f} MB", ", ".join(f"{k} {v}" for k, v in more.items()))
    for name, value in result["ratios"].items():
        shown.add_row(name, f"{value:g}", "", "")
    return shown


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--memory", default="100MB", help="of the serving process, without what is mapped")
    parser.add_argument("--build-memory", default="2GB")
    parser.add_argument("--real", nargs=2, metavar=("ROOT", "DATASET"), help="tile the vectors of a finished job")
    parser.add_argument("--autofaiss", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--limit", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="keep parts and indexes here; default: a folder that is removed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs all steps and prints them."""
    given = parse()
    if given.step:
        found = STEPS[given.step](given)
        found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        given.folder = given.folder or Path(folder)
        prepare(given)
        left_out = {"autofaiss": not given.autofaiss, "limit": not given.limit}
        steps = [step for step in STEPS if not left_out.get(step)]
        found = {step: apart(step, given) for step in steps}
    if given.limit and found["ours"]["sha256"] != found["limit"]["sha256"]:
        raise SystemExit("merged parts and FAISS's own index differ")
    result = {
        "rows": given.rows,
        "dim": given.dim,
        "memory": given.memory,
        "build_memory": given.build_memory,
        "vectors": given.real or "made",
        "steps": found,
        "ratios": ratios(found, given.rows),
        "surroundings": surroundings(),
    }
    save(result, given.json)
    Console(width=150).print(table(result))


if __name__ == "__main__":
    main()
