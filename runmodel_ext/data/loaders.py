"""Loaders whose every batch follows from the seed, the epoch and the batch's number, and from nothing else.

No batch depends on how much randomness was drawn before it, nor on the number of workers; so a resumed run
sees the same batches as one that was never stopped, in the middle of an epoch too.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from typing_extensions import override

from runmodel_ext.errors import ConfigError


class Augment(Protocol):
    """A random change to an image, of which the generator is the only source."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of the image, of the same shape."""


class Augmented(Dataset[Any]):
    """Images that change in each epoch; for one ``(seed, epoch, index)`` the answer is always the same."""

    def __init__(self, dataset: Dataset[Any], augment: Augment) -> None:
        self.dataset = dataset
        self.augment = augment

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @override
    def __getitem__(self, key: tuple[int, int, int] | int) -> Any:
        if isinstance(key, int):  # Lightning's own samplers, as with `overfit_batches`
            return self.dataset[key]
        image, target = self.dataset[key[2]]
        # The hash of a tuple of numbers, unlike that of a string, is the same in every process.
        generator = torch.Generator().manual_seed(hash(key) % 2**63)
        return self.augment(image, generator), target


class EpochSampler(DistributedSampler[Any]):
    """An order for each epoch that follows from the seed and the epoch alone; Lightning tells it the epoch.

    It yields keys for :class:`Augmented` where the data set is one, else positions.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=0)
        self.run_seed = seed
        self.skip = 0

    @override
    def __iter__(self) -> Iterator[Any]:
        # DistributedSampler seeds with seed + epoch, which makes epoch 1 of seed 0 and epoch 0 of seed 1 the
        # same.
        self.seed = hash((self.run_seed, self.epoch)) % 2**62
        skip, self.skip = self.skip, 0
        indices = list(super().__iter__())[skip:]
        if isinstance(self.dataset, Augmented):
            return iter([(self.run_seed, self.epoch, index) for index in indices])
        return iter(indices)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over an :class:`EpochSampler` that goes on where a checkpoint left it."""

    _given = 0
    _epoch = 0
    _resume: tuple[int, int] | None = None

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator starts at the first `next`, when Lightning has told the sampler its epoch.
        epoch, given = self._resume or (-1, 0)
        self._resume = None
        self._given = 0
        if isinstance(self.sampler, EpochSampler):  # with `overfit_batches`, Lightning puts in its own
            self._epoch = self.sampler.epoch
            self._given = given if epoch == self._epoch and given < len(self) else 0
            self.sampler.skip = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the loader is: the epoch, and the batches that it has given in it."""
        return {"epoch": self._epoch, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there, if the next epoch asked for is that one."""
        self._resume = (state["epoch"], state["batches"])


class LoadersModule(LightningDataModule):
    """What the DataModules of this folder share: the loaders over three data sets that ``setup`` makes.

    Args:
        batch_size: Samples in a batch, at least 1.
        num_workers: Processes that load; 0 loads in the process that trains. Changes no result.
    """

    identity_ignore: ClassVar[tuple[str, ...]] = ("num_workers", "pin_memory", "persistent_workers")
    """Arguments that decide no result, and so no run's identity."""

    train_set: Dataset[Any]
    val_set: Dataset[Any]
    test_set: Dataset[Any]

    def __init__(self, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, but is {batch_size}.")
        if num_workers < 0:
            raise ConfigError(f"`num_workers` must be at least 0, but is {num_workers}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._seed: int | None = None

    @override
    def train_dataloader(self) -> ResumableLoader:
        if self._seed is None:
            self._seed = torch.initial_seed()
        replicas, rank = 1, 0
        if self.trainer is not None:
            # Without a seed, each process has drawn its own.
            self._seed = self.trainer.strategy.broadcast(self._seed)
            replicas, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = EpochSampler(self.train_set, self._seed, replicas, rank)
        return ResumableLoader(self.train_set, sampler=sampler, **self._settings())

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val_set, **self._settings())

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test_set, **self._settings())

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        """The test part."""
        return self.test_dataloader()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The seed of the fit, so that a resumed one goes on with it."""
        return {} if self._seed is None else {"seed": self._seed}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the seed of the checkpoint."""
        self._seed = state_dict["seed"]

    @override
    def teardown(self, stage: str) -> None:
        self._seed = None  # the next fit takes the seed of its own time

    def _settings(self) -> dict[str, Any]:
        # Starting a loader draws from its generator: one of its own leaves the global stream to the training.
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "generator": torch.Generator(),
        }


def require_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        ConfigError: If a share is below 0, or both together reach 1.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ConfigError(
            "`val_fraction` and `test_fraction` must be at least 0 and together less than 1, but are "
            f"{val_fraction:g} and {test_fraction:g}."
        )
