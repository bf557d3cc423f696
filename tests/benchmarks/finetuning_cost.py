"""What staged fine-tuning costs, beside the other callbacks for it: work per step, per epoch and per transition.

    python -m tests.benchmarks.finetuning_cost

Everything is compared within one run of this script, on one thread. Calls and bytes are the same on every machine;
times are medians of rounds in turn, and are to be read as ratios. The peers need the extra ``bench``.
"""

import gc
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.finetuning import Best, Conductor, Position, Warmup
from tests.benchmarks.finetuning_lines import show_lines
from tests.benchmarks.finetuning_peers import need_the_peers
from tests.benchmarks.finetuning_subjects import (
    FIRST,
    LAST,
    STEPS,
    Calls,
    Case,
    Frozen,
    Subject,
    deep,
    fit,
    ours,
    random_data,
    resnet,
    scheduler,
)

ROUNDS, TRANSITIONS = 5, 9
HEAD = Stage("head", train="head", lr=1e-2)
ALL = Stage("all", train="*", lr={"head": 1e-3, "*": 1e-4})


# ---- calls per step ------------------------------------------------------------------------------------------------


def calls_per_step(case: Case, folder: Path) -> float:
    seed_everything(0, verbose=False)
    module = Subject(nn.Sequential(nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, 10), **case.of_module)
    module.count = Calls()
    fit(module, random_data(16 * STEPS, 64), folder, case.callbacks(folder), limit_val_batches=1)
    return module.count.number / (LAST - FIRST)


def show_calls(folder: Path) -> None:
    everything = {
        "no callback": Case(),
        "one empty Callback": Case(lambda folder: [Callback()]),
        "StagedFinetuning, all trained": ours(Stage("all", train="*")),
        "StagedFinetuning, all trained at two rates": ours(ALL),
    }
    head = {
        "no callback, frozen by hand": Case(of_module={"filters": True, "by_hand": True}),
        "one empty Callback, frozen by hand": Case(lambda folder: [Callback()], {"filters": True, "by_hand": True}),
        "StagedFinetuning, by epochs": ours(HEAD),
        "StagedFinetuning, by `steps`": ours(Stage("head", train="head", until=Until(steps=LAST + 5))),
        "StagedFinetuning, in a warm-up": ours(Stage("head", train="head", lr=0.01, warmup=Warmup(LAST + 5))),
        "finetuning-scheduler and its checkpoint": Case(scheduler),
        "BackboneFinetuning": Case(lambda folder: [BackboneFinetuning(9)], {"filters": True}),
        "BaseFinetuning.freeze": Case(lambda folder: [Frozen()], {"filters": True}),
    }
    print("\nPython calls per training step, MLP 64-16-10 with Adam; in per cent of no callback")
    everything_alone = calls_per_step(Case(), folder)
    for title, cases in (("everything trains", everything), ("the head trains", head)):
        print(f"  {title:<44}{'calls':>8}{'the same trains':>18}{'everything trains':>20}")
        figures = {name: calls_per_step(case, folder) for name, case in cases.items()}
        base = next(iter(figures.values()))
        for name, calls in figures.items():
            print(f"    {name:<42}{calls:>8.1f}{100 * calls / base:>18.1f}{100 * calls / everything_alone:>20.1f}")


# ---- a head-only epoch ---------------------------------------------------------------------------------------------


def seconds_of_epoch(case: Case, folder: Path) -> float:
    """CPU seconds from the end of the first batch, which allocates, to the end of the last."""
    seed_everything(0, verbose=False)
    module = Subject(resnet(), nn.Linear(128, 10), **case.of_module)
    fit(module, random_data(16 * 7, 3, 64, 64), folder, case.callbacks(folder), limit_val_batches=1)
    return module.ends[-1] - module.ends[0]


def show_epochs(folder: Path) -> None:
    cases = {
        "everything trains, no callback": Case(),
        "everything trains, StagedFinetuning": ours(Stage("all", train="*")),
        "StagedFinetuning": ours(HEAD),
        "finetuning-scheduler": Case(scheduler),
        "BackboneFinetuning": Case(lambda folder: [BackboneFinetuning(9)], {"filters": True}),
        "BaseFinetuning.freeze(train_bn=False)": Case(lambda folder: [Frozen()], {"filters": True}),
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        figures = {name: seconds_of_epoch(case, folder) for name, case in cases.items()}
        if number:  # the first round warms up
            for name, seconds in figures.items():
                rounds[name].append(seconds / next(iter(figures.values())))
    print(f"\nCPU time of a head-only epoch, small ResNet, 64x64, batches of 16; {ROUNDS} rounds in turn")
    print(f"    {'':<42}{'median':>8}{'min':>8}{'max':>8}")
    for name, each in rounds.items():
        print(f"    {name:<42}{statistics.median(each):>8.3f}{min(each):>8.3f}{max(each):>8.3f}")


# ---- optimizer state -----------------------------------------------------------------------------------------------


class WithOptimizer(Subject):
    """With an optimizer of the user's over all parameters."""

    def __init__(self, build: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), nn.Linear(64, 10))
        self.build = build

    def configure_optimizers(self) -> Any:
        return self.build(self.parameters())


def bytes_of(state: dict[Any, Any]) -> int:
    return sum(value.nbytes for each in state.values() for value in each.values() if isinstance(value, Tensor))


