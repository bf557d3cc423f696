import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def _quiet_lightning() -> Iterator[None]:
    # What Lightning says of its own code and of small loaders; everything else stays an error.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Networks this small gain nothing from threads, and lose much where others use the cores.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_trainer(tmp_path: Any) -> Callable[..., Trainer]:
    def make(**settings: Any) -> Trainer:
        seed_everything(0, verbose=False)
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 1,
            "log_every_n_steps": 1,
        }
        return Trainer(**{**defaults, **settings})

    return make


@pytest.fixture
def digits() -> tuple[Tensor, Tensor]:
    """203 of scikit-learn's digits, so that batches of 32 end in one of 11."""
    from sklearn.datasets import load_digits

    table = load_digits()
    return torch.from_numpy(table.images[:203]).float().unsqueeze(1) / 16, torch.from_numpy(table.target[:203])


@pytest.fixture
def loader() -> Callable[..., Loader]:
    def make(*tensors: Tensor, batch_size: int = 32) -> Loader:
        return DataLoader(TensorDataset(*tensors), batch_size=batch_size)

    return make
