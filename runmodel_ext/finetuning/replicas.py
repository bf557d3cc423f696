"""Replicas of a model: what must be told to DistributedDataParallel when other parameters train."""

from typing import TYPE_CHECKING

from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_SHARDED = {
    "FSDPStrategy": "FullyShardedDataParallel flattens parameters that freeze and thaw apart",
    "DeepSpeedStrategy": "DeepSpeed keeps copies of the parameters, in groups that it makes once",
    "XLAFSDPStrategy": "FullyShardedDataParallel flattens parameters that freeze and thaw apart",
}


def problem_of_strategy(trainer: "Trainer") -> str | None:
    """Why stages cannot be had with the Trainer's strategy; ``None`` where they can."""
    for cls in type(trainer.strategy).__mro__:
        if cls.__name__ in _SHARDED:
            return (
                f"StagedFinetuning cannot work with {cls.__name__}: {_SHARDED[cls.__name__]}. "
                "Take `strategy: ddp`, or ModelParallelStrategy, whose parameters stay apart."
            )
    return None


def are_wrapped(trainer: "Trainer") -> bool:
    """Whether replicas of the model are kept equal by DistributedDataParallel."""
    return isinstance(trainer.strategy.model, DistributedDataParallel)


def wrap_again(trainer: "Trainer", model: "LightningModule") -> None:
    """Let DistributedDataParallel see which parameters train now, and make all ranks equal to rank 0.

    It sends the gradients of what trained when it wrapped the model, waits for those in vain that are frozen since,
    and never sends those that were thawed.
    """
    strategy = trainer.strategy
    strategy.model = model
    strategy.configure_ddp()  # type: ignore[attr-defined]
