"""The module's own schedulers, of every kind that torch has, go on as if there were no stages."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, AdamW, lr_scheduler, swa_utils

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.finetuning import Warmup
from tests.finetuning.kit import QUIET
from tests.finetuning.small import Plain, fit, head_body_head, loader

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning", "ignore:.*EPOCH_DEPRECATION.*")

KEPT = head_body_head()


class Growing:
    """A factor with a memory, which LambdaLR keeps in its state."""

    def __init__(self, by: float) -> None:
        self.by, self.calls = by, 0

    def __call__(self, epoch: int) -> float:
        self.calls += 1
        return 1.0 / (1.0 + self.by * epoch)


def decay(epoch: int, by: float = 0.9) -> float:
    return by**epoch


def sequence(optimizer: Any) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        lr_scheduler.LambdaLR(optimizer, [decay, functools.partial(decay, by=0.8)]),
        lr_scheduler.ExponentialLR(optimizer, 0.7),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[3, 7])


def chained(optimizer: Any) -> Any:
    inner = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=2),
            lr_scheduler.LambdaLR(optimizer, [decay, Growing(0.2)]),
        ],
        milestones=[2],
    )
    return lr_scheduler.ChainedScheduler([inner, lr_scheduler.MultiplicativeLR(optimizer, [lambda _: 0.99] * 2)])


def scaled(cycle: float) -> float:
    return 0.5**cycle


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=9, power=2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5, eta_min=1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3, T_mult=2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [decay, lambda epoch: 1 / (1 + epoch)]),
    "LambdaLR, objects": lambda o: lr_scheduler.LambdaLR(o, [Growing(0.1), Growing(0.3)]),
    "LambdaLR, from 0": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: min(1.0, epoch / 5)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, [lambda _: 0.9, lambda _: 0.8]),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.05, 0.1], total_steps=20),
    "OneCycleLR, three phases": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20, three_phase=True),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, [0.001, 0.002], [0.01, 0.03], step_size_up=3),
    "CyclicLR, scaled": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, step_size_up=2, scale_fn=scaled),
    "CyclicLR, lambda": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, step_size_up=2, scale_fn=lambda x: 0.9**x),
    "SequentialLR": sequence,
    "ChainedScheduler": chained,
    "SWALR": lambda o: swa_utils.SWALR(o, [0.001, 0.002], anneal_epochs=4),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0, min_lr=[0.002, 0.001]),
    "ReduceLROnPlateau, one min_lr": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.3, patience=0, min_lr=1e-3),
}
NAMED = {name for name in dir(lr_scheduler) if isinstance(getattr(lr_scheduler, name), type)}


def two_groups(module: Plain) -> list[dict[str, Any]]:
    """Groups that run across all modules, as for weight decay."""
    return [
        {"params": [p for p in module.parameters() if p.ndim > 1], "lr": 0.01, "weight_decay": 0.1},
        {"params": [p for p in module.parameters() if p.ndim <= 1], "lr": 0.02, "weight_decay": 0.0},
    ]


class Used(Callback):
    """Keeps the options with which each parameter is stepped."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        self.steps.append({
            names[id(parameter)]: tuple(
                float(group[key]) if key == "lr" else group.get(key)
                for key in ("lr", "momentum", "betas", "weight_decay")
            )
            for group in optimizer.param_groups
            for parameter in group["params"]
        })  # fmt: skip


def used(
    build: Callable[[Any], Any] | None, stages: Any, optimizer: Any = AdamW, **config: Any
) -> list[dict[str, Any]]:
    """The options of each step, with a scheduler and in stages, or without."""

    def configure(module: Plain) -> Any:
        built = optimizer(two_groups(module))
        if build is None:
            return built
        return {"optimizer": built, "lr_scheduler": {"scheduler": build(built), "monitor": "val/loss", **config}}

    watch = Used()
    fit(Plain(configure), stages, watch)
    return watch.steps


def sgd(groups: Any) -> Any:
    return SGD(groups, momentum=0.9)


