"""The report of a real small generation: its numbers are those of the files, its pictures those of the shards."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines.evaluate import report
from pipelines.evaluate.published import published
from pipelines.evaluate.rejects import rejects_of
from schemas import rejects
from schemas.errors import InputError
from schemas.manifests import EmbeddingManifest
from schemas.parquet import entry, read_table, write_table


@pytest.fixture
def state(published_world):
    return published(published_world.layout, published_world.generation)


@pytest.fixture
def data(state):
    return report.gather(state)


def test_the_page_is_written_where_the_layout_says_and_is_small(published_world):
    url = report.run(published_world.layout, published_world.generation)
    assert url == published_world.layout.report(1)
    page = Path(url).read_text("utf-8")
    assert len(page) < 3_000_000
    again = Path(report.run(published_world.layout, published_world.generation)).read_text("utf-8")
    assert page == again
    pictures = [base64.b64decode(found) for found in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    assert pictures
    assert all(len(picture) <= 12_000 for picture in pictures)


def test_the_page_with_its_pictures_is_made_without_torch(published_world):
    """`fastslow reindex` writes it in its own process, which would load torch for nothing else."""
    root = published_world.layout.root
    script = (
        "import sys\n"
        "from pipelines.evaluate.report import run\n"
        "from pipelines.search import read_generation\n"
        "from schemas.layout import Layout\n"
        f"layout = Layout({root!r}, {published_world.layout.dataset!r})\n"
        "run(layout, read_generation(layout))\n"
        "print(sorted({'torch', 'transformers', 'apache_beam', 'faiss', 'autofaiss'} & set(sys.modules)))"
    )
    repo = Path(__file__).resolve().parents[3]
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=repo, check=True)
    assert out.stdout.strip() == "[]"
    assert 'src="data:image/jpeg;base64,' in Path(published_world.layout.report(1)).read_text("utf-8")


def test_the_numbers_are_those_of_the_files(data, published_world, state):
    metrics = published_world.generation.metrics
    assert (data.images, data.videos, data.rejected) == (56, 4, 0)
    assert data.headlines[0].fast == metrics["text_to_image"]["fast"]["R@1"]
    assert data.headlines[0].reranked == metrics["text_to_image"]["reranked"]["R@1"]
    assert [stage.name for stage in data.stages] == ["exact", "index", "rerank", "fused"]
    assert data.stages[3].recalls[1].value == metrics["stages"][3]["R@1"]["value"]
    assert data.index.recall == state.index.recall
    assert [curve.queries for curve in data.index.curves] == ["text queries", "image queries"]
    assert data.index.parameters in [point.parameters for point in data.index.curves[0].points]
    assert sum(shard.seen for shard in data.shards) == 60
    assert data.digests["rankings"] == state.rankings.data.sha256


def test_sample_queries_show_what_the_rankings_say(data, published_world):
    rows = read_table(f"{published_world.rankings_folder}/rankings.parquet").to_pylist()
    judged = read_table(f"{published_world.rankings_folder}/judgements.parquet").to_pylist()
    folder = published_world.world.queries.removesuffix(".json")
    ids = {row["text"]: row["query_id"] for row in read_table(f"{folder}.parquet").to_pylist()}
    assert {sample.verdict for sample in data.samples} >= {"better"}
    for sample in data.samples:
        mine = [row for row in rows if row["query_id"] == ids[sample.text]]
        relevant = {row["key"] for row in judged if row["query_id"] == ids[sample.text]}
        for shown, rank, score in ((sample.fast, "fast_rank", "fast_score"), (sample.final, "rank", "score")):
            by_rank = {row[rank]: row for row in mine}
            assert [result.rank for result in shown[:5]] == [1, 2, 3, 4, 5]
            assert [result.key for result in shown] == [by_rank[result.rank]["key"] for result in shown]
            assert [result.score for result in shown] == [by_rank[result.rank][score] for result in shown]
            assert [result.relevant for result in shown] == [result.key in relevant for result in shown]
        assert sample.fast_rank == min((row["fast_rank"] for row in mine if row["key"] in relevant), default=None)
        assert sample.final_rank == min((row["rank"] for row in mine if row["key"] in relevant), default=None)


def test_thumbnails_show_the_items_they_stand_for(data, published_world):
    for sample in data.samples:
        for result in sample.final:
            wanted = published_world.module.colour_of(result.captions[0]) * 255
            image = Image.open(io.BytesIO(result.thumbnail)).convert("RGB")
            assert abs(image.getpixel((8, 8)) - wanted).max() < 30, result.key
            assert (result.modality == "video") == (image.width > image.height)


def test_rejects_are_counted_by_stage_and_reason(tmp_path):
    found = [
        rejects.Reject("a", "s.tar", 0, 0, 1, "decode", "TruncatedImage", "cut"),
        *(rejects.Reject(f"b{n}", "s.tar", n, 0, 1, "read", "NoPicture", "none") for n in range(5)),
    ]
    table = rejects.to_table(found)
    url = str(tmp_path / "x.rejects.parquet")
    with write_table(url, rejects.SCHEMA) as writer:
        writer.write({name: table.column(name).combine_chunks() for name in table.column_names})
    manifest = EmbeddingManifest.model_construct(rejects=entry(url))
    groups = rejects_of([str(tmp_path / "x.json")], [manifest])
    assert [(g.stage, g.error, g.count, len(g.examples)) for g in groups] == [
        ("read", "NoPicture", 5, 3),
        ("decode", "TruncatedImage", 1, 1),
    ]
    assert [example.key for example in groups[0].examples] == ["b0", "b1", "b2"]


def test_a_picture_that_is_gone_leaves_a_note_and_an_empty_frame(state, monkeypatch):
    from pipelines.evaluate.gallery import Gallery

    shards = Gallery.shard_of
    monkeypatch.setattr(
        Gallery, "shard_of", lambda self, ids: [url.replace("colours-0", "gone-0") for url in shards(self, ids)]
    )
    data = report.gather(state)
    assert len(data.notes) == 1
    assert "pictures could not be shown" in data.notes[0]
    pictures = [result.thumbnail for sample in data.samples for result in sample.fast]
    assert None in pictures
    assert any(pictures)


def test_a_generation_that_names_a_missing_manifest_is_refused(published_world):
    broken = published_world.generation.model_copy(update={"index": "indexes/colours/none/manifest.json"})
    with pytest.raises(InputError, match=r"none/manifest\.json: not found"):
        report.run(published_world.layout, broken)
