"""A published rerank becomes training data: hard negatives in the batch, its scores as a teacher."""

import numpy as np
import pytest

from encoders.training.build import pixel_spec
from pipelines.training_job import read_config, run
from pipelines.training_rankings import Teacher, read_teacher
from pipelines.training_sources import ShardSource, read_shards
from schemas.errors import InputError
from schemas.parquet import read_table
from schemas.query_logs import normalise
from schemas.training import FromRankings


@pytest.fixture
def config(published_world):
    shards = published_world.world.shards
    layout = published_world.layout
    rankings = {"root": layout.root, "dataset": layout.dataset, "hard_share": 0.5}
    small = ["batch_size=12", "model.vision=null", "model.text=null", "model.image_size=32", "model.grid=2"]
    return read_config(
        "flickr8k-loopitr-finetune",
        shards=shards,
        validation_shards=shards,
        settings=[*small, f"data.rankings={rankings}"],
    )


def test_every_score_a_batch_learns_from_is_the_one_in_the_rankings(published_world, config):
    folder = published_world.rankings_folder
    rows = read_table(f"{folder}/rankings.parquet").to_pylist()
    layout, generation = published_world.layout, published_world.generation
    texts = read_table(f"{layout.root}/{generation.queries}".replace(".json", ".parquet")).to_pylist()
    text_of = {row["query_id"]: normalise(row["text"]) for row in texts}
    known = {(text_of[row["query_id"]], row["key"]): row["slow_score"] for row in rows}
    keys = read_shards(config.data.train, fields=config.data.caption_fields, spec=pixel_spec(config.model)).keys

    source = ShardSource(config, spec=pixel_spec(config.model))
    met = 0
    for step in range(8):
        batch = source.batch(step)
        assert batch.teacher.shape == (12, 12)
        assert len(set(batch.item_ids.tolist())) == 12
        for caption, row in zip(batch.captions, batch.teacher, strict=True):
            for item, score in zip(batch.item_ids, row, strict=True):
                expected = known.get((normalise(caption), keys[item]))
                if expected is None:
                    assert np.isnan(score)
                else:
                    assert score == np.float32(expected)
                    met += item != batch.item_ids[batch.captions.index(caption)]
    assert met > 8 * 6  # of the half that asks, about one candidate each beside its own picture


def test_a_batch_is_a_function_of_the_step_and_half_of_it_are_candidates_of_the_rest(config):
    one, again = (ShardSource(config, spec=pixel_spec(config.model)).batch(3) for _ in range(2))
    assert one.captions == again.captions
    assert np.array_equal(one.teacher, again.teacher, equal_nan=True)
    plain = config.model_copy(update={"data": config.data.model_copy(update={"rankings": None})})
    source = ShardSource(plain, spec=pixel_spec(plain.model))
    assert source.batch(3).teacher is None
    assert source.digest != ShardSource(config, spec=pixel_spec(config.model)).digest


def test_where_candidates_run_out_the_batch_is_filled_with_others():
    none = [[np.empty(0, np.int64)]] * 9
    teacher = Teacher(none, [[np.empty(0, np.float32)]] * 9, "d")
    source = object.__new__(ShardSource)
    source.batch_size, source.captions = 6, [("a",)] * 9
    rng = np.random.default_rng(0)
    chosen, picked = source._with_hard(teacher, np.array([2, 4]), [0, 0], np.arange(9), rng)
    assert chosen.tolist() == [0, 1, 2, 3, 4, 5]
    assert picked == [0] * 6
    assert np.isnan(teacher.among(chosen, picked)).all()


def test_rankings_of_other_captions_are_refused(published_world):
    layout = published_world.layout
    with pytest.raises(InputError, match="none of 1 training captions is among its queries"):
        read_teacher(FromRankings(root=layout.root, dataset=layout.dataset), ["a"], [("never asked",)])


@pytest.mark.parametrize(
    ("architecture", "stage"),
    [
        ("loopitr", "contrast"),
        ("fast_slow", "fast_plain"),
        ("vldeformer", "scratch"),
        ("cooperative", "twin"),
        ("hivlp", "hierarchical"),
    ],
)
def test_every_architecture_learns_from_them(tmp_path, config, architecture, stage):
    from encoders.training.loop import Listener

    logged = []
    values = config.model_dump(mode="json")
    values |= {"steps": 2, "log_every": 1, "stages": [{"name": stage, "from_step": 0}], "precision": "float32"}
    values["model"] = {"architecture": architecture, "image_size": 32, "grid": 2, "max_words": 8}
    values["losses"] = {}
    path = tmp_path / "config.yaml"
    import yaml

    path.write_text(yaml.safe_dump(values))
    run(str(path), out=str(tmp_path / "out"), device="cpu", listener=Listener(lambda _, losses: logged.append(losses)))
    assert all(losses["rankings"] > 0 for losses in logged)
    parts = sum(value for name, value in logged[0].items() if name != "total")
    assert logged[0]["total"] == pytest.approx(parts, rel=1e-4)  # all weights are 1
