"""A whole log answered from a published generation: the candidates of the batch job, by texts and by vectors."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines import batch_search
from pipelines.batch_search import run
from pipelines.cli import app
from pipelines.search import open_generation
from schemas.errors import ConfigError, InputError
from schemas.parquet import read_table
from schemas.rankings import ANSWERS


@pytest.fixture
def log(published_world):
    """The query table of the generation."""
    return read_table(published_world.world.queries.removesuffix(".json") + ".parquet")


def candidates(found) -> list[tuple]:
    """Of a published world, as the index stage wrote them."""
    url = f"{found.layout.root}/{found.generation.candidates}".replace("manifest.json", "candidates.parquet")
    rows = read_table(url).to_pylist()
    return [(row["query_id"], row["item_id"], row["rank"], row["fast_score"]) for row in rows]


def answered(url) -> list[tuple]:
    table = read_table(str(url))
    assert table.schema.equals(ANSWERS)
    return [(row["query_id"], row["item_id"], row["rank"], row["fast_score"]) for row in table.to_pylist()]


@pytest.mark.parametrize("world", ["published_world", "published_levels_world"])
def test_vectors_of_the_log_find_what_the_batch_job_found(request, world, tmp_path):
    found = request.getfixturevalue(world)
    queries = found.world.queries.removesuffix(".json") + ".parquet"
    depth = max(rank for _, _, rank, _ in candidates(found))
    done = run(found.layout, queries, str(tmp_path / "out.parquet"), k=depth)
    assert answered(tmp_path / "out.parquet") == candidates(found)
    assert done.rows == len(candidates(found))


def test_texts_are_encoded_and_items_named(published_world, log, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_search, "QUERIES_AT_ONCE", 5)  # several row groups
    texts = log.column("text").to_pylist()[:12]
    (tmp_path / "log.tsv").write_text("text\n" + "\n".join(texts) + "\n")
    assert run(published_world.layout, str(tmp_path / "log.tsv"), str(tmp_path / "out.parquet"), k=3) == (12, 36)
    rows = read_table(str(tmp_path / "out.parquet")).to_pylist()
    assert [row["query_id"] for row in rows] == [str(number) for number in range(12) for _ in range(3)]
    snapshot = open_generation(published_world.layout)
    for number, text in enumerate(texts):
        expected = snapshot.answer(text, k=3, rerank=False)
        mine = rows[3 * number : 3 * number + 3]
        assert [row["key"] for row in mine] == [answer.key for answer in expected]
        assert [row["item_id"] for row in mine] == [answer.item_id for answer in expected]


def test_what_cannot_be_answered_is_refused(published_world, published_levels_world, tmp_path):
    out = tmp_path / "out.parquet"

    def refuse(found, columns: dict, message: str) -> None:
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        with pytest.raises(InputError, match=message):
            run(found.layout, str(tmp_path / "log.parquet"), str(out), k=3)
        assert not out.exists()

    refuse(published_world, {"embedding": pa.array([], pa.list_(pa.float32()))}, "no query in it")
    refuse(published_world, {"embedding": [[1.0, 0.0], [1.0]]}, "vectors of widths")
    refuse(published_world, {"embedding": [[1.0, 0.0]]}, "expected shape")
    refuse(published_world, {"embedding": [[float("nan")] * 4]}, "NaN|expected shape")
    refuse(published_levels_world, {"embedding": [[1.0, 0.0, 0.0, 0.0]]}, "no column embedding_2")
    refuse(published_world, {"text": ["a", " "]}, "row 2: expected a query text")


def test_the_command(published_world, log, tmp_path):
    dataset, root = published_world.layout.dataset, published_world.layout.root
    (tmp_path / "log.tsv").write_text("text\n" + log.column("text")[0].as_py() + "\n")
    named = ["--queries", str(tmp_path / "log.tsv"), "--out", str(tmp_path / "out.parquet")]
    done = CliRunner().invoke(app, ["search", dataset, "--root", root, "-k", "2", *named, "--json"])
    assert done.exit_code == 0, done.output
    assert '"queries": 1, "rows": 2' in done.output
    for wrong in (["search", dataset], ["search", dataset, "text", *named], ["search", dataset, *named[:2]]):
        failed = CliRunner().invoke(app, [*wrong, "--root", root])
        assert isinstance(failed.exception, ConfigError)
