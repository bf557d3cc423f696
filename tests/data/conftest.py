import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything


@pytest.fixture(autouse=True)
def _quiet_lightning() -> Iterator[None]:
    # What Lightning says of its own code and of small loaders; everything else stays an error.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
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
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
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
            "max_epochs": 3,
            "log_every_n_steps": 1,
        }
        return Trainer(**{**defaults, **settings})

    return make
