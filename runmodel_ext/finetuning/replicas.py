"""Replicas of a model: what must be told to DistributedDataParallel when other parameters train."""

from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from runmodel_ext.finetuning.sharded import local

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_SHARDED = {
    "FSDPStrategy": "FullyShardedDataParallel flattens parameters that freeze and thaw apart",
    "DeepSpeedStrategy": "DeepSpeed keeps copies of the parameters, in groups that it makes once",
    "XLAFSDPStrategy": "FullyShardedDataParallel flattens parameters that freeze and thaw apart",
}


def problem_of_strategy(trainer: "Trainer") -> str | None:
    """Why stages cannot be had with the Trainer's strategy; ``None`` where they can."""
    kinds = type(trainer.strategy).__mro__
    for cls in kinds:
        if cls.__name__ in _SHARDED:
            return (
                f"StagedFinetuning cannot work with {cls.__name__}: {_SHARDED[cls.__name__]}. "
                "Take `strategy: ddp`, or ModelParallelStrategy, whose parameters stay apart."
            )
    if restores_by_name(trainer) and not any(cls.__name__ == "ModelParallelStrategy" for cls in kinds):
        return (
            f"StagedFinetuning cannot work with {kinds[0].__name__}: it saves and restores optimizers in a way of its "
            "own. Take `strategy: ddp`, or ModelParallelStrategy."
        )
    return None


def restores_by_name(trainer: "Trainer") -> bool:
    """Whether the strategy saves and restores optimizers by itself, by the names of the parameters."""
    return not trainer.strategy.lightning_restore_optimizer


def are_wrapped(trainer: "Trainer") -> bool:
    """Whether replicas of the model are kept equal by DistributedDataParallel."""
    return isinstance(trainer.strategy.model, DistributedDataParallel)


def make_buffers_equal(trainer: "Trainer") -> None:
    """Give all ranks that see other data the statistics of the first of them.

    Each rank keeps the statistics of its own data, and a module that is frozen with them would be another function
    on each rank.
    """
    group = trainer.strategy.device_mesh["data_parallel"].get_group()  # type: ignore[attr-defined]
    for buffer in trainer.lightning_module.buffers():
        part = local(buffer)
        value = part.contiguous()
        distributed.broadcast(value, distributed.get_global_rank(group, 0), group)
        if value is not part and not torch.equal(value, part):
            part.copy_(value)


def wrap_again(trainer: "Trainer", model: "LightningModule") -> None:
    """Let DistributedDataParallel see which parameters train now, and make all ranks equal to rank 0.

    It sends the gradients of what trained when it wrapped the model, waits for those in vain that are frozen since,
    and never sends those that were thawed.
    """
    strategy = trainer.strategy
    strategy.model = model
    strategy.configure_ddp()  # type: ignore[attr-defined]
