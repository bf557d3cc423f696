"""What a stage does not name does not change, by whatever way it might."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from torch import Tensor, nn, optim
from torch.nn import functional

from runmodel_ext import Stage, Until
from runmodel_ext.finetuning.selection import Tree
from tests.finetuning.small import HEAD, Net, Plain, Watch, copied, fit, head_body_head, loader, moved, staged, weights

SELECTORS = [
    "net.head",
    "net.body",
    "net.stem",
    "net.stem.0",
    "net.body.1",
    "*.bias",
    "type:BatchNorm1d",
    "net.body.0.*",
]
OPTIMIZERS = {
    "SGD": lambda module: optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda module: optim.AdamW(module.parameters(), 0.01, weight_decay=0.1),
    "head only": lambda module: optim.AdamW(module.net.head.parameters(), 0.01, weight_decay=0.1),
}
STAGES = st.lists(st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=2, unique=True), min_size=2, max_size=4)


class Steps(Callback):
    """Keeps the stage of each batch, with the weights before and after it."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, dict[str, Tensor], dict[str, Tensor]]] = []
        self.before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.before = copied(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps.append((staged(trainer).history[-1]["stage"], self.before, copied(pl_module)))


@settings(max_examples=25, deadline=None)
@given(STAGES, st.sampled_from(list(OPTIMIZERS)), st.integers(1, 5))
def test_in_each_step_nothing_moves_but_what_the_stage_names(trains: list[list[str]], optimizer: str, length: int):
    module = Plain(OPTIMIZERS[optimizer])
    stages = [
        Stage(str(number), train=train, until=Until(steps=length) if number + 1 < len(trains) else None)
        for number, train in enumerate(trains)
    ]
    steps = Steps()
    fit(module, stages, steps, epochs=-1, max_steps=length * len(trains))
    tree = Tree.of(module)
    named = {str(number): tree.select(train) for number, train in enumerate(trains)}
    assert [stage for stage, _, _ in steps.steps] == [str(n) for n in range(len(trains)) for _ in range(length)]
    for stage, before, after in steps.steps:
        chosen = {tree.leaves[n].name for n in named[stage].leaves}
        changed = moved(before, after)
        running = {name for name in changed if "running" in name or "tracked" in name}
        assert changed - running <= chosen
        assert {name.rpartition(".")[0] for name in running} == {
            path for path in ("net.stem.1", "net.body.1") if any(name.startswith(f"{path}.") for name in chosen)
        }


class Buffers(nn.Module):
    """Modules that change themselves when they are called in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=False, momentum=None))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.instance = nn.InstanceNorm1d(6, track_running_stats=True)
        self.counting = Counting()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(self.spectral(self.scaled(x)))
        return self.head(self.counting(self.instance(x[:, :, None])[:, :, 0] if len(x.T) > 6 else x))


class Counting(nn.Module):
    """Counts its calls in train mode, and adds noise of its own, without a layer that torch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return functional.dropout(x * self.weight, 0.5, self.training)


def test_no_buffer_of_a_frozen_module_moves_whatever_kind_of_module_it_is():
    module = Plain(network=Buffers())
    start, watch = copied(module), Watch(weights)
    stages = [Stage("head", train="net.head", until=Until(epochs=1)), Stage("all", train="*")]
    fit(module, stages, watch, epochs=2)
    assert moved(start, watch.within("head")[-1]) == HEAD
    by_itself = {name for name in moved(start, copied(module)) if name in dict(module.named_buffers())}
    assert by_itself >= {"net.counting.calls", "net.scaled.1.running_mean", "net.scaled.1.num_batches_tracked"}
    assert any("spectral" in name for name in by_itself)


def test_no_noise_comes_from_what_is_frozen_and_no_random_number_is_drawn():
    features: list[Tensor] = []
    states: list[Tensor] = []

    class Keeps(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            states.append(torch.get_rng_state())
            middle = self.net.body(self.net.stem(batch[0]))
            features.append(middle.detach().clone())
            states.append(torch.get_rng_state())
            return functional.cross_entropy(self.net.head(middle), batch[1])

    stages = [Stage("head", train="net.head", until=Until(epochs=2)), Stage("all", train="*")]
    fit(Keeps(), stages)
    assert all(torch.equal(features[n], features[n + 4]) for n in range(4))
    assert all(torch.equal(states[2 * n], states[2 * n + 1]) for n in range(8))
    assert not any(torch.equal(states[2 * n], states[2 * n + 1]) for n in range(8, 12))


def test_a_head_trains_as_on_features_that_were_computed_once():
    module = Plain(OPTIMIZERS["AdamW"])
    batches = list(loader())
    head = nn.Linear(8, 3)
    head.load_state_dict(module.net.head.state_dict())
    with torch.no_grad():
        network = Net().eval()
        network.load_state_dict(module.net.state_dict())
        features = [(network.body(network.stem(x)), y) for x, y in batches]
    optimizer = optim.AdamW(head.parameters(), 0.01, weight_decay=0.1)
    for x, y in features * 3:
        optimizer.zero_grad()
        functional.cross_entropy(head(x), y).backward()
        optimizer.step()
    fit(module, [Stage("head", train="net.head")])
    assert torch.equal(module.net.head.weight, head.weight)
    assert torch.equal(module.net.head.bias, head.bias)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_what_a_module_thaws_by_itself_has_no_rate_and_keeps_its_bits(name: str):
    class Thaws(Plain):
        def on_train_epoch_start(self) -> None:
            self.net.stem.requires_grad_(True)

    module = Thaws(OPTIMIZERS[name])
    watch = Watch(weights)
    start = copied(module)
    fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    assert moved(watch.within("all")[-1], watch.within("again")[-1]) == HEAD


def test_what_the_user_has_frozen_trains_where_a_stage_names_it_and_is_told():
    module = Plain(OPTIMIZERS["AdamW"])
    module.net.stem.requires_grad_(False)
    start, watch = copied(module), Watch(weights)
    stages = [Stage("top", train=["net.head", "net.body"], until=Until(epochs=1)), Stage("all", train="*")]
    trainer = fit(module, stages, watch, epochs=2)
    assert not any("stem" in name for name in moved(start, watch.within("top")[-1]))
    assert "net.stem.0.weight" in moved(start, copied(module))
    assert staged(trainer).conductor.notes == [
        "Stage 'all': The model itself had frozen 4 parameters (72 numbers) of what trains."
    ]
    assert not any(parameter.requires_grad for parameter in module.net.stem.parameters())


def test_what_is_left_over_of_gradients_does_not_reach_a_stage_that_thaws_again():
    class Leaves(Plain):
        """Computes gradients of everything once more after each step, as a penalty's hand-made backward may."""

        def on_train_batch_end(self, *_: Any) -> None:
            self.loss(next(iter(loader()))).backward()

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    module = Leaves(OPTIMIZERS["SGD"])
    start, watch = copied(module), Watch(weights)
    fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    parameters = set(dict(module.named_parameters()))  # running statistics move in the module's own last pass
    assert moved(watch.within("all")[-1], watch.within("again")[-1]) & parameters == HEAD


def test_validation_between_the_steps_of_a_stage_changes_nothing():
    results = []
    start = copied(Plain())
    for checks in ({"val_check_interval": 1}, {"limit_val_batches": 0}):
        module = Plain(OPTIMIZERS["AdamW"])
        module.load_state_dict(start)
        for dropout in (module.net.stem[3], module.net.body[3]):
            dropout.p = 0.0  # loaders of validation draw random numbers, too
        fit(module, head_body_head(), **checks)
        results.append(copied(module))
    assert moved(*results) == set()
