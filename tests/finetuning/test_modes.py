"""Frozen modules are in eval mode, whoever calls ``train()``, and all modes are the user's again at the end."""

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from torch import Tensor, nn

from runmodel_ext import Stage, Until
from runmodel_ext.finetuning.modes import Modes
from tests.finetuning.small import Net, Plain, Watch, copied, fit, head_body_head

HEAD = {"net.head.weight", "net.head.bias"}
FROZEN = ["net.stem.1", "net.stem.3", "net.body.1", "net.body.3"]


class Called(Plain):
    """Keeps the modes in which its BatchNorm and dropout layers were called in each training step."""

    def __init__(self, configure: Any = None, network: nn.Module | None = None) -> None:
        super().__init__(configure, network)
        self.calls: list[dict[str, bool]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        modes: dict[str, bool] = {}
        hooks = [
            module.register_forward_hook(lambda module, *_, name=name: modes.update({name: module.training}))
            for name, module in self.named_modules()
            if isinstance(module, (nn.BatchNorm1d, nn.Dropout))
        ]
        loss = self.loss(batch)
        for hook in hooks:
            hook.remove()
        self.calls.append(modes)
        return loss

    @property
    def in_train_mode(self) -> list[set[str]]:
        return [{name for name, training in modes.items() if training} for modes in self.calls]


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: each.training for name, each in module.named_modules()}


class AtFitStart(Called):
    def on_fit_start(self) -> None:
        self.train()


class AtTrainStart(Called):
    def on_train_start(self) -> None:
        self.train()


class AtEpochStart(Called):
    def on_train_epoch_start(self) -> None:
        self.train()


class AtBatchStart(Called):
    def on_train_batch_start(self, *_: Any) -> None:
        self.train()


class AtBatchStartOfAPart(Called):
    def on_train_batch_start(self, *_: Any) -> None:
        self.net.body.train()


class AtBatchEnd(Called):
    def on_train_batch_end(self, *_: Any) -> None:
        self.train()


class AtBatchEndOfALayer(Called):
    def on_train_batch_end(self, *_: Any) -> None:
        self.net.stem[1].train()


class InTrainingStep(Called):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.eval()
        with torch.no_grad():
            self.loss(batch)
        self.train()
        return super().training_step(batch, batch_idx)


class AfterValidation(Called):
    def on_validation_model_train(self) -> None:
        self.train()


class InValidation(Called):
    def on_validation_epoch_end(self) -> None:
        self.train()


