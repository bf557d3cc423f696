"""Fits of two ranks on one machine: what the ranks hold after each stage, and what they send in each step.

``run_ranks`` starts the two processes, each of which runs this file; what they find comes back as plain numbers.
"""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, distributed
from torch.distributed import GradBucket, TCPStore
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.callbacks import RandomState
from runmodel_ext.data.loaders import EpochSampler, ResumableLoader
from runmodel_ext.finetuning import Best, Plateau, Reaches
from tests.finetuning.kinds import Moment, outcome, staged
from tests.finetuning.kit import BATCHES, EPOCHS, QUIET, THREE, Digits, SaveAt, differences, digits

ROOT = Path(__file__).parents[2]

STAGES: dict[str, list[Stage]] = {
    "epochs": THREE,
    "steps": [
        Stage("head", train="net.head", lr=0.02, until=Until(steps=9)),
        Stage("top", train=["net.head", "net.body"], lr=0.01, until=Until(steps=13)),
        Stage("all", train="*", lr=0.01),
    ],
    "plateau": [
        Stage("head", train="net.head", lr=0.05, until=Until(plateau=Plateau("val/loss", patience=1, min_delta=0.2))),
        Stage("top", train=["net.head", "net.body"], lr=0.05, until=Until(plateau=Plateau("val/loss", 1, 2.0))),
        Stage("all", train="*", lr=0.003),
    ],
    "restore_best": [
        Stage("head", train="net.head", lr=0.3, until=Until(epochs=2), restore_best=Best("val/loss")),
        Stage("top", train="net.body", lr=0.3, until=Until(epochs=2), restore_best=Best("val/loss")),
        Stage("all", train="*", lr=0.3, restore_best=Best("val/loss")),
    ],
    "frozen again": [
        Stage("all", train="*", lr=0.01, until=Until(epochs=2)),
        Stage("head", train="net.head", lr=0.02, until=Until(steps=9)),
        Stage("all again", train="*", exclude="type:BatchNorm2d", lr=0.01),
    ],
    "middle only": [
        Stage("body", train="net.body", lr=0.02, until=Until(epochs=2)),
        Stage("stem", train="net.stem", lr=0.02, until=Until(steps=9)),
        Stage("body again", train="net.body", lr=0.01),
    ],
    "ranks that disagree": [
        Stage("head", train="net.head", until=Until(reaches=Reaches("val/rank", 0.5, mode="max"), epochs=3)),
        Stage("top", train="net.body", until=Until(reaches=Reaches("val/rank", 0.5, mode="min"))),
        Stage("all", train="*"),
    ],
}


