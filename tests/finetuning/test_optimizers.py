"""Optimizers of every kind that torch has: what is frozen does not move, and costs nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from runmodel_ext import Stage, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Warmup
from tests.finetuning.small import HEAD, Plain, Watch, copied, fit, head_body_head, moved, rates, weights

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    "SGD, Nesterov, foreach": lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True, foreach=True),
    "SGD, fused": lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "Adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.1),
    "Adam, amsgrad, foreach": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True, foreach=True),
    "Adam, fused": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, fused=True),
    "AdamW": lambda p: optim.AdamW(p, 0.01, weight_decay=0.1),
    "AdamW, fused": lambda p: optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "AdamW, rate in a tensor": lambda p: optim.AdamW(p, torch.tensor(0.01), weight_decay=0.1, foreach=False),
    "NAdam": lambda p: optim.NAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": lambda p: optim.RAdam(p, 0.01, weight_decay=0.1),
    "Adamax": lambda p: optim.Adamax(p, 0.01, weight_decay=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, 0.01, weight_decay=0.1, initial_accumulator_value=0.1),
    "Adagrad, fused": lambda p: optim.Adagrad(p, 0.01, weight_decay=0.1, fused=True),
    "Adadelta": lambda p: optim.Adadelta(p, 1.0, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, weight_decay=0.1, momentum=0.9, centered=True),
    "Rprop": lambda p: optim.Rprop(p, 0.01),
    "ASGD": lambda p: optim.ASGD(p, 0.01, weight_decay=0.1, t0=2),
    "Adafactor": lambda p: optim.Adafactor(p, 0.01, weight_decay=0.1),
    "LBFGS": lambda p: optim.LBFGS(p, 0.1, max_iter=3),
    "LBFGS, line search": lambda p: optim.LBFGS(p, 0.1, max_iter=3, line_search_fn="strong_wolfe"),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)


def plain(name: str) -> Plain:
    return Plain(lambda module: OPTIMIZERS[name](module.parameters()))


def state_of(optimizer: optim.Optimizer) -> set[int]:
    """The parameters for which an optimizer keeps something."""
    return {id(parameter) for parameter, state in optimizer.state.items() if state}


def numbers_in(value: Any) -> int:
    """How many numbers the tensors in a state hold."""
    if isinstance(value, Tensor):
        return value.numel()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(numbers_in(item) for item in items)


def test_every_optimizer_of_torch_is_tried():
    there = {name for name in dir(optim) if isinstance(getattr(optim, name), type)} - {"Optimizer"}
    elsewhere = {"Muon", "SparseAdam"}  # which take parameters of one kind only, below
    assert there - elsewhere <= {name.partition(",")[0] for name in OPTIMIZERS}


@every
def test_what_is_frozen_again_keeps_its_bits(name: str):
    module = plain(name)
    start = copied(module)
    watch = Watch(weights)
    fit(module, head_body_head(), watch)
    middle = watch.within("all")[-1]
    for stage, before in (("head", start), ("again", middle)):
        assert all(moved(before, after) == HEAD for after in watch.within(stage))
    # Before a BatchNorm, a bias has a gradient of rounding errors alone.
    still = {key for key, value in middle.items() if torch.equal(value, start[key])}
    assert still <= {"net.stem.0.bias", "net.body.0.bias"}


@every
def test_a_head_trains_as_with_an_optimizer_of_its_own_and_the_rest_frozen_by_hand(name: str):
    by_hand = Plain(lambda module: OPTIMIZERS[name](module.net.head.parameters()))
    staged = plain(name)
    staged.load_state_dict(by_hand.state_dict())
    for part in (by_hand.net.stem, by_hand.net.body):
        part.requires_grad_(False).eval()
    fit(by_hand, None)
    fit(staged, [Stage("head", train="net.head")])
    assert all(torch.equal(value, staged.state_dict()[key]) for key, value in by_hand.state_dict().items())


@every
def test_everything_trains_as_without_stages(name: str):
    alone, staged = plain(name), plain(name)
    staged.load_state_dict(alone.state_dict())
    fit(alone, None)
    stages = [Stage("one", train="*", until=Until(epochs=1)), Stage("two", train=["net.head", "net.stem", "net.body"])]
    fit(staged, stages)
    assert all(torch.equal(value, staged.state_dict()[key]) for key, value in alone.state_dict().items())


@every
def test_what_is_frozen_for_good_costs_no_memory_of_the_optimizer(name: str):
    by_hand = Plain(lambda module: OPTIMIZERS[name](module.net.head.parameters()))
    staged = plain(name)
    for part in (by_hand.net.stem, by_hand.net.body):
        part.requires_grad_(False)
    least = numbers_in(dict(fit(by_hand, None, epochs=1).optimizers[0].state))
    trainer = fit(staged, [Stage("all", train="*", until=Until(epochs=1)), Stage("head", train="net.head")], epochs=2)
    head = {id(parameter) for parameter in staged.net.head.parameters()}
    assert state_of(trainer.optimizers[0]) <= head
    if "LBFGS" not in name:  # whose memory of directions fills up
        assert numbers_in(dict(trainer.optimizers[0].state)) == least


def test_an_optimizer_that_makes_its_state_when_it_is_built_keeps_that_of_what_trains_later():
    sizes = Watch(lambda trainer, module: len(state_of(trainer.optimizers[0])))
    stages = [
        Stage("head", train="net.head", until=Until(epochs=1)),
        Stage("top", train=["net.head", "net.body"], until=Until(epochs=1)),
        Stage("head again", train="net.head"),
    ]
    fit(plain("Adagrad"), stages, sizes)
    assert sizes.within("head") == [6] * 4
    assert sizes.within("top") == [6] * 4
    assert sizes.within("head again") == [2] * 4


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adagrad", "RMSprop"])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_stage_goes_on_with_the_moments_that_are_there_or_begins_with_fresh_ones(name: str, keeps: bool):
    steps: list[Any] = []

    class Looks(Plain):
        def on_train_batch_start(self, *_: Any) -> None:
            (optimizer,) = self.trainer.optimizers
            state = optimizer.state.get(self.net.head.weight, {})
            steps.append(float(state.get("step", "momentum_buffer" in state)))

    stages = [
        Stage("head", train="net.head", until=Until(epochs=1)),
        Stage("all", train="*", optimizer_state="keep" if keeps else "reset"),
    ]
    fit(Looks(lambda module: OPTIMIZERS[name](module.parameters())), stages, epochs=2)
    assert steps[3] > 0
    assert (steps[4] > 0) == keeps


def test_fresh_moments_of_adagrad_are_those_with_which_it_was_built():
    sums: list[Tensor] = []

    class Looks(Plain):
        def on_train_batch_start(self, *_: Any) -> None:
            sums.append(self.trainer.optimizers[0].state[self.net.head.bias]["sum"].clone())

    stages = [
        Stage("one", train="net.head", until=Until(epochs=1)),
        Stage("two", train="net.head", optimizer_state="reset"),
    ]
    fit(Looks(lambda module: OPTIMIZERS["Adagrad"](module.parameters())), stages, epochs=2)
    assert not torch.equal(sums[3], sums[0])
    assert torch.equal(sums[4], sums[0])


def test_parameters_that_adagrad_did_not_hold_train():
    module = Plain(lambda module: OPTIMIZERS["Adagrad"](module.net.head.parameters()))
    before = copied(module)
    fit(module, head_body_head())
    assert not torch.equal(module.net.stem[0].weight, before["net.stem.0.weight"])


def test_lbfgs_holds_what_trains_and_takes_what_it_did_not_hold():
    module = Plain(lambda module: optim.LBFGS(module.net.head.parameters(), 0.1, max_iter=3))
    held = Watch(lambda trainer, module: [p.numel() for p in trainer.optimizers[0].param_groups[0]["params"]])
    fit(module, head_body_head(), held)
    head = [24, 3]
    assert held.within("head")[-1] == held.within("again")[-1] == head
    assert sorted(held.within("all")[-1]) == sorted(p.numel() for p in module.parameters())


def test_lbfgs_with_two_rates_is_refused_by_name():
    stage = Stage("all", train="*", lr={"net.head": 0.1, "*": 0.01})
    with pytest.raises(
        ScheduleError, match="Stage 'all' has 2 learning rates, but LBFGS takes one group of parameters"
    ):
        fit(plain("LBFGS"), [stage])


def test_a_rate_that_an_optimizer_cannot_have_is_refused_by_name():
    stage = Stage("all", train="*", weight_decay=0.1)
    with pytest.raises(ScheduleError, match="Stage 'all' sets `weight_decay`, but Rprop has no such option"):
        fit(plain("Rprop"), [stage])


class TwoKinds(Plain):
    """Two optimizers, stepped one after the other by hand."""

    def __init__(self, configure: Any, network: nn.Module | None = None) -> None:
        super().__init__(configure, network)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.skipif(not hasattr(optim, "Muon"), reason="this torch has no Muon")
def test_muon_for_matrices_beside_adamw_for_the_rest():
    def configure(module: Plain) -> Any:
        matrices = [p for p in module.parameters() if p.ndim == 2]
        others = [p for p in module.parameters() if p.ndim != 2]
        return [optim.Muon(matrices, 0.01, weight_decay=0.1), optim.AdamW(others, 0.01, weight_decay=0.1)], []

    module = TwoKinds(configure)
    start, watch = copied(module), Watch(weights)
    stages = [
        Stage("head", train="net.head", until=Until(steps=6)),
        Stage("all", train="*", until=Until(steps=8)),
        Stage("again", train="net.head"),
    ]
    fit(module, stages, watch)
    for stage, before in (("head", start), ("again", watch.within("all")[-1])):
        assert moved(before, watch.within(stage)[-1]) == HEAD
    assert not torch.equal(watch.within("all")[-1]["net.stem.0.weight"], start["net.stem.0.weight"])


class Bag(nn.Module):
    """A sparse embedding, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(9, 4, mode="sum", sparse=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words((x.abs() * 3).long().clamp(max=8)))