def test_every_scheduler_of_torch_is_among_those_that_are_tried():
    there = {name for name in NAMED if name.endswith(("LR", "Scheduler", "Restarts", "OnPlateau"))}
    assert there - {"LRScheduler", "_LRScheduler"} <= {name.partition(",")[0] for name in SCHEDULERS}


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_stages_without_a_rate_step_with_the_rates_of_the_run_without_stages(name: str, interval: str):
    if "OnPlateau" in name and interval == "step":
        interval = "epoch"
    build = SCHEDULERS[name]
    optimizer = sgd if "Cyc" in name else AdamW
    plain = used(build, None, optimizer, interval=interval)
    staged = used(build, KEPT, optimizer, interval=interval)
    assert len(plain) == len(staged) == 12
    trained = 0
    for number, (one, other) in enumerate(zip(plain, staged, strict=True)):
        for parameter, options in other.items():
            if "head" in parameter or 4 <= number < 8:
                trained += 1
                assert options == one[parameter]
            else:
                assert options == (0.0, *one[parameter][1:])
    assert trained == 4 * (2 + 10 + 2)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_rate_of_a_stage_is_scaled_as_the_scheduler_scales_the_own_rate(name: str):
    build, interval = SCHEDULERS[name], "epoch" if "OnPlateau" in name else "step"
    optimizer = sgd if "Cyc" in name else AdamW
    peak = max_rates(build, optimizer)
    plain = used(build, None, optimizer, interval=interval)
    staged = used(build, [Stage("all", train="*", lr=0.5)], optimizer, interval=interval)
    if "OnPlateau" in name:  # what it does depends on what was trained
        assert staged[0]["net.head.bias"][0] == 0.5
        return
    for one, other in zip(plain, staged, strict=True):
        for parameter, options in other.items():
            assert options[0] == pytest.approx(0.5 * one[parameter][0] / peak[parameter])


def max_rates(build: Callable[[Any], Any], optimizer: Any) -> dict[str, float]:
    """For each parameter the rate that stands for 1: the highest of a cycle, or that with which the groups began."""
    module = Plain()
    built = optimizer(two_groups(module))
    scheduler = build(built)
    highest = getattr(scheduler, "max_lrs", None) or [
        group.get("max_lr", group.get("initial_lr", group["lr"])) for group in built.param_groups
    ]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: rate
        for group, rate in zip(built.param_groups, highest, strict=True)
        for parameter in group["params"]
    }


def test_a_cycle_within_a_sequence_is_scaled_by_its_highest_rate():
    def build(optimizer: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = [lr_scheduler.CyclicLR(optimizer, 0.001, top, step_size_up=2) for top in (0.005, 0.01)]
            return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])

    rates = [step["net.head.bias"][0] for step in used(build, [Stage("all", train="*", lr=0.5)], sgd, interval="step")]
    assert max(rates) == pytest.approx(0.5)


@pytest.mark.parametrize("group", ["0", "1"])
def test_parameters_that_join_a_group_follow_its_scheduler(group: str):
    def configure(module: Plain) -> Any:
        heads = [{"params": [module.net.head.weight]}, {"params": [module.net.head.bias], "lr": 0.02}]
        optimizer = AdamW(heads, lr=0.01)
        return [optimizer], [{"scheduler": sequence(optimizer), "interval": "step"}]

    watch = Used()
    fit(Plain(configure), head_body_head(group=group), watch)
    for step in watch.steps[4:8]:
        like = step["net.head.weight" if group == "0" else "net.head.bias"]
        assert step["net.stem.0.weight"] == like


