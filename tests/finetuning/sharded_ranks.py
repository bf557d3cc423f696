"""Fits on two ranks that share out parameters; ``python -m tests.finetuning.sharded_ranks FOLDER`` is one of them.

Each rank leaves what it has found in ``FOLDER/<rank>.pt``.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Best, Plateau, Warmup
from tests.finetuning.kit import SaveAt, differences, fit

HEAD, TOP = "net.head", ["net.head", "net.body"]
BY_EPOCHS = [
    Stage("head", train=HEAD, lr=0.02, until=Until(epochs=2)),
    Stage("top", train=TOP, lr={HEAD: 0.01, "*": 0.005}, until=Until(epochs=2)),
    Stage("rest", train=["net.stem", "net.body"], exclude="type:BatchNorm2d"),
]
"""The last stage freezes the head again."""
OF_ALL = [*BY_EPOCHS[:2], Stage("rest", train=["net.stem", "net.body"], lr=0.01)]
"""The same for a network without BatchNorm."""
BY_STEPS = [
    Stage("head", train=HEAD, lr=0.02, until=Until(steps=9), warmup=Warmup(3)),
    Stage(
        "top",
        train=TOP,
        lr=0.01,
        until=Until(steps=13),
        optimizer_state="reset",
        lr_scheduler=partial(StepLR, step_size=4, gamma=0.5),
        lr_interval="step",
    ),
    Stage("stem", train="net.stem", exclude="type:BatchNorm2d", lr=0.01, until=Until(fraction=0.2)),
    Stage("all", train="*", exclude="type:BatchNorm2d"),
]
BY_PLATEAU = [
    Stage("head", train=HEAD, lr=0.03, until=Until(epochs=2), restore_best=Best("val/loss", mode="max")),
    Stage("top", train=TOP, lr=0.01, until=Until(epochs=3, plateau=Plateau("val/loss", patience=1, min_delta=0.4))),
    Stage("all", train="*", exclude="type:BatchNorm2d", lr=0.01, restore_best=Best("val/loss", mode="max")),
]
"""The highest loss counts as the best, so that the best weights are not the last."""
OTHERS = [
    Stage("head", train=HEAD, lr=0.02, until=Until(epochs=1)),
    Stage("top", train=TOP, lr={"*.weight": 0.03, "*": 0.005}, until=Until(epochs=3)),
    Stage("all", train="*", exclude="type:BatchNorm2d", lr=0.001),
]
"""With other groups than ``BY_EPOCHS``."""


class Net(nn.Module):
    """Convolutions and a head; BatchNorm is there to be frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(54, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)))


class Perceptron(nn.Module):
    """Layers that can be cut along the rows and columns of their matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(torch.relu(self.stem(images.flatten(1)))))


class Halves(LightningModule):
    """Each rank trains on its part of the same batches."""

    def __init__(self, network: Callable[[], nn.Module] = Net) -> None:
        super().__init__()
        self.net = network()

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        images, labels = (each[self.global_rank :: self.trainer.world_size] for each in batch)
        return functional.cross_entropy(self.net(images), labels)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.05)
        return [optimizer], [{"scheduler": ExponentialLR(optimizer, 0.98), "interval": "step"}]


class Sharded(Halves):
    """The same on shards; the head is part of the root, which torch leaves whole after a validation."""

    policy = MixedPrecisionPolicy()

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for module in (self.net.stem, self.net.body, self.net):
            fully_shard(module, mesh=mesh, mp_policy=self.policy)


class HalfPrecision(Sharded):
    """Gradients are computed in one type and reduced in another."""

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

    def __init__(self) -> None:
        super().__init__()
        self.net.stem[1] = nn.Identity()


class HeadOnly(Sharded):
    """The author has frozen the body, and lets the optimizer hold the head alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net.body.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.head.parameters(), lr=0.05, momentum=0.9)