def test_sparse_gradients_have_an_optimizer_of_their_own():
    def configure(module: Plain) -> Any:
        sparse = optim.SparseAdam(list(module.net.words.parameters()), 0.01)
        return [sparse, optim.SGD(module.net.head.parameters(), 0.1)], []

    module = TwoKinds(configure, Bag())
    start, watch = copied(module), Watch(weights)
    fit(module, [Stage("words", train="net.words", until=Until(steps=4), lr=0.1), Stage("all", train="*")], watch)
    assert moved(start, watch.within("words")[-1]) == {"net.words.weight"}
    assert not torch.equal(module.net.head.bias, start["net.head.bias"])


class Sharp(optim.Optimizer):
    """Steps with another optimizer that shares its groups, as SAM and Lookahead do."""

    def __init__(self, params: Any, base: Callable[[Any], optim.Optimizer]) -> None:
        super().__init__(params, {})
        self.base = base(self.param_groups)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


def test_an_optimizer_around_another_shares_its_groups_with_it_after_the_split():
    module = Plain(lambda module: Sharp(module.parameters(), OPTIMIZERS["SGD"]))
    start, watch = copied(module), Watch(lambda trainer, module: (copied(module), rates(trainer)))
    trainer = fit(module, head_body_head(lr=0.02), watch)
    (optimizer,) = trainer.optimizers
    assert optimizer.param_groups is optimizer.base.param_groups
    now, shown = watch.within("head")[-1]
    assert moved(start, now) == HEAD
    assert shown["net.head.weight"] == 0.02
    assert shown["net.stem.0.weight"] == 0


