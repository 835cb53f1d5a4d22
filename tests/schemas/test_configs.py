"""A misspelt key is named, with the allowed ones; settings lie over files; unknown names list the known."""

from pathlib import Path

import pytest

from schemas.configs import DatasetConfig, EncoderConfig, find, load, parse
from schemas.errors import ConfigError

MINIMAL = "name: tiny\nencoder: x\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def test_defaults_fill_what_is_not_said(tmp_path):
    config = load(DatasetConfig, write(tmp_path, MINIMAL))
    assert config.index.recall_target == 0.95
    assert config.scorer is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("indexx: {}\n", r"tiny\.yaml: indexx: unknown key; allowed here: .*index, "),
        ("index: {recal_target: 0.9}\n", r"index\.recal_target: unknown key; allowed here: .*recall_target"),
        ("index: {recall_target: 2}\n", r"index\.recall_target: input should be less than or equal to 1, got 2"),
        ("prepare: {kind: demo, image: 3}\n", r"prepare\.demo\.image: unknown key; allowed here: images, "),
        (
            "index: {shortlist: [3, 5]}\n",
            r"yaml: index: shortlist: expected numbers that fall, coarse to fine, got \[3, 5\]$",
        ),
        ("rerank: {depth: many}\n", r"rerank\.depth: input should be a valid integer.*got 'many'"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_path(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load(DatasetConfig, write(tmp_path, MINIMAL + text))


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder: missing"):
        load(DatasetConfig, write(tmp_path, "name: tiny\n"))


def test_a_misspelt_key_is_named_before_the_one_that_is_missing_for_it(tmp_path):
    with pytest.raises(ConfigError, match=r"encodr: unknown key; allowed here: .*encoder"):
        load(DatasetConfig, write(tmp_path, "name: tiny\nencodr: x\n"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rerank.dept=3", r"^--set rerank\.dept=3: rerank\.dept: unknown key"),
        ("rerank={dept: 3}", r"^--set rerank=.*: rerank\.dept: unknown key"),
        ("prepare.image=3", r"^--set prepare\.image=3: prepare\.demo\.image: unknown key"),
        ("index.seed=1", r"tiny\.yaml: rerank\.deep: unknown key"),
    ],
)
def test_what_a_setting_gets_wrong_is_not_blamed_on_the_file(tmp_path, setting, message):
    own = "rerank: {deep: 1}\n" if setting.startswith("index") else "prepare: {kind: demo}\n"
    with pytest.raises(ConfigError, match=message):
        load(DatasetConfig, write(tmp_path, MINIMAL + own), settings=["index.recall_k=5", setting])


def test_a_setting_that_is_not_yaml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"setting 'rerank.depth=\[': the value is not YAML"):
        load(DatasetConfig, write(tmp_path, MINIMAL), settings=["rerank.depth=["])


@pytest.mark.parametrize("word", ["null", "none", "None"])
def test_no_scorer_is_said_as_on_the_command_line_too(tmp_path, word):
    assert load(DatasetConfig, write(tmp_path, MINIMAL), settings=[f"scorer={word}"]).scorer is None


def test_settings_lie_over_the_file(tmp_path):
    config = load(DatasetConfig, write(tmp_path, MINIMAL), settings=["rerank.depth=50", "queries.log=q.tsv"])
    assert (config.rerank.depth, config.queries.log) == (50, "q.tsv")


@pytest.mark.parametrize("text", ["rerank.depth", "=3"])
def test_a_setting_without_a_key_and_a_value_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="expected key=value"):
        load(DatasetConfig, write(tmp_path, MINIMAL), settings=[text])


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'demo'\? Known: .*demo"):
        find("datasets", "demmo")


def test_a_list_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        load(DatasetConfig, write(tmp_path, "- a\n"))


def test_configs_cannot_be_changed_after_loading():
    config = parse(EncoderConfig, {"path": "x"}, source="here")
    with pytest.raises(ValueError, match="frozen"):
        config.path = "y"  # type: ignore[misc]