class ByHand(Sharded):
    """Two optimizers, in another order than the model's, and manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            scheduler.step()

    def configure_optimizers(self) -> Any:
        body = [*self.net.body.parameters(), *self.net.stem.parameters()]
        optimizers = [torch.optim.Adam(self.net.head.parameters(), 0.01), torch.optim.SGD(body, lr=0.02, momentum=0.9)]
        return optimizers, [ExponentialLR(optimizer, 0.97) for optimizer in optimizers]


class WithLBFGS(Sharded):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class Cut(Halves):
    """Tensor parallel: both ranks see all of a batch, and each holds a part of two matrices."""

    def __init__(self) -> None:
        super().__init__(Perceptron)

    def configure_model(self) -> None:
        plan = {"stem": ColwiseParallel(), "body": RowwiseParallel()}
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.05, foreach=False)


def whole(value: Any) -> Any:
    """A nested value with whole tensors in the place of shards."""
    if isinstance(value, DTensor):
        return value.detach().full_tensor().clone()
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    return [whole(each) for each in value] if isinstance(value, (list, tuple)) else value


def weights(module: nn.Module) -> dict[str, Tensor]:
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()
    return whole({**dict(module.named_parameters()), **dict(module.named_buffers())})


def final_state(trainer: Trainer) -> dict[str, Any]:
    return {
        "weights": weights(trainer.lightning_module),
        "optimizers": [whole(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "history": history(trainer),
    }


def history(trainer: Trainer) -> list[dict[str, Any]]:
    return next((each.history for each in trainer.callbacks if isinstance(each, StagedFinetuning)), [])


class Watch(Callback):
    """The weights at the fit's start and the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(weights(pl_module))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(weights(pl_module))


class Reduced(Callback):
    """How many numbers of gradients are reduced in one step of each stage, and how many train in it."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, acc_events=True
        )
        if trainer.current_epoch % 2 == 0 and batch_idx == 3:
            self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch % 2 == 0 and trainer.fit_loop.batch_idx == 3:
            self.profiler.stop()
            events = [event for event in self.profiler.events() if "reduce_scatter" in event.name]
            trains = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            self.numbers.append((sum(event.input_shapes[1][0] for event in events), trains))


class SaveFirst(Checkpoint):
    """Saves when an epoch begins, before a step of the stage that may have begun with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"first-{trainer.current_epoch}.ckpt")


