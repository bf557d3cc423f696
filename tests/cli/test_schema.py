"""The JSON schema for editors, and the private corner of jsonargparse on which it stands."""

import json
from collections.abc import Callable
from enum import EnumMeta
from pathlib import Path
from typing import Any

import jsonargparse
import jsonschema
import pytest
import yaml
from jsonargparse._completions_jsonschema import ParserJsonschema

from runmodel_ext.cli.schema import SCHEMA_FILE, make_schema
from tests.cli.tiny import fit
from tests.warm import Warm

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where someone works who has typed ``runmodel schema``."""
    folder = tmp_path_factory.mktemp("schema")
    code, said = warm.run(["schema"], folder / "output.txt", folder)
    assert (code, said) == (0, f"results/{SCHEMA_FILE}\n")
    return folder


@pytest.fixture(scope="module")
def schema(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results" / SCHEMA_FILE).read_text())
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


@pytest.fixture(scope="module")
def valid(schema: dict[str, Any]) -> Callable[[Any], bool]:
    validator = jsonschema.Draft202012Validator(schema)
    return validator.is_valid


class TakesAMetaclass:
    """As one of the arguments deep inside Lightning's Trainer does."""

    def __init__(self, kind: EnumMeta | None = None) -> None: ...


def test_jsonargparses_own_schema_fails_on_a_metaclass_so_that_ours_is_needed() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--odd", type=TakesAMetaclass)
    with pytest.raises(TypeError, match=r"type\.__subclasses__\(\) needs an argument"):
        parser.get_completion_script("jsonschema")
    assert json.loads(make_schema(parser))["properties"]["odd"]


def test_the_private_corner_of_jsonargparse_is_as_we_found_it() -> None:
    ours = (
        "generate",
        "class_ref",
        "class_path_schema",
        "callable_schema",
        "subclass_def",
        "unknown_class_path_schema",
    )
    missing = [name for name in ours if not callable(getattr(ParserJsonschema, name, None))]
    assert not missing, f"jsonargparse {jsonargparse.__version__} moved {missing}: see runmodel_ext/cli/schema.py"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configurations_that_come_with_it_are_valid(path: Path, valid: Callable[[Any], bool]) -> None:
    assert valid(yaml.safe_load(path.read_text()))


def test_a_saved_configuration_is_valid(valid: Callable[[Any], bool], tmp_path: Path) -> None:
    assert valid(yaml.safe_load(fit(tmp_path).config_path.read_text()))


DIGITS = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(triner={}),
        lambda config: config["trainer"].update(max_epoch=3),
        lambda config: config["trainer"].update(max_epochs="many"),
        lambda config: config["model"]["init_args"].update(lrr=0.1),
        lambda config: config["model"]["init_args"].update(lr="fast"),
        lambda config: config["model"]["init_args"]["network"]["init_args"].update(widht=3),
        lambda config: config["data"]["init_args"].update(batch_size=[1]),
        lambda config: config.update(run={"on_existing": "maybe"}),
        lambda config: config.update(run={"ignor": []}),
    ],
    ids=range(9),
)
def test_a_mistake_is_underlined(change: Callable[[dict[str, Any]], None], valid: Callable[[Any], bool]) -> None:
    config = json.loads(json.dumps(DIGITS))
    assert valid(config)
    change(config)
    assert not valid(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"trainer": {"max_epochs": 3, "limit_train_batches": 1}},
        {"model": "ClassificationModule"},
        {"model": {"class_path": "ClassificationModule"}},
        {"model": {"class_path": "my.own.Module", "init_args": {"anything": 1}}},
        {"trainer": {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/acc"}}]}},
        {"run": {"root": "elsewhere", "tags": ["a"], "on_existing": "new", "aliases": {"model.lr": "lr"}}},
        {"seed_everything": True},
    ],
    ids=str,
)
def test_what_is_incomplete_or_ones_own_is_not_underlined(config: Any, valid: Callable[[Any], bool]) -> None:
    assert valid(config)


def test_a_saved_configuration_refers_to_the_schema_in_its_root(folder: Path) -> None:
    first, *_ = fit(folder / "results").config_path.read_text().splitlines()
    assert first == f"# yaml-language-server: $schema={(folder / 'results' / SCHEMA_FILE).as_uri()}"


def test_a_saved_configuration_refers_to_no_schema_that_is_not_there(tmp_path: Path) -> None:
    assert not fit(tmp_path).config_path.read_text().startswith("#")


def test_the_command_refuses_a_place_that_cannot_be_written(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = warm.run(["schema", "--output=file/schema.json"], tmp_path / "output.txt", tmp_path)
    assert code == 2
    assert said == "runmodel: Cannot make the directory 'file': a file is in its place.\n"