class Sign(optim.Optimizer):
    """Has no learning rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"size": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["size"])
        return loss


def test_an_optimizer_without_a_learning_rate_works_where_no_stage_asks_for_one():
    module = Plain(lambda module: Sign(module.parameters()))
    start, watch = copied(module), Watch(weights)
    fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    for asked in ({"layer_decay": 0.5}, {"warmup": Warmup(3)}, {"lr_scheduler": lambda o: None}):
        (name,) = asked
        with pytest.raises(ScheduleError, match=f"Stage 'all' sets `{name}`, but Sign has no learning rate"):
            fit(Plain(lambda module: Sign(module.parameters())), [Stage("all", train="*", **asked)])


def test_weight_decay_of_a_stage_leaves_alone_the_groups_that_the_optimizer_spares():
    def configure(module: Plain) -> Any:
        groups = [
            {"params": [p for p in module.parameters() if p.ndim > 1]},
            {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return optim.AdamW(groups, 0.01, weight_decay=0.3)

    def decays(trainer: Any, module: Plain) -> dict[str, float]:
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        return {names[id(p)]: g["weight_decay"] for g in trainer.optimizers[0].param_groups for p in g["params"]}

    watch = Watch(decays)
    stages = [
        Stage("own", train="*", until=Until(epochs=1)),
        Stage("number", train="*", weight_decay=0.5, until=Until(epochs=1)),
        Stage("table", train="*", weight_decay={"net.head": 0.7, "*": 0.1}, until=Until(epochs=1)),
        Stage("own again", train="*"),
    ]
    fit(Plain(configure), stages, watch, epochs=4)
    looked = ("net.head.weight", "net.head.bias", "net.stem.0.weight", "net.stem.0.bias")
    assert {stage: tuple(watch.within(stage)[-1][name] for name in looked) for stage, _ in watch.seen} == {
        "own": (0.3, 0.0, 0.3, 0.0),
        "number": (0.5, 0.0, 0.5, 0.0),
        "table": (0.7, 0.7, 0.1, 0.1),
        "own again": (0.3, 0.0, 0.3, 0.0),
    }


def test_a_weight_decay_that_no_stage_decides_on_may_be_moved_by_the_module():
    class Moves(Plain):
        def on_train_epoch_end(self) -> None:
            for group in self.optimizers().param_groups:
                group["weight_decay"] *= 0.5

    watch = Watch(lambda trainer, module: {group["weight_decay"] for group in trainer.optimizers[0].param_groups})
    fit(Moves(lambda module: optim.AdamW(module.parameters(), 0.01, weight_decay=0.4)), head_body_head(), watch)
    assert [seen for _, seen in watch.seen][::4] == [{0.4}, {0.2}, {0.1}]


def test_gradients_of_what_is_frozen_are_neither_computed_nor_kept():
    class Asks(Plain):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            grads.append({name for name, parameter in self.named_parameters() if parameter.grad is not None})

    grads: list[set[str]] = []
    fit(Asks(lambda module: OPTIMIZERS["SGD"](module.parameters())), head_body_head())
    every_name = {name for name, _ in Plain().named_parameters()}
    head = {"net.head.weight", "net.head.bias"}
    assert grads == [head] * 4 + [every_name] * 4 + [head] * 4


def test_a_frozen_prefix_runs_without_autograd_and_a_frozen_suffix_does_not():
    class Asks(Plain):
        def loss(self, batch: Any) -> Tensor:
            middle = self.net.body(self.net.stem(batch[0]))
            if self.training and torch.is_grad_enabled():
                graphs.append(middle.requires_grad)
            return functional.cross_entropy(self.net.head(middle), batch[1])

    graphs: list[bool] = []
    stages = [
        Stage("head", train="net.head", until=Until(epochs=1)),
        Stage("stem", train="net.stem", until=Until(epochs=1)),
        Stage("head again", train="net.head"),
    ]
    fit(Asks(), stages)
    assert graphs == [False] * 4 + [True] * 4 + [False] * 4
