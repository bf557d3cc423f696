"""The user's parameter groups, split once."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler

from runmodel_ext import Stage, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Conductor, Position
from runmodel_ext.finetuning.groups import spread_state
from tests.finetuning.architectures import gpt
from tests.finetuning.small import Net, Plain, copied, fit, head_body_head, moved

PARAMETERS = [name for name, _ in Net().named_parameters()]
SELECTORS = st.sampled_from(["*", "head", "stem", "body", "stem.0", "*.bias", "type:BatchNorm1d", "body.0.weight"])


@st.composite
def stages(draw: st.DrawFn) -> list[Stage]:
    """One to three stages: what trains, at which rates and weight decays."""
    made = []
    count = draw(st.integers(1, 3))
    for number in range(count):
        train = draw(st.lists(SELECTORS, min_size=1, max_size=2, unique=True))
        lr = draw(st.sampled_from([None, 0.1, {"*.weight": 0.2, "*": 0.3}, {"*": 0.4}]))
        if isinstance(lr, dict) and not any(
            s in ("*", "head", "stem", "body", "stem.0", "body.0.weight") for s in train
        ):
            lr = 0.5  # or else its first entry would never count
        decay = draw(st.sampled_from([None, 0.01]))
        until = Until(steps=2) if number + 1 < count else None
        made.append(Stage(f"stage {number}", train=train, lr=lr, weight_decay=decay, until=until))
    return made


@st.composite
def groups(draw: st.DrawFn) -> list[list[str]]:
    """The user's groups, by names: some parameters may be left out, and some groups empty, but not the first."""
    count = draw(st.integers(1, 3))
    there = sorted(draw(st.sets(st.integers(-1, count - 1), min_size=1)))
    places = draw(st.lists(st.sampled_from(there), min_size=len(PARAMETERS), max_size=len(PARAMETERS)))
    chosen: list[list[str]] = [[] for _ in range(count)]
    for name, place in zip(PARAMETERS, places, strict=True):
        if place >= 0:
            chosen[place].append(name)
    chosen[0] = chosen[0] or [name for name in PARAMETERS if not any(name in group for group in chosen)]
    return chosen


def optimizer_of(model: nn.Module, grouped: list[list[str]], named: bool = False) -> AdamW:
    parameters = dict(model.named_parameters())
    return AdamW([
        {"params": [(n, parameters[n]) if named else parameters[n] for n in group], "lr": 0.01 * (place + 1),
         "weight_decay": 0.1 * (place + 1)}
        for place, group in enumerate(grouped)
    ])  # fmt: skip


def names_in(model: nn.Module, optimizer: Any) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


usable = settings(max_examples=30, deadline=None)


@usable
@given(stages(), groups(), st.booleans())
def test_each_parameter_is_in_one_group_of_its_own_kind_and_stays_there(
    chosen: list[Stage], grouped: list[list[str]], named: bool
):
    model = Net()
    named = named and all(grouped)  # torch takes an empty group for one without names
    optimizer = optimizer_of(model, grouped, named)
    conductor = Conductor(chosen, model, [optimizer], [])
    held = names_in(model, optimizer)
    flat = [name for group in held for name in group]
    before = [name for group in grouped for name in group]
    ever = {conductor.plan.tree.leaves[n].name for n in conductor.plan.ever_trained}
    assert len(flat) == len(set(flat))
    assert set(flat) == set(before) | ever
    origins = [part.origin for part in conductor.layouts[0].parts]
    for place, group in enumerate(grouped):  # the order is kept, and nothing goes elsewhere
        kept = [name for each, origin in zip(held, origins, strict=True) if origin == place for name in each]
        assert sorted(name for name in kept if name in before) == sorted(group)
    for each in held:
        positions = [before.index(name) for name in each if name in before]
        assert positions == sorted(positions)
    shown = [group["name"] for group in optimizer.param_groups if "name" in group]
    assert len(shown) == len(set(shown))
    if named:
        assert [group["param_names"] for group in optimizer.param_groups] == held
    for index in range(len(chosen)):
        conductor.begin(index, Position(index, 2 * index))
        assert names_in(model, optimizer) == held


