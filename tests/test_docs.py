"""Everything the code names is named in the docs, and the docs name nothing that is not there."""

import json
import re
from pathlib import Path

import pytest
import yaml

from schemas import embeddings, layout, query_logs, rankings, rejects
from schemas.configs import DatasetConfig, EncoderConfig, load

REPO = Path(__file__).resolve().parent.parent


def test_the_data_model_names_every_column():
    text = (REPO / "docs/data-model.md").read_text()
    width = {"embedding": 1}
    schemas = [embeddings.schema(width, encoder="e"), query_logs.table_schema(width, encoder="e"), rejects.SCHEMA]
    schemas += [rankings.CANDIDATES, rankings.SCORES, rankings.RANKINGS, rankings.JUDGEMENTS]
    missing = {name for schema in schemas for name in schema.names if f"`{name}`" not in text}
    assert missing == set()


def test_the_data_model_draws_the_same_folders_as_the_layout():
    text = (REPO / "docs/data-model.md").read_text()
    drawn = set(re.findall(r"^<root>/([A-Za-z]+)/", layout.__doc__ or "", re.MULTILINE))
    assert drawn
    assert {name for name in drawn if f"<root>/{name}/" not in text} == set()


@pytest.mark.parametrize(
    "page",
    sorted([*REPO.glob("*.md"), *REPO.glob("docs/*.md"), *REPO.glob("deploy/**/*.md")]),
    ids=lambda path: path.name,
)
def test_links_between_pages_lead_somewhere(page):
    targets = [t for t in re.findall(r"\]\(([^)#]+)", page.read_text()) if not t.startswith("http")]
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/datasets/*.yaml")), ids=lambda path: path.stem)
def test_dataset_configs_load_and_open_like_a_lab_note(path):
    assert path.read_text().startswith("# ")
    config = load(DatasetConfig, path)
    assert config.name == path.stem


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/encoders/*.yaml")), ids=lambda path: path.stem)
def test_encoder_configs_load(path):
    assert path.read_text().startswith("# ")
    assert load(EncoderConfig, path).path == yaml.safe_load(path.read_text())["path"]


def test_the_requests_of_a_run_are_those_that_were_counted():
    found = json.loads((REPO / "benchmarks/results/requests.json").read_text())["runs"]
    text = (REPO / "docs/object-stores.md").read_text()
    for run, counts in found.items():
        pairs = [counts[of][one] + counts[of][other] for of in ("a shard", "besides")
                 for one, other in (("GET", "HEAD"), ("LIST", "PUT"))]  # fmt: skip
        assert f"| {run} | {' | '.join(f'{value:.0f}' for value in pairs)} |" in text