def train(
    make: Callable[[], LightningModule],
    stages: list[Stage],
    *callbacks: Callback,
    in_one_file: bool = False,
    **settings: Any,
) -> Trainer:
    """A fit on both ranks; without stages, it is one of Lightning's alone."""
    cut = make is Cut
    strategy = ModelParallelStrategy(1 if cut else 2, 2 if cut else 1, save_distributed_checkpoint=not in_one_file)
    staged = [StagedFinetuning(stages, show_plan=False)] if stages else []
    own = {"strategy": strategy, "devices": 2, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    return fit(make, [*staged, *callbacks], **{"seed": 1, **own, **settings})


def resumes(
    make: Callable[[], LightningModule],
    stages: list[Stage],
    folder: Path,
    moments: list[tuple[str, int]],
    **settings: Any,
) -> dict[str, list[str]]:
    """Where fits that go on from a moment end otherwise than the one that was not stopped."""
    end = final_state(train(make, stages, SaveAt(folder, moments), **settings))
    found = {}
    for kind, step in moments:
        path = folder / f"{kind}-{step}.ckpt"
        again = train(make, stages, checkpoint=path, **{**settings, "seed": 2})
        found[f"{kind}-{step}"] = differences(end, final_state(again))
    return found


def stages_on_two_ranks(folder: Path) -> Any:
    watch, reduced = Watch(), Reduced()
    trainer = train(Sharded, BY_EPOCHS, watch, reduced)
    return {"seen": watch.seen, "reduced": reduced.numbers, "end": final_state(trainer)}


def resumes_of_shards(folder: Path) -> Any:
    points = [("batch", 5), ("epoch", 14), ("batch", 15), ("validation", 21), ("batch", 33)]
    return resumes(Sharded, BY_EPOCHS, folder, points)


def resumes_of_one_file(folder: Path) -> Any:
    return resumes(Sharded, BY_EPOCHS, folder, [("batch", 5), ("batch", 15), ("batch", 33)], in_one_file=True)


def resumes_by_steps(folder: Path) -> Any:
    return resumes(Sharded, BY_STEPS, folder, [("batch", 9), ("batch", 17), ("batch", 25)])


def resumes_with_best_weights(folder: Path) -> Any:
    watch = Watch()
    trainer = train(Sharded, BY_PLATEAU, watch)
    found = resumes(Sharded, BY_PLATEAU, folder, [("batch", 12), ("validation", 14), ("batch", 37)])
    return {"seen": watch.seen, "end": final_state(trainer), "differences": found}


def resumes_of_a_head_only_optimizer(folder: Path) -> Any:
    return resumes(HeadOnly, BY_EPOCHS, folder, [("batch", 5), ("batch", 17)])


def resumes_between_two_steps(folder: Path) -> Any:
    return resumes(Sharded, BY_EPOCHS, folder, [("batch", 17)], accumulate_grad_batches=2, gradient_clip_val=0.5)


def resumes_by_hand(folder: Path) -> Any:
    return resumes(ByHand, BY_EPOCHS, folder, [("batch", 9), ("batch", 17)], in_one_file=True)


def resumes_in_half_precision(folder: Path) -> Any:
    return resumes(HalfPrecision, OF_ALL, folder, [("batch", 5), ("batch", 17)])


def tensor_parallel(folder: Path) -> Any:
    watch = Watch()
    train(Cut, OF_ALL, watch)
    return {"seen": watch.seen, "differences": resumes(Cut, OF_ALL, folder, [("batch", 5), ("batch", 17)])}


def a_checkpoint_before_the_first_step(folder: Path) -> Any:
    stages = [*BY_EPOCHS[:1], Stage("body", train="net.body", lr=0.01)]
    end = final_state(train(Sharded, stages, SaveFirst(folder)))
    again = train(Sharded, stages, checkpoint=folder / "first-0.ckpt", seed=2)
    return {
        "undisturbed": differences(final_state(train(Sharded, stages)), end),
        "resumed": differences(end, final_state(again)),
    }


def statistics_of_batch_norm(folder: Path) -> Any:
    stages = [Stage("all", train="*", lr=0.01, until=Until(epochs=1)), *BY_EPOCHS[:1], BY_EPOCHS[2]]
    watch = Watch()
    trainer = train(Sharded, stages, watch)
    (callback,) = (each for each in trainer.callbacks if isinstance(each, StagedFinetuning))
    return {"seen": watch.seen, "end": final_state(trainer), "notes": callback.conductor.notes}


def other_schedules(folder: Path) -> Any:
    """A checkpoint goes on with other stages and without stages, and one from a fit without stages with them."""
    found = {}
    for staged, in_one_file in ((resumes_of_shards, False), (resumes_of_one_file, True)):
        plain = folder / str(in_one_file)
        train(Sharded, [], SaveAt(plain, [("batch", 7)]), in_one_file=in_one_file, epochs=2)
        saved = folder.parent / staged.__name__ / "batch-15.ckpt"
        for name, path, after in (
            ("changed", saved, OTHERS),
            ("without", saved, []),
            ("with", plain / "batch-7.ckpt", OTHERS),
        ):
            trainer = train(Sharded, after, in_one_file=in_one_file, checkpoint=path, seed=2, epochs=7)
            found[f"{name}-{in_one_file}"] = final_state(trainer) | {"step": trainer.global_step}
    return found


def refusals(folder: Path) -> Any:
    try:
        train(WithLBFGS, [Stage("head", train=HEAD, lr=0.02)])
    except ScheduleError as error:
        return str(error)
    return None


CASES = [
    stages_on_two_ranks,
    resumes_of_shards,
    resumes_of_one_file,
    resumes_by_steps,
    resumes_with_best_weights,
    resumes_of_a_head_only_optimizer,
    resumes_between_two_steps,
    resumes_by_hand,
    resumes_in_half_precision,
    tensor_parallel,
    a_checkpoint_before_the_first_step,
    statistics_of_batch_norm,
    other_schedules,
    refusals,
]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {case.__name__: case(folder / case.__name__) for case in CASES}
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