class Counter:
    """Counts the bytes of the gradients that DistributedDataParallel sends."""

    bytes = 0

    def send(self, state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.bytes += bucket.buffer().nbytes
        return allreduce_hook(distributed.group.WORLD, bucket)


class Compare(Callback):
    """Notes how far the ranks are apart, and how much was sent.

    Attributes:
        batches: After each batch; there, DistributedDataParallel leaves each rank its own running statistics until the
            next batch.
        ends: When each stage is over: the next one has begun, or training ended.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.ends: dict[str, dict[str, float]] = {}
        self._counter = Counter()
        self._hooked: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        wrapper = trainer.strategy.model
        assert isinstance(wrapper, DistributedDataParallel)
        if wrapper is not self._hooked:
            self._hooked = wrapper
            wrapper.register_comm_hook(None, self._counter.send)
        self._counter.bytes = 0
        if self.batches and self.batches[-1]["stage"] != stage_of(trainer):
            self.ends[self.batches[-1]["stage"]] = distances(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trained = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        own = {"stage": stage_of(trainer), "trained": trained, "bytes": self._counter.bytes}
        self.batches.append({**own, **distances(pl_module)})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends[self.batches[-1]["stage"]] = distances(pl_module)

    def by_stage(self) -> list[dict[str, Any]]:
        """For each stage: what it trains and sends, the distance after any of its batches, and at its end."""
        rows = []
        for name, end in self.ends.items():
            within = [batch for batch in self.batches if batch["stage"] == name]
            rows.append(
                {
                    "stage": name,
                    "trained": within[-1]["trained"],
                    "bytes": sorted({batch["bytes"] for batch in within}),
                    "within": max(batch["parameters"] for batch in within),
                    **end,
                }
            )
        return rows


def stage_of(trainer: Trainer) -> str:
    """The stage that is on; with other callbacks, how many parameters train."""
    own = staged(trainer)
    if own is not None:
        return str(own.history[-1]["stage"])
    return f"{sum(parameter.numel() for parameter in trainer.lightning_module.parameters() if parameter.requires_grad)}"


def distances(module: LightningModule) -> dict[str, float]:
    """How far the ranks are apart now."""
    return {"parameters": apart(module.parameters()), "buffers": apart(module.buffers())}


def apart(tensors: Any) -> float:
    """The largest absolute difference between the ranks."""
    own = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    all_ranks = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_ranks, own)
    return max(float((each - own).abs().max()) for each in all_ranks)


class ByRank(Digits):
    """Logs what is another value on each rank."""

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), sync_dist=False)
        self.log("val/rank", float(self.global_rank), sync_dist=False)


def fit(
    make: Callable[[], LightningModule],
    callbacks: Sequence[Callback],
    checkpoint: Path | None = None,
    **settings: Any,
) -> Trainer:
    """A fit of this rank, on its own share of the data, and from weights of its own."""
    seed_everything((0 if checkpoint is None else 5) + distributed_rank(), verbose=False)
    images, labels = digits()
    train = TensorDataset(images[: BATCHES * 16], labels[: BATCHES * 16])
    sampler = EpochSampler(train, seed=1, num_replicas=2, rank=distributed_rank())
    saves = any(isinstance(callback, SaveAt) for callback in callbacks)
    own = {"max_epochs": EPOCHS, "callbacks": list(callbacks), "enable_checkpointing": saves}
    trainer = Trainer(**{**QUIET, "strategy": "ddp", "devices": 2, **own, **settings})
    loaders = (
        ResumableLoader(train, batch_size=8, sampler=sampler),
        DataLoader(TensorDataset(images[-100:], labels[-100:]), 25),
    )
    trainer.fit(make(), *loaders, ckpt_path=checkpoint, weights_only=None if checkpoint is None else False)
    return trainer


def distributed_rank() -> int:
    return int(os.environ["RANK"])


def staged_fit(name: str, *more: Callback, checkpoint: Path | None = None, **settings: Any) -> Trainer:
    """A fit of one of ``STAGES``."""
    own = [RandomState(), StagedFinetuning(STAGES[name], show_plan=False), *more]
    return fit(ByRank, own, checkpoint, **settings)


def compared(fit_with: Callable[[Callback], Trainer]) -> dict[str, Any]:
    """What each stage of a fit came to, and what the ranks know of it.

    Args:
        fit_with: Runs the fit with one more callback.
    """
    compare = Compare()
    trainer = fit_with(compare)
    own = staged(trainer)
    mine = {"history": own.history if own else [], "loss": float(trainer.callback_metrics["val/loss"])}
    return {"stages": compare.by_stage(), "ranks": on_each_rank(mine)}


def stages_job(folder: Path) -> dict[str, Any]:
    """Each of ``STAGES``."""
    return {name: compared(partial(staged_fit, name)) for name in STAGES}


def resume_job(folder: Path) -> dict[str, Any]:
    """Where a fit of two ranks that goes on differs from the one that was not stopped, by kind, moment and rank."""
    found: dict[str, Any] = {}
    for name in ("steps", "restore_best"):
        whole = outcome(staged_fit(name))
        moments: list[Moment] = [("batch", 10), ("batch", 21), ("validation", 14), ("epoch", 28)]
        place = folder / name
        saved = outcome(staged_fit(name, SaveAt(place, moments)))
        found[f"{name}, saving"] = on_each_rank(differences(whole, saved))
        for kind, batches in moments:
            on = staged_fit(name, checkpoint=place / f"{kind}-{batches}.ckpt")
            found[f"{name}, {kind} {batches}"] = on_each_rank(differences(whole, outcome(on)))
    return found


def all_jobs(folder: Path) -> dict[str, Any]:
    """Both, in the time of one start."""
    return {"stages": stages_job(folder), "resumed": resume_job(folder)}


def on_each_rank(value: Any) -> list[Any]:
    """A value of each rank."""
    ranks: list[Any] = [None, None]
    distributed.all_gather_object(ranks, value)
    return ranks


def run_ranks(job: str, folder: Path) -> Any:
    """Run a function of two ranks, given as ``module:function``, in two processes: what it returns on the first.

    Args:
        job: It takes a folder that both ranks see, and returns what JSON can hold.
        folder: For the job's files, and what the ranks print.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "GROUP_RANK": "0"}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "ranks", "LOCAL_WORLD_SIZE": "2"}
    common |= {"OMP_NUM_THREADS": "1"}
    logs = [folder / f"rank-{rank}.log" for rank in (0, 1)]
    processes = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "tests.finetuning.ranks", job, str(folder)]
        with log.open("w") as output:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
    return json.loads((folder / "found.json").read_text())


def main(job: str, folder: str) -> None:
    """One rank."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    module, function = job.split(":")
    found = getattr(__import__(module, fromlist=[function]), function)(Path(folder))
    if distributed_rank() == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
