"""Ready-made schedules, on networks of many kinds."""

import itertools
import math

import pytest
import torch
from torch import nn

from runmodel_ext import Stage, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import (
    Best,
    Plateau,
    find_blocks,
    gradual_unfreezing,
    linear_probe_then_finetune,
    make_plan,
    problems_of_stages,
)
from runmodel_ext.finetuning.plan import block_of_each
from runmodel_ext.finetuning.selection import Tree
from tests.finetuning.architectures import ARCHITECTURES, mlp, resnet, vit
from tests.finetuning.small import HEAD, Plain, Watch, copied, fit, moved, weights

SEVERAL = [name for name, (build, blocks) in ARCHITECTURES.items() if len(blocks) > 1]


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("name", SEVERAL)
def test_each_stage_thaws_more_from_the_output_to_the_input_until_everything_trains(name: str, at_once: int):
    model = ARCHITECTURES[name][0]()
    stages = gradual_unfreezing(at_once=at_once).stages_for(model)
    blocks = find_blocks(model)
    assert len(stages) == math.ceil(len(blocks) / at_once)
    assert problems_of_stages(stages) == []
    assert len({stage.name for stage in stages}) == len(stages)
    trained = [planned.trained for planned in make_plan(stages, model).stages]
    assert all(one < other for one, other in itertools.pairwise(trained))
    assert trained[-1] == frozenset(range(len(list(model.parameters()))))
    order = block_of_each(model, Tree.of(model))
    assert trained[0] == {n for n, block in order.items() if block >= len(blocks) - at_once}


@pytest.mark.parametrize("name", SEVERAL)
def test_each_block_trains_at_its_share_of_the_rate(name: str):
    model = ARCHITECTURES[name][0]()
    stages = gradual_unfreezing(lr=0.1, layer_decay=0.5).stages_for(model)
    for number, planned in enumerate(make_plan(stages, model).stages):
        shares = sorted({treatment.scale for treatment in planned.treatments if treatment.trains}, reverse=True)
        assert shares == [0.5**n for n in range(number + 1)]


def test_what_is_excluded_never_trains():
    model = resnet()
    stages = gradual_unfreezing(exclude="type:BatchNorm2d").stages_for(model)
    plan = make_plan(stages, model)
    names = [plan.tree.leaves[n].name for n in plan.ever_trained]
    assert len(names) == len(list(model.parameters())) - 2 * 10
    assert not any("bn" in name or "downsample.1" in name for name in names)


def test_blocks_may_be_named():
    schedule = gradual_unfreezing(blocks=["cls_token", "patch_embed", "blocks.*", "head"])
    stages = schedule.stages_for(vit())
    assert [(stage.name, stage.train) for stage in stages] == [
        ("head", ["head"]),
        ("blocks.*", ["head", "blocks.*"]),
        ("patch_embed", ["head", "blocks.*", "patch_embed"]),
        ("cls_token", ["*"]),
    ]


def test_conditions_and_best_weights_are_those_of_every_stage_but_the_last():
    until = Until(plateau=Plateau("val/loss", 2))
    stages = gradual_unfreezing(until, restore_best=True).stages_for(mlp())
    assert [stage.until for stage in stages] == [until, until, None]
    assert [stage.best for stage in stages] == [Best("val/loss"), Best("val/loss"), None]


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2), nn.Sequential(nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())]
)
def test_a_model_of_one_block_is_refused(model: nn.Module):
    with pytest.raises(ScheduleError, match=rf"finds [01] block in {type(model).__name__}, and needs 2 or more"):
        gradual_unfreezing().stages_for(model)


def test_fewer_than_one_block_at_once_is_refused():
    with pytest.raises(ScheduleError, match="`at_once` of gradual_unfreezing must be at least 1, but is 0"):
        gradual_unfreezing(at_once=0).stages_for(mlp())


def test_a_probe_trains_the_head_for_half_of_the_fit_and_then_everything():
    assert linear_probe_then_finetune("head", finetune_lr=1e-4).stages_for(vit()) == [
        Stage("probe", train="head", until=Until(fraction=0.5)),
        Stage("finetune", train="*", lr=1e-4),
    ]


@pytest.mark.parametrize("seen", ["gradual", "probe"])
def test_a_schedule_trains_a_lightning_module(seen: str):
    module = Plain()
    start, watch = copied(module), Watch(weights)
    if seen == "gradual":
        schedule, first = gradual_unfreezing(lr=0.05, layer_decay=0.5), "net.head"
    else:
        schedule, first = linear_probe_then_finetune("net.head", Until(epochs=1)), "probe"
    fit(module, schedule, watch)
    assert moved(start, watch.within(first)[-1]) == HEAD
    assert {name for name, value in copied(module).items() if torch.equal(value, start[name])} <= {
        "net.stem.0.bias",
        "net.body.0.bias",
    }