@usable
@given(stages(), groups())
def test_groups_show_the_rates_and_weight_decays_that_each_stage_asks_for(
    chosen: list[Stage], grouped: list[list[str]]
):
    model = Net()
    optimizer = optimizer_of(model, grouped)
    own = {
        name: group
        for names, group in zip(grouped, copy.deepcopy(optimizer).param_groups, strict=True)
        for name in names
    }
    joined = copy.deepcopy(optimizer).param_groups[0]
    conductor = Conductor(chosen, model, [optimizer], [])
    parameters = dict(model.named_parameters())
    for index, stage in enumerate(chosen):
        conductor.begin(index, Position(index, 2 * index))
        planned = conductor.plan.stages[index]
        trained = {conductor.plan.tree.leaves[n].name for n in planned.trained}
        assert {name for name, parameter in parameters.items() if parameter.requires_grad} == trained
        for names, group in zip(names_in(model, optimizer), optimizer.param_groups, strict=True):
            for name in names:
                before = own.get(name, joined)
                rate = stage.lr
                if isinstance(rate, dict):
                    rate = rate.get("*.weight", rate["*"]) if name.endswith("weight") else rate["*"]
                assert group["lr"] == (0.0 if name not in trained else before["lr"] if rate is None else rate)
                decays = stage.weight_decay is not None and name in trained
                assert group["weight_decay"] == (stage.weight_decay if decays else before["weight_decay"])
                assert group["betas"] == before["betas"]
    conductor.release()
    assert all(parameter.requires_grad for parameter in parameters.values())


@usable
@given(stages(), groups())
def test_what_a_checkpoint_holds_is_of_the_users_groups_and_comes_back_as_it_was(
    chosen: list[Stage], grouped: list[list[str]]
):
    model = Net()
    optimizer = optimizer_of(model, grouped)
    scheduler = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=9)
    conductor = Conductor(chosen, model, [optimizer], [scheduler])
    conductor.begin(0, Position(0, 0))
    for _ in range(3):
        model(torch.randn(5, 6)).square().sum().backward()
        optimizer.step()
        conductor.schedulers[0].step()
    was = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    checkpoint = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    others = conductor.merge_into(checkpoint)
    saved = checkpoint["optimizer_states"][0]["param_groups"]
    assert [len(group["params"]) for group in saved] == [len(group) for group in grouped]
    factor = 0.5 + 0.5 * 3 / 9
    assert [group["lr"] for group in saved] == pytest.approx([0.01 * (n + 1) * factor for n in range(len(grouped))])
    assert len(checkpoint["lr_schedulers"][0]["base_lrs"]) == len(grouped)
    fresh = optimizer_of(Net(), grouped)
    fresh.load_state_dict(checkpoint["optimizer_states"][0])  # as without stages
    conductor.split_in(checkpoint, others)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
    conductor.take_own_rates()
    conductor.apply()
    assert same(was[0], optimizer.state_dict())
    assert same(was[1], scheduler.state_dict())


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


NUMBERS = st.lists(st.floats(allow_nan=False), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.data(), NUMBERS)
def test_what_a_scheduler_keeps_for_each_group_is_spread_and_the_rest_stays(data: st.DataObject, rates: list[float]):
    count = len(rates)
    source = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    state = {
        "base_lrs": rates, "_last_lr": tuple(rates), "max_momentums": rates, "lr_lambdas": [None] * count,
        "last_epoch": 3, "milestones": list(range(count)), "optimizer": None, "empty_lrs": [],
        "_schedulers": [{"base_lrs": rates, "gamma": 0.1}, {"min_lrs": rates, "_milestones": list(range(count))}],
    }  # fmt: skip
    before = copy.deepcopy(state)
    spread = spread_state(state, source, count)
    wanted = [rates[place] for place in source]
    assert spread == {
        **before, "base_lrs": wanted, "_last_lr": tuple(wanted), "max_momentums": wanted,
        "lr_lambdas": [None] * len(source),
        "_schedulers": [{"base_lrs": wanted, "gamma": 0.1}, {"min_lrs": wanted, "_milestones": list(range(count))}],
    }  # fmt: skip
    assert state == before
    firsts = [source.index(place) for place in range(count) if place in source]
    if len(firsts) == count:
        assert spread_state(spread, firsts, len(source)) == before


# ---- parameters that the optimizer does not hold ---------------------------------------------------------------------


def head_only(module: Plain) -> AdamW:
    return AdamW([
        {"params": [module.net.head.weight], "weight_decay": 0.3, "name": "decayed"},
        {"params": [module.net.head.bias], "weight_decay": 0.0, "name": "spared", "lr": 0.02},
    ], lr=0.01)  # fmt: skip