def show_state(folder: Path) -> None:
    builds: dict[str, Any] = {
        "Adam": torch.optim.Adam,
        "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        "Adagrad": torch.optim.Adagrad,
    }
    one = Until(epochs=1)
    stages: dict[str, list[Stage]] = {
        "head": [HEAD],
        "head, all to come": [Stage("head", train="head", lr=0.01, until=one), ALL],
        "all, then head": [Stage("all", train="*", until=one), HEAD],
    }
    data = random_data(48, 64)
    print("\nOptimizer state in bytes, MLP 64-256-64-10, at the end of a stage that trains the head")
    print(f"    {'':<24}{'head alone':>12}{'everything':>12}" + "".join(f"{name:>20}" for name in stages))
    for name, build in builds.items():
        alone = WithOptimizer(lambda parameters, build=build: build(list(parameters)[-2:]))
        plain = [fit(module, data, folder, []).optimizers[0].state for module in (alone, WithOptimizer(build))]
        figures = [*map(bytes_of, plain), *(bytes_in_head_stage(build, each, data, folder) for each in stages.values())]
        print(f"    {name:<24}{figures[0]:>12}{figures[1]:>12}" + "".join(f"{each:>20}" for each in figures[2:]))


class StateOfHead(Callback):
    """Notes the bytes of state while the stage `head` is on."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not pl_module.backbone[0].weight.requires_grad:
            self.bytes = bytes_of(trainer.optimizers[0].state)


def bytes_in_head_stage(build: Any, stages: list[Stage], data: TensorDataset, folder: Path) -> int:
    noted = StateOfHead()
    staged = StagedFinetuning(stages, show_plan=False)
    fit(WithOptimizer(build), data, folder, [staged, noted], max_epochs=len(stages))
    return noted.bytes


# ---- a transition --------------------------------------------------------------------------------------------------


def timed(cls: Any) -> Any:
    """The callback's class, with the CPU milliseconds that the start of each epoch took."""

    class Timed(cls):
        took: list[float]

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            gc.collect()
            start = time.process_time()
            super().on_train_epoch_start(trainer, pl_module)
            self.took = [*getattr(self, "took", []), 1e3 * (time.process_time() - start)]

    Timed.__name__ = cls.__name__
    return Timed


def of_conductor(restore_best: bool, narrows: bool = False) -> float:
    """CPU milliseconds of a transition without a Trainer."""
    seed_everything(0, verbose=False)
    module = deep()
    own: dict[str, Any] = {"until": Until(epochs=1), "restore_best": Best("val/loss") if restore_best else False}
    head_first = [Stage("head", train="head", lr=1e-2, **own), ALL]
    stages = [Stage("all", train="*", lr=1e-3, **own), HEAD] if narrows else head_first
    conductor = Conductor(stages, module, [torch.optim.Adam(module.parameters())], [])
    conductor.begin(0, Position(0, 0))
    module.training_step((torch.randn(16, 32), torch.arange(16) % 10), 1).backward()
    conductor.optimizers[0].step()
    conductor.look({"val/loss": 1.0} if restore_best else {})
    gc.collect()
    start = time.process_time()
    conductor.begin(1, Position(1, 1))
    return 1e3 * (time.process_time() - start)


def of_epoch_start(callbacks: list[Any], folder: Path) -> float:
    """CPU milliseconds that the callback takes at the start of the second epoch, in which everything trains."""
    seed_everything(0, verbose=False)
    module = deep()
    fit(module, random_data(16, 32), folder, callbacks, max_epochs=2)
    if not all(parameter.requires_grad for parameter in module.parameters()):
        sys.exit(f"{type(callbacks[0]).__name__} has not thawed everything, so that the times tell nothing.")
    return float(callbacks[0].took[1])


def staged_with(best: Any) -> Any:
    stages = [Stage("head", train="head", lr=0.01, until=Until(epochs=1), restore_best=best), ALL]
    return timed(StagedFinetuning)(stages, show_plan=False)


def show_transitions(folder: Path) -> None:
    from finetuning_scheduler import FinetuningScheduler

    fts = timed(FinetuningScheduler)
    cases: dict[str, Callable[[], float]] = {
        "Conductor.begin": lambda: of_conductor(False),
        "Conductor.begin, restore_best": lambda: of_conductor(True),
        "Conductor.begin, restore_best, all to head": lambda: of_conductor(True, narrows=True),
        "StagedFinetuning": lambda: of_epoch_start([staged_with(False)], folder),
        "StagedFinetuning, restore_best": lambda: of_epoch_start([staged_with(Best("val/loss"))], folder),
        "finetuning-scheduler": lambda: of_epoch_start(scheduler(folder, fts), folder),
        "finetuning-scheduler, restore_best": lambda: of_epoch_start(scheduler(folder, fts, True), folder),
        "BaseFinetuning": lambda: of_epoch_start([timed(Frozen)()], folder),
    }
    print(f"\nCPU milliseconds of a transition from the head to everything, 402 tensors; {TRANSITIONS} rounds in turn")
    print(f"    {'':<42}{'median':>8}{'min':>8}{'max':>8}")
    rounds = [{name: measure() for name, measure in cases.items()} for _ in range(TRANSITIONS + 1)][1:]
    for name in cases:
        each = [figures[name] for figures in rounds]
        print(f"    {name:<42}{statistics.median(each):>8.2f}{min(each):>8.2f}{max(each):>8.2f}")


def main() -> None:
    """Print the tables."""
    need_the_peers()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        for show in (show_calls, show_epochs, show_state, show_transitions):
            show(Path(name))
    show_lines()


if __name__ == "__main__":
    main()