class ByAnotherCallback(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.train()


WAKING = [
    AtFitStart,
    AtTrainStart,
    AtEpochStart,
    AtBatchStart,
    AtBatchStartOfAPart,
    AtBatchEnd,
    AtBatchEndOfALayer,
    InTrainingStep,
    AfterValidation,
    InValidation,
]


@pytest.mark.parametrize("kind", [Called, *WAKING], ids=lambda kind: kind.__name__)
def test_frozen_modules_stay_in_eval_mode_although_the_module_calls_train(kind: type[Called]):
    module = kind()
    start = copied(module)
    watch = Watch(lambda trainer, module: copied(module))
    fit(module, head_body_head(), watch)
    assert module.in_train_mode == [set()] * 4 + [set(FROZEN)] * 4 + [set()] * 4
    moved = {key for key, value in watch.within("head")[-1].items() if not torch.equal(value, start[key])}
    assert moved == HEAD
    assert all(modes(module).values())


def test_frozen_modules_stay_in_eval_mode_although_another_callback_calls_train():
    module = Called()
    fit(module, head_body_head(), ByAnotherCallback())
    assert module.in_train_mode == [set()] * 4 + [set(FROZEN)] * 4 + [set()] * 4


def test_what_the_module_puts_into_eval_mode_itself_stays_there():
    class Sleeps(Called):
        def on_train_start(self) -> None:
            self.net.stem[1].eval()

        def on_train_epoch_start(self) -> None:
            self.train()
            self.net.stem[1].eval()

    stages = [Stage("top", train=["net.stem", "net.head"], until=Until(epochs=1)), Stage("all", train="*")]
    module = Sleeps()
    fit(module, stages, epochs=2)
    assert module.in_train_mode == [{"net.stem.3"}] * 4 + [{"net.stem.3", "net.body.1", "net.body.3"}] * 4


def test_what_the_user_has_in_eval_mode_stays_there_in_all_stages_and_afterwards():
    module = Called()
    module.net.body.eval()
    before = modes(module)
    fit(module, head_body_head())
    assert module.in_train_mode == [set()] * 4 + [{"net.stem.1", "net.stem.3"}] * 4 + [set()] * 4
    assert modes(module) == before


def test_frozen_modules_in_train_mode_where_the_stage_says_so():
    module = Called()
    start = copied(module)
    stages = [Stage("head", train="net.head", train_mode=["type:Dropout", "net.body.1"])]
    fit(module, stages, epochs=1)
    assert module.in_train_mode == [{"net.stem.3", "net.body.3", "net.body.1"}] * 4
    moved = {key for key, value in module.state_dict().items() if not torch.equal(value, start[key])}
    running = {f"net.body.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved == HEAD | running


def test_a_module_in_train_mode_below_one_that_is_woken_and_put_back():
    class Wakes(Called):
        def on_train_batch_start(self, *_: Any) -> None:
            self.train()

    module = Wakes()
    fit(module, [Stage("head", train="net.head", train_mode="net.body.3")], epochs=1)
    assert module.in_train_mode == [{"net.body.3"}] * 4


def test_modules_in_eval_mode_although_they_train_where_the_stage_says_so():
    module = Called()
    start = copied(module)
    fit(module, [Stage("all", train="*", eval_mode="type:BatchNorm1d")], epochs=1)
    assert module.in_train_mode == [{"net.stem.3", "net.body.3"}] * 4
    running = {key for key in start if "running" in key or "tracked" in key}
    assert all(torch.equal(module.state_dict()[key], start[key]) for key in running)
    assert not torch.equal(module.net.stem[1].weight, start["net.stem.1.weight"])


def test_excluded_batch_norm_is_in_eval_mode_within_a_part_that_trains():
    module = Called()
    start = copied(module)
    fit(module, [Stage("all", train="*", exclude="type:_BatchNorm")], epochs=1)
    assert module.in_train_mode == [{"net.stem.3", "net.body.3"}] * 4
    still = {key for key, value in module.state_dict().items() if torch.equal(value, start[key])}
    assert still >= {key for key in start if ".1." in key}


def test_a_batch_norm_of_which_one_parameter_trains_is_in_train_mode():
    module = Called()
    fit(module, [Stage("scale", train="net.stem.1.weight")], epochs=1)
    assert module.in_train_mode == [{"net.stem.1"}] * 4


def test_a_module_with_two_names_is_in_train_mode_where_one_of_them_trains():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
            self.second = self.first
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(x)))

    stages = [Stage("second", train="net.second", until=Until(epochs=1)), Stage("head", train="net.head")]
    module = Called(network=Twice())
    fit(module, stages, epochs=2)
    assert module.in_train_mode == [{"net.first.1"}] * 4 + [set()] * 4
    assert all(modes(module).values())


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_dropout_within_a_frozen_recurrent_layer_is_inactive(layer: type[nn.LSTM] | type[nn.GRU]):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = layer(2, 4, num_layers=2, dropout=0.5, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.memory(x.reshape(-1, 3, 2))[0][:, -1]
            return self.head(self.seen)

    outputs: list[Tensor] = []

    class Keeps(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            outputs.append(self.net.seen.detach().clone())
            return loss

    stages = [Stage("head", train="net.head", until=Until(epochs=2)), Stage("all", train="*")]
    fit(Keeps(network=Recurrent()), stages)
    assert all(torch.equal(outputs[n], outputs[n + 4]) for n in range(4))
    assert not any(torch.equal(outputs[n + 4], outputs[n + 8]) for n in range(4))


@pytest.mark.parametrize("ending", ["well", "with an error", "with an interrupt"])
def test_modes_and_gradients_are_the_users_again_however_the_fit_ends(ending: str):
    class Ends(Plain):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 2 and ending == "with an error":
                raise ArithmeticError("the module has had enough")
            if self.trainer.global_step == 2 and ending == "with an interrupt":
                raise KeyboardInterrupt

    module = Ends()
    module.net.body[0].requires_grad_(False)
    module.net.body[3].eval()
    had = ({name: p.requires_grad for name, p in module.named_parameters()}, modes(module))
    expected = {"well": (), "with an error": ArithmeticError, "with an interrupt": SystemExit}[ending]
    if expected:
        with pytest.raises(expected):
            fit(module, head_body_head())
    else:
        fit(module, head_body_head())
    assert ({name: p.requires_grad for name, p in module.named_parameters()}, modes(module)) == had


def test_a_copy_that_is_made_during_a_fit_can_be_put_into_train_mode():
    copies: list[nn.Module] = []

    class Copies(Plain):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.trainer.global_step == 1:
                copies.append(copy.deepcopy(self.net))
                written = io.BytesIO()
                torch.save(self.net, written)
                written.seek(0)
                copies.append(torch.load(written, weights_only=False))

    module = Copies()
    fit(module, head_body_head())
    for network in [*copies, module.net]:
        before = copied(network)
        network.train()(torch.randn(4, 6))
        assert not torch.equal(network.stem[1].running_mean, before["stem.1.running_mean"])
        assert all(modes(network).values())
        assert all(modes(module).values())


PATHS = [path for path, _ in Net().named_modules() if path]


@settings(deadline=None)
@given(
    awake=st.sets(st.sampled_from(PATHS)),
    steps=st.lists(st.tuples(st.frozensets(st.sampled_from(PATHS)), st.booleans()), max_size=5),
)
def test_modules_that_are_held_no_more_are_in_the_mode_that_they_had(
    awake: set[str], steps: list[tuple[frozenset[str], bool]]
):
    network = Net().eval()
    for path in awake:
        network.get_submodule(path).training = True
    before = modes(network)
    held = Modes(dict(network.named_modules()))
    for paths, woken in steps:
        held.hold(paths)
        if woken:
            for path in paths:
                network.get_submodule(path).training = True
            held.hold_again()
        assert modes(network) == {path: mode and path not in paths for path, mode in before.items()}
    held.hold(())
    assert modes(network) == before