def test_a_scheduler_that_is_stepped_by_hand_moves_the_rates_of_the_stages():
    class ByHand(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.kinds: list[bool] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer, scheduler = self.optimizers(), self.lr_schedulers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            scheduler.step()
            self.kinds.append(isinstance(scheduler, lr_scheduler.StepLR) and scheduler.step_size == 2)

        def configure_optimizers(self) -> Any:
            optimizer = AdamW(self.parameters(), lr=0.01)
            return [optimizer], [lr_scheduler.StepLR(optimizer, 2, 0.5)]

    module, watch = ByHand(), Used()
    stages = [
        Stage("head", train="net.head", lr=0.1, until=Until(steps=3)),
        Stage("all", train="*", until=Until(steps=3)),
        Stage("last", train="*", lr=1.0),
    ]
    fit(module, stages, watch)
    rates = [step["net.head.bias"][0] for step in watch.steps]
    factors = [0.5 ** (number // 2) for number in range(12)]
    assert rates == [0.1 * f for f in factors[:3]] + [0.01 * f for f in factors[3:6]] + factors[6:]
    assert all(module.kinds)


def test_the_last_rates_of_a_scheduler_are_those_that_the_groups_show():
    seen: list[tuple[list[float], list[float]]] = []

    class Asks(Plain):
        def on_train_batch_end(self, *_: Any) -> None:
            shown = [group["lr"] for group in self.optimizers().param_groups]
            seen.append((self.lr_schedulers().get_last_lr(), shown))

        def configure_optimizers(self) -> Any:
            optimizer = AdamW(self.parameters(), lr=0.01)
            return [optimizer], [{"scheduler": lr_scheduler.StepLR(optimizer, 2, 0.5), "interval": "step"}]

    fit(Asks(), head_body_head(lr=0.3))
    assert len(seen) == 12
    assert all(last == shown for last, shown in seen)


class Warming(Plain):
    """Sets its rate by hand, as Lightning's documentation shows it."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        if self.trainer.global_step < 6:
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (self.trainer.global_step + 1) / 6

    def on_train_epoch_end(self) -> None:
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.5


@pytest.mark.parametrize("build", [None, SCHEDULERS["ExponentialLR"]], ids=["alone", "beside a scheduler"])
def test_rates_that_the_module_sets_by_hand_are_kept_over_a_transition(build: Any):
    def configure(module: Plain) -> Any:
        optimizer = AdamW(module.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": build(optimizer), "interval": "step"}] if build else []

    plain, staged = Used(), Used()
    fit(Warming(configure), None, plain)
    fit(Warming(configure), KEPT, staged)
    for number, (one, other) in enumerate(zip(plain.steps, staged.steps, strict=True)):
        assert other["net.head.bias"] == one["net.head.bias"]
        if 4 <= number < 8:
            assert other == one


def test_a_rate_that_is_set_by_hand_where_a_stage_has_one_is_told():
    trainer = Trainer(**QUIET, max_epochs=3, callbacks=[StagedFinetuning(head_body_head(lr=0.3), show_plan=False)])
    with pytest.warns(UserWarning, match="The module sets learning rates by hand where a stage has an `lr`"):
        trainer.fit(Warming(lambda module: AdamW(module.parameters(), lr=0.01)), loader(), loader(2))


def test_a_warm_up_ends_at_the_rates_of_the_scheduler():
    build = SCHEDULERS["ExponentialLR"]
    plain = used(build, None, interval="step")
    warmed = used(build, [Stage("all", train="*", warmup=Warmup(steps=4))], interval="step")
    for number, (one, other) in enumerate(zip(plain, warmed, strict=True)):
        share = min(1.0, (number + 1) / 4)
        assert other["net.head.bias"][0] == pytest.approx(share * one["net.head.bias"][0], rel=1e-12)
    assert warmed[4:] == plain[4:]


def test_the_schedulers_of_another_package_spread_what_they_keep_for_each_group():
    class Foreign:
        """As timm builds them: no relative of torch's, with values of its own for each group."""

        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
            self.base_values = [group["initial_lr"] for group in optimizer.param_groups]

        def state_dict(self) -> dict[str, Any]:
            return {key: value for key, value in vars(self).items() if key != "optimizer"}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            vars(self).update(state)

        def step(self, epoch: int) -> None:
            raise AssertionError("this one steps with updates")

        def step_update(self, count: int) -> None:
            for group, value in zip(self.optimizer.param_groups, self.base_values, strict=True):
                group["lr"] = value / (1 + count)

    class Foreigners(Plain):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step_update(self.trainer.global_step)

    def configure(module: Plain) -> Any:
        optimizer = AdamW(two_groups(module))
        return [optimizer], [{"scheduler": Foreign(optimizer), "interval": "step"}]

    plain, staged = Used(), Used()
    fit(Foreigners(configure), None, plain)
    fit(Foreigners(configure), KEPT, staged)
    assert [step["net.head.bias"] for step in staged.steps] == [step["net.head.bias"] for step in plain.steps]
    assert all(math.isfinite(step["net.stem.0.bias"][0]) for step in staged.steps)


def test_a_learning_rate_that_is_a_tensor_is_each_groups_own():
    def tensors(groups: Any) -> Any:
        return AdamW([{**group, "lr": torch.tensor(group["lr"])} for group in groups], foreach=False)

    build = SCHEDULERS["ExponentialLR"]
    plain = used(build, None, tensors, interval="step")
    staged = used(build, KEPT, tensors, interval="step")
    for number, (one, other) in enumerate(zip(plain, staged, strict=True)):
        assert other["net.head.bias"] == one["net.head.bias"]
        assert other["net.stem.0.bias"][0] == (one["net.stem.0.bias"][0] if 4 <= number < 8 else 0.0)
