"""Stages in a configuration are the stages of Python, under LightningCLI as under `runmodel`."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, StepLR

import runmodel_ext
from runmodel_ext import Stage, Until
from runmodel_ext.finetuning import Best, Plateau, Reaches, Schedule, Warmup, described
from tests.finetuning.yaml_kit import BOTH, Build, config, in_words, with_ours, written


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])


IN_YAML = """
- name: head
  train: layer.1
  lr: 1.0e-3
  until: {epochs: 3}
- name: top
  train: [layer.1, "layer.[01].weight"]
  lr: {layer.1: 5.0e-4, "*": 1.0e-4}
  weight_decay: {"*": 0.1}
  until: {plateau: {monitor: val/loss, patience: 2, min_delta: 0.1}, epochs: 10}
  restore_best: true
- name: bias
  train: "re:.*bias"
  exclude: layer.0.bias
  until: {reaches: {monitor: val/acc, value: 0.9, mode: max}, steps: 7, fraction: 0.5}
  restore_best: {monitor: val/acc, mode: max}
  train_mode: "type:Dropout"
  eval_mode: [layer.0]
  optimizer_state: reset
- name: all
  train: "*"
  lr: 0.01
  weight_decay: 0.2
  layer_decay: 0.8
  warmup: {steps: 10, start: 0.1}
  lr_interval: step
  group: 0
"""
IN_PYTHON = [
    Stage("head", train="layer.1", lr=1e-3, until=Until(epochs=3)),
    Stage(
        "top",
        train=["layer.1", "layer.[01].weight"],
        lr={"layer.1": 5e-4, "*": 1e-4},
        weight_decay={"*": 0.1},
        until=Until(epochs=10, plateau=Plateau("val/loss", patience=2, min_delta=0.1)),
        restore_best=True,
    ),
    Stage(
        "bias",
        train="re:.*bias",
        exclude="layer.0.bias",
        until=Until(steps=7, fraction=0.5, reaches=Reaches("val/acc", 0.9, "max")),
        restore_best=Best("val/acc", "max"),
        train_mode="type:Dropout",
        eval_mode=["layer.0"],
        optimizer_state="reset",
    ),
    Stage(
        "all",
        train="*",
        lr=0.01,
        weight_decay=0.2,
        layer_decay=0.8,
        warmup=Warmup(10, start=0.1),
        lr_interval="step",
        group=0,
    ),
]


@BOTH
def test_a_configuration_builds_the_stages_that_python_builds(build: Build, tmp_path: Path) -> None:
    assert build(written(tmp_path, config(yaml.safe_load(IN_YAML)))).stages == IN_PYTHON


@BOTH
def test_stages_in_a_file_of_their_own_are_found_beside_the_configuration(build: Build, tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "three.yaml").write_text(IN_YAML)
    assert build(written(tmp_path, config("stages/three.yaml"))).stages == IN_PYTHON


def half(step: int) -> float:
    return 0.5**step


@BOTH
@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        (
            {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}},
            functools.partial(StepLR, step_size=2),
        ),
        ({"class_path": "StepLR", "init_args": {"step_size": 2, "gamma": 0.1}}, functools.partial(StepLR, step_size=2)),
        (
            {
                "class_path": "torch.optim.lr_scheduler.LambdaLR",
                "init_args": {"lr_lambda": "tests.finetuning.test_yaml.half"},
            },
            functools.partial(LambdaLR, lr_lambda=half),
        ),
    ],
)
def test_a_scheduler_is_a_class_and_its_arguments(build: Build, spec: object, meant: Any, tmp_path: Path) -> None:
    (stage,) = build(written(tmp_path, config([in_words(lr_scheduler=spec)]))).stages
    assert described(stage) == described(Stage("a", train="*", lr_scheduler=meant))
    rates = []
    for make in (stage.lr_scheduler, meant):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        scheduler = make(optimizer)
        for _ in range(3):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    assert rates[:3] == rates[3:] == pytest.approx([1.0, 1.0, 0.1] if meant.func is StepLR else [1.0, 0.5, 0.25])


def test_a_scheduler_of_lightnings_own_knows_its_metric(tmp_path: Path) -> None:
    spec = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "val/loss"}}
    (stage,) = with_ours(written(tmp_path, config([in_words(lr_scheduler=spec)]))).stages
    built = stage.lr_scheduler(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0))
    assert isinstance(built, ReduceLROnPlateau)
    assert built.monitor == "val/loss"


@BOTH
@pytest.mark.parametrize("module", ["runmodel_ext", "runmodel_ext.finetuning"])
def test_ready_made_schedules_are_named_as_classes_are(build: Build, module: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    until = {"epochs": 2, "plateau": {"monitor": "val/loss"}}
    spec = {"class_path": f"{module}.gradual_unfreezing", "init_args": {"until": until, "lr": 1e-3, "exclude": "0"}}
    schedule = build(written(tmp_path, config(spec))).stages
    assert isinstance(schedule, Schedule)
    same = runmodel_ext.gradual_unfreezing(Until(epochs=2, plateau=Plateau("val/loss")), lr=1e-3, exclude="0")
    assert schedule.stages_for(model) == same.stages_for(model)
    spec = {"class_path": f"{module}.linear_probe_then_finetune", "init_args": {"head": "2", "finetune_lr": 1e-4}}
    schedule = build(written(tmp_path, config(spec))).stages
    assert isinstance(schedule, Schedule)
    same = runmodel_ext.linear_probe_then_finetune("2", finetune_lr=1e-4)
    assert schedule.stages_for(model) == same.stages_for(model)


def test_a_stage_may_say_except_which_python_cannot(tmp_path: Path) -> None:
    (stage,) = with_ours(written(tmp_path, config([in_words(**{"except": "type:BatchNorm2d"})]))).stages
    assert stage == Stage("a", train="*", exclude="type:BatchNorm2d")


@BOTH
@pytest.mark.parametrize("as_file", [True, False])
def test_a_later_list_of_stages_takes_the_place_of_one_of_the_same_length(
    build: Build, as_file: bool, tmp_path: Path
) -> None:
    first = [in_words(lr=0.1, exclude="layer.0.bias", until={"epochs": 1}), in_words(name="b", warmup={"steps": 3})]
    later = [in_words(name="c", until={"epochs": 2}), in_words(name="d")]
    (tmp_path / "later.yaml").write_text(json.dumps(later))
    value = str(tmp_path / "later.yaml") if as_file else json.dumps(later)
    made = build(written(tmp_path, config(first)), f"--trainer.callbacks.stages={value}")
    assert made.stages == [Stage("c", train="*", until=Until(epochs=2)), Stage("d", train="*")]
