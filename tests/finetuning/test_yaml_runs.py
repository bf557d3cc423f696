"""What run a configuration with stages is: the same however it is written, and again from what it saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from runmodel_ext.cli.run_cli import RunCLI
from runmodel_ext.runs import Run
from tests.cli.tiny import the_run, weights
from tests.finetuning.yaml_kit import config, in_words, staging, written
from tests.warm import Warm

Digest = Callable[..., str]
known: dict[str, str] = {}


@pytest.fixture
def digest(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Digest:
    """The digest that `runmodel explain` gives of a configuration with stages."""
    monkeypatch.chdir(tmp_path)

    def explained(stages: Any, **arguments: Any) -> str:
        text = yaml.safe_dump(config(stages, **arguments), sort_keys=False)
        if text not in known:
            Path("c.yaml").write_text(text)
            with pytest.raises(SystemExit):
                RunCLI(args=["explain", "--config=c.yaml"])
            printed = capsys.readouterr().out
            known[text] = next(line.split()[1] for line in printed.splitlines() if line.startswith("digest "))
        return known[text]

    return explained


FIRST = in_words(lr=1e-3, until={"epochs": 2}, lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 1}})
LAST = {"name": "b", "train": ["layer.0", "layer.1"]}


@pytest.mark.parametrize(
    "first",
    [
        {**FIRST, "train": ["*"]},
        {**FIRST, "lr": "1e-3"},
        {**FIRST, "until": {"epochs": 2, "steps": None, "plateau": None}},
        {**FIRST, "exclude": [], "weight_decay": None, "restore_best": False, "optimizer_state": "keep"},
        {
            **FIRST,
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.StepLR",
                "init_args": {"gamma": 0.1, "step_size": 1},
            },
        },
    ],
    ids=["a list", "a number in words", "conditions left out", "defaults", "the scheduler's path and defaults"],
)
def test_stages_are_the_same_run_however_they_are_written(first: Any, digest: Digest) -> None:
    assert digest([first, LAST]) == digest([FIRST, LAST])


def test_what_is_only_shown_makes_no_other_run(digest: Digest) -> None:
    assert digest([FIRST, LAST], show_plan=False, picture="stages.png") == digest([FIRST, LAST])


def test_stages_in_a_file_are_the_same_run(digest: Digest) -> None:
    Path("stages.yaml").write_text(yaml.safe_dump([FIRST, LAST]))
    assert digest("stages.yaml") == digest([FIRST, LAST])


def test_other_stages_are_another_run(digest: Digest) -> None:
    others = [
        [FIRST],
        [FIRST, LAST],
        [{**FIRST, "train": "layer.0"}, LAST],
        [{**FIRST, "lr": 1e-4}, LAST],
        [{**FIRST, "lr": {"*": 1e-3}}, LAST],
        [{**FIRST, "until": {"epochs": 3}}, LAST],
        [{**FIRST, "until": {"steps": 2}}, LAST],
        [{**FIRST, "lr_scheduler": {"class_path": "StepLR", "init_args": {"step_size": 2}}}, LAST],
        [{**FIRST, "lr_scheduler": {"class_path": "ConstantLR"}}, LAST],
        [FIRST, {**LAST, "warmup": {"steps": 2}}],
        [FIRST, {**LAST, "exclude": "layer.0.bias"}],
    ]
    assert len({digest(stages) for stages in others}) == len(others)


def test_the_order_of_a_table_counts_as_the_first_match_does(digest: Digest) -> None:
    tables = [{"*.bias": 0.1, "layer.0.*": 0.2, "*": 0.3}, {"layer.0.*": 0.2, "*.bias": 0.1, "*": 0.3}]
    assert digest([in_words(lr=tables[0])]) != digest([in_words(lr=tables[1])])


def test_a_ready_made_schedule_is_the_same_run_by_either_path(digest: Digest) -> None:
    short = {"class_path": "runmodel_ext.gradual_unfreezing", "init_args": {"exclude": "layer.0.bias"}}
    whole = {
        "class_path": "runmodel_ext.finetuning.gradual_unfreezing",
        "init_args": {"exclude": ["layer.0.bias"], "at_once": 1, "until": None},
    }
    assert digest(short) == digest(whole) != digest({**short, "init_args": {"lr": 0.1}})


def fit(root: Path, path: Path, *more: str) -> Run:
    RunCLI(args=["fit", f"--config={path}", f"--run.root={root}", *more])
    return the_run(root)


TWO = [
    in_words(name="bias", train="layer.1.bias", lr=0.05, until={"epochs": 2}),
    in_words(
        name="all", train=["layer.0", "layer.1"], lr={"layer.1": 0.02, "*": 0.01}, lr_scheduler=FIRST["lr_scheduler"]
    ),
]


@pytest.mark.parametrize("stages", ["list", "file", "schedule"])
def test_the_saved_configuration_is_the_same_run_and_valid(stages: str, schema: Any, tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(TWO, sort_keys=False))
    schedule = {"class_path": "runmodel_ext.gradual_unfreezing", "init_args": {"until": {"epochs": 1}, "lr": 0.01}}
    given = {"list": TWO, "file": "stages.yaml", "schedule": schedule}[stages]
    run = fit(tmp_path / "r", written(tmp_path, config(given)))
    saved = yaml.safe_load(run.config_path.read_text())
    schema.validate(saved)
    assert fit(tmp_path / "r", run.config_path).path == run.path  # finished already: no second version
    again = fit(tmp_path / "other", run.config_path)
    assert again.digest == run.digest
    for name, value in weights(run).items():
        assert torch.equal(value, weights(again)[name]), name


@pytest.fixture(scope="module")
def schema(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `runmodel schema` writes."""
    folder = tmp_path_factory.mktemp("schema")
    assert warm.run(["schema", "--output=s.json"], folder / "log", folder)[0] == 0
    return jsonschema.Draft202012Validator(json.loads((folder / "s.json").read_text()))


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"except": "layer.0"}, True),
        ({"until": {"plateau": {"monitor": "a"}}}, True),
        ({"lrr": 1}, False),
        ({"until": {"epoch": 1}}, False),
        ({"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_sz": 1}}}, False),
    ],
)
def test_an_editor_underlines_a_mistake_in_a_stage(change: dict[str, Any], valid: bool, schema: Any) -> None:
    assert schema.is_valid(config([in_words(**change)])) is valid


def test_the_runs_name_lists_the_stages(tmp_path: Path) -> None:
    assert "stages=bias+all" in fit(tmp_path / "r", written(tmp_path, config(TWO))).name


def test_a_fit_of_lightnings_cli_ends_with_the_bits_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    path = written(tmp_path, config(TWO, {"enable_checkpointing": False}))
    cli = LightningCLI(args=["fit", f"--config={path}"], save_config_callback=None, seed_everything_default=0)
    path = written(tmp_path, config(TWO))
    ours = weights(fit(tmp_path / "r", path))
    for name, value in cli.model.state_dict().items():
        assert torch.equal(value, ours[name]), name
    assert [(each["stage"], each["ended"]) for each in staging(cli).history] == [
        ("bias", "2 epochs are over"),
        ("all", "the fit ended"),
    ]
