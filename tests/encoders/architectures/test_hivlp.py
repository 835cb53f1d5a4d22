"""Every level is trained, normalised and warmed on its own; the slow side reads words and pictures; nothing leaks."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from encoders.architectures.encoder import TrainedEncoder
from encoders.architectures.hivlp import HiVLPModel, HiVLPObjective
from encoders.base import DualEncoder, PairScorer
from encoders.training.batches import Inputs, tokenise
from encoders.training.build import build
from schemas.configs import parse
from schemas.errors import ConfigError, ModelError
from schemas.training import TrainConfig

WORDS = ["a", "red", "blue", "circle", "square", "left", "of"]
TEXTS = ["a red circle left of a blue square", "a blue circle", "a red square left of a circle", "a square"]
CPU = torch.device("cpu")
FUSION = ("fusion_", "match_head", "word_head", "word_bias")


def tiny(losses: dict | None = None, **model) -> TrainConfig:
    shape = {
        "image_size": 16,
        "grid": 2,
        "visual_width": 16,
        "visual_layers": 2,
        "visual_heads": 2,
        "small_text": {"width": 16, "layers": 2, "heads": 2},
        "fusion_layers": 1,
        "fusion_heads": 2,
        "dims": [2, 4, 8],
        "max_words": 12,
    }
    value = {
        "name": "tiny",
        "steps": 2,
        "batch_size": 4,
        "model": {"architecture": "hivlp", **shape, **model},
        "losses": losses or {},
        "data": {"kind": "scenes"},
    }
    return parse(TrainConfig, value, source="test")


def made_with(config: TrainConfig):
    made = build(config, WORDS)
    made.model.eval()
    return made


@pytest.fixture(scope="module")
def built():
    return made_with(tiny())


@pytest.fixture(scope="module")
def encoder(built, adapter) -> TrainedEncoder:
    return adapter(built)


def inputs_of(built, groups: tuple[int, ...] = (1,), seed: int = 0) -> Inputs:
    ids, mask = tokenise(built.tokenizer, TEXTS, max_words=12, device=CPU)
    special = torch.tensor(built.tokenizer.all_special_ids)
    generator = torch.Generator().manual_seed(seed)
    each = len(TEXTS) // len(groups)
    visuals = tuple(torch.randn(each, frames, 3, 16, 16, generator=generator) for frames in groups)
    return Inputs(visuals, ids, mask, mask & ~torch.isin(ids, special), torch.arange(len(TEXTS)))


def losses_of(made, config: TrainConfig, task: str, inputs: Inputs | None = None) -> dict[str, torch.Tensor]:
    objective = HiVLPObjective(made.model, config.losses, mask_id=made.tokenizer.mask_token_id, category=None)
    generator = torch.Generator().manual_seed(0)
    return objective(inputs or inputs_of(made), task=task, progress=0.0, generator=generator)


def vectors_of(made, inputs: Inputs) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    texts = made.model.encode_text(inputs.ids, inputs.mask)[1]
    return texts, made.model.encode_visual(inputs.visuals[0])[1]


# The traps of slicing, of one temperature, and of one list of scores.


@pytest.mark.parametrize("hierarchy", ["heads", "depth", "nested"])
def test_every_level_is_normalised_on_its_own(hierarchy):
    made = made_with(tiny(hierarchy=hierarchy))
    inputs = inputs_of(made)
    assert list(made.model.dims.items()) == [("embedding_2", 2), ("embedding_4", 4), ("embedding", 8)]
    for levels in vectors_of(made, inputs):
        assert [level.shape for level in levels] == [(4, 2), (4, 4), (4, 8)]
        for level in levels:
            torch.testing.assert_close(level.norm(dim=-1), torch.ones(4))


def test_heads_are_no_slices_of_each_other_and_nested_ones_are():
    for hierarchy, slices in (("heads", False), ("nested", True)):
        made = made_with(tiny(hierarchy=hierarchy))
        for levels in vectors_of(made, inputs_of(made)):
            prefix = functional.normalize(levels[2][:, :2], dim=-1)
            assert torch.allclose(prefix, levels[0], atol=1e-6) == slices


def test_depth_reads_an_earlier_layer_for_a_coarser_level():
    made = made_with(tiny(hierarchy="depth", dims=[4, 8]))
    inputs = inputs_of(made)
    before = vectors_of(made, inputs)
    with torch.no_grad():
        for block in (made.model.vision.blocks[1].mlp[2], made.model.text.encoder.layer[1].output.dense):
            block.weight.mul_(-3)
    after = vectors_of(made, inputs)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[0], new[0])  # of the first layer
        assert not torch.allclose(old[1], new[1], atol=1e-3)


def test_every_level_has_a_temperature_of_its_own():
    config = tiny()
    made = made_with(config)
    losses_of(made, config, "hierarchical")["total"].backward()
    grads = [temperature.log.grad.item() for temperature in made.model.temperatures]
    assert len(set(grads)) == 3
    assert 0.0 not in grads
    shared = made_with(tiny(temperatures="shared"))
    assert len(shared.model.temperatures) == 1
    with torch.no_grad():
        made.model.temperatures[0].log.fill_(np.log(0.3))
    changed = losses_of(made, config, "hierarchical")
    first = losses_of(made_with(config), config, "hierarchical")
    assert changed["contrast_2"] != first["contrast_2"]
    torch.testing.assert_close(changed["contrast_4"], first["contrast_4"])
    torch.testing.assert_close(changed["contrast"], first["contrast"])


def test_the_hierarchical_loss_is_the_weighted_sum_over_levels():
    config = tiny({"level_weights": [0.5, 0.0, 2.0]})
    made = made_with(config)
    inputs = inputs_of(made)
    found = losses_of(made, config, "hierarchical", inputs)
    expected = []
    for text, picture in zip(*vectors_of(made, inputs), strict=True):
        logits = (text @ picture.T).detach().numpy().astype(np.float64) / 0.07
        sides = [x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, logits.T)]
        expected.append(-0.5 * sum(np.diag(side).mean() for side in sides))
    for name, value in zip(("contrast_2", "contrast_4", "contrast"), expected, strict=True):
        assert found[name].item() == pytest.approx(value, rel=1e-4)
    assert found["total"].item() == pytest.approx(0.5 * expected[0] + 2.0 * expected[2], rel=1e-4)


def test_the_finest_level_teaches_the_coarser_ones_and_learns_nothing_from_them():
    config = tiny({"fine_to_coarse_kl": 1.0, "level_weights": [0, 0, 0]})
    made = made_with(config)
    found = losses_of(made, config, "hierarchical")
    assert found["total"].item() == pytest.approx(found["fine_to_coarse"].item())
    assert found["fine_to_coarse"] > 0
    found["total"].backward()
    model = made.model
    for heads in (model.visual_heads, model.text_heads):
        assert heads[0].weight.grad.abs().max() > 0
        assert heads[2].weight.grad is None or heads[2].weight.grad.abs().max() == 0
    assert model.temperatures[2].log.grad is None or model.temperatures[2].log.grad == 0


def test_with_a_curriculum_a_level_contrasts_with_the_nearest_of_the_level_below():
    plain, config = tiny(), tiny({"curriculum": 2})
    made = made_with(config)
    inputs = inputs_of(made)
    all_of, near = (losses_of(made, one, "hierarchical", inputs) for one in (plain, config))
    assert torch.equal(all_of["contrast_2"], near["contrast_2"])  # nothing is below the coarsest
    texts, pictures = vectors_of(made, inputs)
    total = 0.0
    for a, b in ((texts, pictures), (pictures, texts)):
        below, own = (a[0] @ b[0].T).detach().numpy(), (a[1] @ b[1].T).detach().numpy().astype(np.float64) / 0.07
        for row in range(4):
            kept = {row, *np.argsort(-below[row])[:2].tolist()}
            total += np.log(np.exp([own[row, column] for column in kept]).sum()) - own[row, row]
    assert near["contrast_4"].item() == pytest.approx(total / 8, rel=1e-4)
    assert near["contrast_4"] < all_of["contrast_4"]


# What learns in which stage.


@pytest.mark.parametrize("hierarchy", ["heads", "depth", "nested"])
@pytest.mark.parametrize("task", ["joint", "hierarchical"])
def test_a_gradient_reaches_every_parameter_that_should_learn_and_no_other(task, hierarchy):
    config = tiny(hierarchy=hierarchy)
    made = build(config, WORDS)
    made.model.train()
    names = [f"contrast{suffix}" for suffix in ("_2", "_4", "")]
    found = losses_of(made, config, task, inputs_of(made, (1, 4)))
    assert set(found) == {*names, "total"} | ({"matching", "masked_words"} if task == "joint" else set())
    found["total"].backward()
    without = {name for name, parameter in made.model.named_parameters() if parameter.grad is None}
    fusion = {name for name, _ in made.model.named_parameters() if name.startswith(FUSION)}
    assert without == (set() if task == "joint" else fusion)


def test_the_first_stage_is_the_joint_one_and_both_have_vectors():
    assert list(HiVLPModel.STAGES) == ["joint", "hierarchical"]
    assert all(stage.fast and not stage.frozen for stage in HiVLPModel.STAGES.values())


def test_the_stages_follow_each_other_in_the_loop(tmp_path):
    from accelerate import Accelerator

    from encoders.training.batches import Batch, Gallery
    from encoders.training.loop import fit

    class Two:
        """Two colours, each with its caption."""

        augment, digest = False, "two"

        def batch(self, step: int, rank: int = 0) -> Batch:
            pictures = np.zeros((4, 1, 16, 16, 3), np.uint8)
            pictures[::2] = 255
            return Batch((pictures,), ("a red circle", "a blue square") * 2, np.array([0, 1, 0, 1]))

        def words(self) -> list[str]:
            return WORDS

        def categories(self) -> dict:
            return {}

        def validation(self) -> Gallery:
            batch = self.batch(0)
            return Gallery((batch.visuals[0][:2],), batch.captions[:2], np.arange(2))

    value = tiny().model_dump()
    value |= {"steps": 6, "workers": 0, "precision": "float32", "log_every": 1}
    value["stages"] = [{"name": "joint", "from_step": 0}, {"name": "hierarchical", "from_step": 3}]
    value["validation"] = {"every": 3, "depth": 2}
    config = parse(TrainConfig, value, source="test")
    made = build(config, WORDS)
    seen: list[set[str]] = []
    from encoders.training.loop import Listener

    fusion: list[torch.Tensor] = []

    def logged(step: int, losses: dict[str, float]) -> None:
        seen.append(set(losses))
        fusion.append(made.model.match_head.weight.detach().clone())

    fit(made, config, Two(), folder=tmp_path, accelerator=Accelerator(cpu=True), listener=Listener(logged=logged))
    assert [("matching" in names) for names in seen] == [True] * 3 + [False] * 3
    assert not torch.equal(fusion[0], fusion[2])
    assert torch.equal(fusion[2], fusion[5])


def test_a_batch_of_one_picture_has_no_negatives_and_does_not_fail():
    config = tiny({"fine_to_coarse_kl": 1.0, "curriculum": 2})
    made = build(config, WORDS)
    inputs = inputs_of(made)
    same = Inputs(inputs.visuals, inputs.ids, inputs.mask, inputs.maskable, torch.zeros(4, dtype=torch.int64))
    assert all(torch.isfinite(value) for value in losses_of(made, config, "joint", same).values())


# The network sees what it should.


def test_padding_changes_nothing(built):
    ids, mask = tokenise(built.tokenizer, ["a red circle", TEXTS[0]], max_words=12, device=CPU)
    changed = ids.clone()
    changed[~mask] = 6
    assert (~mask).any()
    cache = torch.randn(2, 4, 16)
    rows = torch.arange(2)
    with torch.inference_mode():
        before, after = (built.model.text_vectors(one, mask) for one in (ids, changed))
        scores = [built.model.pair_scores(one, mask, rows, cache) for one in (ids, changed)]
        alone = built.model.text_vectors(ids[:1, :5], mask[:1, :5])
    for column in built.model.dims:
        torch.testing.assert_close(before[column], after[column], rtol=0, atol=1e-6)
        torch.testing.assert_close(before[column][:1], alone[column], rtol=0, atol=1e-5)
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


def test_the_last_word_reaches_the_matching_head_within_the_fusion_layers_alone(built):
    states, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    other = states.clone()
    other[:, -1] = torch.randn(16)
    tokens = torch.randn(1, 4, 16)
    with torch.inference_mode():
        a, b = (built.model.fuse(one, mask, tokens)[:, 0] for one in (states, other))
        padded = torch.cat([tokens, torch.randn(1, 2, 16)], 1)
        token_mask = torch.tensor([[True] * 4 + [False] * 2])
        hidden = built.model.fuse(states, mask, padded, token_mask)[:, 0]
    assert (a - b).abs().max() > 1e-3
    torch.testing.assert_close(a, hidden, rtol=0, atol=1e-5)


def test_the_encoder_is_both_sides_with_all_levels(encoder):
    assert isinstance(encoder, DualEncoder)
    assert isinstance(encoder, PairScorer)
    assert encoder.dims == {"embedding_2": 2, "embedding_4": 4, "embedding": 8}
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), np.uint8))
    forward, backward = encoder.encode_visual(clip), encoder.encode_visual(clip.flip(1))
    for column in ("embedding_4", "embedding"):
        assert not np.allclose(forward[column], backward[column], atol=1e-4)
    assert encoder.visual_cache(clip).shape == (1, 16, 16)


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_any_hugging_face_tower_fits_and_the_checkpoint_comes_back(name, tower, tmp_path):
    found = tower(name)
    made = made_with(tiny(vision=str(found.folder), image_size=found.size))
    made.model.save_pretrained(tmp_path / "whole")
    again = HiVLPModel.from_pretrained(tmp_path / "whole").eval()
    picture = torch.randn(2, 1, 3, found.size, found.size)
    with torch.inference_mode():
        ours, theirs = made.model.visual_vectors(picture), again.visual_vectors(picture)
    for column in ("embedding_2", "embedding_4", "embedding"):
        assert torch.equal(ours[column], theirs[column])
    assert again.dims == made.model.dims


# Settings.


def test_widths_rise_and_the_last_is_the_embedding():
    assert tiny(dims=[4, 16]).model.embedding_dim == 16
    with pytest.raises(ConfigError, match="expected widths that rise"):
        tiny(dims=[8, 8])
    with pytest.raises(ConfigError, match="expected the last of dims"):
        tiny(dims=[4, 8], embedding_dim=16)


def test_one_weight_a_level():
    config = tiny({"level_weights": [1.0]})
    with pytest.raises(ModelError, match="expected 3 numbers, got 1"):
        losses_of(made_with(config), config, "joint")


def test_one_level_is_an_ordinary_dual_encoder():
    made = made_with(tiny(dims=[8]))
    assert made.model.dims == {"embedding": 8}
    assert losses_of(made, tiny(dims=[8]), "hierarchical")["total"] > 0


def test_levels_can_be_pooled_from_the_backbone_and_of_earlier_text_layers():
    shape = {"visual_pool": "backbone", "visual_norm": "batch", "text_layers": [0], "text_norm": "batch"}
    made = made_with(tiny(**shape, head_hidden=8))
    model, pixels = made.model, torch.randn(2, 3, 3, 16, 16)
    ids, mask = tokenise(made.tokenizer, TEXTS, max_words=12, device=CPU)
    with torch.inference_mode():
        seen = model.vision.look(pixels).mean((1, 2))
        states, levels = model.encode_text(ids, mask)
        pooled = states[:, 0]
        assert states.shape[-1] == 2 * 16
        for level, vectors in enumerate(model.encode_visual(pixels)[1]):
            torch.testing.assert_close(vectors, functional.normalize(model.visual_heads[level](seen), dim=-1))
            read = model.text_heads[level](model.text_pool.standardise(pooled))
            torch.testing.assert_close(levels[level], functional.normalize(read, dim=-1))
    assert len(model.visual_pools) == 0
    with pytest.raises(ModelError, match="no text_layers and no visual_pool"):
        build(tiny(hierarchy="depth", text_layers=[0]), WORDS)
