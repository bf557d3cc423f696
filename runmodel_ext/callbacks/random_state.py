"""Random numbers that go on after a resume where they stopped."""

import random
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from runmodel_ext._private import start_loaders_anew


class RandomState(Callback):
    """Keep the random number generators in every checkpoint, and put them back on resume.

    Lightning restores weights, optimizers and loops, but not the generators of Python, NumPy and torch: a resumed
    run shuffles and drops out as if it began anew. With this callback it goes on as the run that was never
    stopped. Each rank gets its own state back; with another number of ranks, nothing is put back.

    Shuffling in the middle of an epoch is the data loader's own state: where a checkpoint falls there, the loader
    must be stateful for an exact resume, as Lightning asks for.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RandomState()], logger=False, enable_progress_bar=False, barebones=False)
    """

    def __init__(self) -> None:
        self._to_restore: list[dict[str, Any]] | None = None
        self._after_validation: dict[str, Any] | None = None
        self._failing = self._validates_first = self._ends_epoch_first = False

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["runmodel_random_state"] = self._states_of_all_ranks(trainer)

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._to_restore = checkpoint.get("runmodel_random_state")
        marks = checkpoint.get("runmodel_finetuning", {})
        self._validates_first = marks.get("validation_due", False)
        self._ends_epoch_first = marks.get("epoch_end_due", False)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validates_first or self._ends_epoch_first:  # where loaders draw before the first hook
            self._restore(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validates_first and not trainer.sanity_checking:
            self._validates_first = False
            self._after_validation = get_random_state()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._after_validation = None
        if self._to_restore is not None:
            self._restore(trainer)
            start_loaders_anew(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._to_restore is not None:  # in the middle of an epoch, which has no other hook at its start
            self._restore(trainer)
        elif self._after_validation is not None:  # since which the loader of a begun epoch has drawn once more
            set_random_state(self._after_validation)
            self._after_validation = None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._failing = True

    def _restore(self, trainer: Trainer) -> None:
        if self._to_restore is not None and len(self._to_restore) == trainer.world_size:
            set_random_state(self._to_restore[trainer.global_rank])
        self._to_restore = None

    def _states_of_all_ranks(self, trainer: Trainer) -> list[dict[str, Any]]:
        own = get_random_state()
        distributed = torch.distributed
        # While an error unwinds, the other ranks may not be here: asking them would hang.
        if self._failing or not (distributed.is_available() and distributed.is_initialized()):
            return [own]
        states: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(states, own)
        return states


def get_random_state() -> dict[str, Any]:
    """The state of the generators of Python, NumPy (where it is loaded) and torch.

    Returns:
        Plain numbers and tensors, so that ``torch.load(weights_only=True)`` reads them.
    """
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    numpy_random = _numpy_random()
    if numpy_random is not None:
        kind, keys, position, has_gauss, gauss = numpy_random.get_state()
        state["numpy"] = (kind, [int(key) for key in keys], int(position), int(has_gauss), float(gauss))
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_random_state` returned.

    Example:
        >>> state = get_random_state()
        >>> first = torch.rand(3)
        >>> set_random_state(state)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    random.setstate(_as_tuple(state["python"]))
    torch.set_rng_state(_on_cpu(state["torch"]))
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_on_cpu(one) for one in state["cuda"]])
    numpy_random = _numpy_random()
    if "numpy" in state and numpy_random is not None:
        numpy_random.set_state(tuple(state["numpy"]))


def _numpy_random() -> Any:
    try:
        import numpy as np
    except ImportError:
        return None
    return np.random


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, (list, tuple)) else value


def _on_cpu(state: Tensor) -> Tensor:
    return state.detach().cpu().to(torch.uint8)