@pytest.mark.parametrize(
    ("group", "decay", "lr"),
    [(None, 0.3, 0.01), (0, 0.3, 0.01), (1, 0.0, 0.02), ("1", 0.0, 0.02), ("0/1", 0.0, 0.02), ("spared", 0.0, 0.02)],
)
def test_parameters_that_are_left_out_join_the_group_that_the_stage_names(group: Any, decay: float, lr: float):
    start = copied(Plain())
    seen: list[tuple[float, float]] = []

    class Looks(Plain):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            for each in optimizer.param_groups:
                if any(parameter is self.net.stem[0].weight for parameter in each["params"]) and each["lr"]:
                    seen.append((each["weight_decay"], each["lr"]))

    module = Looks(head_only)
    module.load_state_dict(start)
    fit(module, head_body_head(group=group))
    assert seen == [(decay, lr)] * 4
    assert moved(start, copied(module)) >= {name for name in start if name.endswith("0.weight")}


@pytest.mark.parametrize("group", [2, "3/0", "others", -1])
def test_a_group_that_is_not_there_is_refused_with_those_that_are(group: Any):
    with pytest.raises(ScheduleError, match=f"its `group` is {group!r}, but there are the groups 0/0, 0/1"):
        fit(Plain(head_only), head_body_head(group=group))


def test_with_two_optimizers_the_stage_says_which_takes_what_none_of_them_holds():
    model = Net()

    def optimizers() -> list[SGD]:
        return [SGD(model.head.parameters(), 0.1), SGD(model.body.parameters(), 0.2)]

    with pytest.raises(ScheduleError, match=r"there are 2 optimizers\. Say which takes them, such as `group: 1/0`"):
        Conductor([Stage("all", train="*")], model, optimizers(), [])
    built = optimizers()
    Conductor([Stage("all", train="*", group="1/0")], model, built, [])
    assert [sum(len(group["params"]) for group in each.param_groups) for each in built] == [2, 8]


def test_two_stages_that_put_a_parameter_into_two_groups_are_refused():
    stages = [
        Stage("one", train="*", group=0, until=Until(epochs=1)),
        Stage("two", train="*", group=1),
    ]
    with pytest.raises(ScheduleError, match=r"Stages 'one' and 'two' put 'net.stem.0.weight' into two groups"):
        fit(Plain(head_only), stages)


def test_a_parameter_that_no_stage_trains_and_no_optimizer_holds_stays_outside():
    module = Plain(lambda module: SGD(module.net.head.parameters(), 0.1))
    trainer = fit(module, [Stage("head", train="net.head")])
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2]


def test_what_the_model_does_not_hold_goes_on_as_it_was():
    outside = nn.Parameter(torch.ones(3))

    class Loss(Plain):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch) + (outside * batch[0][:3, 0]).sum()

    module = Loss(lambda module: SGD([*module.parameters(), outside], 0.1))
    fit(module, [Stage("head", train="net.head", lr=0.5)], epochs=1)
    assert not torch.equal(outside, torch.ones(3))
    assert outside.requires_grad


def test_layer_decay_gives_each_block_its_share_and_a_group():
    model = gpt()
    optimizer = SGD(model.parameters(), 1.0)
    conductor = Conductor([Stage("all", train="*", layer_decay=0.5)], model, [optimizer], [])
    conductor.begin(0, Position(0, 0))
    rates = {name: group["lr"] for names, group in zip(names_in(model, optimizer), optimizer.param_groups, strict=True)
             for name in names}  # fmt: skip
    assert rates["transformer.wte.weight"] == 1.0  # which is the head's too
    assert rates["transformer.h.1.mlp.fc1.weight"] == rates["transformer.ln_f.weight"] == 0.5
    assert rates["transformer.wpe.weight"] == 0.125
    assert len(optimizer.param_groups) == 4


def test_a_split_copies_nothing_that_training_changes():
    model = Net()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    state = {id(parameter): value for parameter, value in optimizer.state.items()}
    Conductor([Stage("head", train="head")], model, [optimizer], [])
    assert {id(parameter): value for parameter, value in optimizer.state.items()} == state
    assert [len(group["params"]) for group in optimizer.param_groups] == [8, 2]
