"""The modules as LightningCLI builds them from a configuration."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from runmodel_ext.modules import ClassificationModule, RegressionModule

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def fit(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["runmodel"])
    monkeypatch.syspath_prepend(str(CONFIGS.parent))

    def run(config: str, *arguments: str, steps: int = 4) -> Any:
        args = ["fit", "--config", str(CONFIGS / config), "--trainer.accelerator=cpu", *arguments]
        defaults = {
            "default_root_dir": str(tmp_path),
            "max_steps": steps,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        return LightningCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,
            trainer_defaults=defaults,
            args=args,
        )

    return run


@pytest.fixture(autouse=True)
def _quiet_parsing(recwarn: pytest.WarningsRecorder) -> None:
    import warnings

    warnings.filterwarnings("ignore", message=".*log_every_n_steps.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*skip_none.*")


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_config_fits(fit, config):
    cli = fit(config)
    assert cli.trainer.global_step == 4
    assert (CONFIGS / config).read_text().startswith("# ")
    assert f"runmodel fit --config configs/{config}" in (CONFIGS / config).read_text()


def test_a_checkpoint_of_a_configured_module_needs_nothing_else(fit, tmp_path):
    cli = fit(
        "digits.yaml",
        "--model.metrics={auroc: {class_path: torchmetrics.classification.MulticlassAUROC, "
        "init_args: {num_classes: 10}}}",
    )
    path = tmp_path / "a.ckpt"
    cli.trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["network"]["init_args"]["width"] == 32
    loaded = ClassificationModule.load_from_checkpoint(path)
    assert loaded.lr == 3e-3
    assert "val/auroc" in loaded.score_modes
    assert torch.equal(loaded.network.head.weight, cli.model.network.head.weight)


def test_optimizer_and_scheduler_come_from_the_configuration(fit):
    cli = fit(
        "diabetes.yaml",
        "--model.lr=0.05",
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.momentum=0.9",
        "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "--model.lr_scheduler.patience=2",
    )
    group = cli.trainer.optimizers[0].param_groups[0]
    assert isinstance(cli.model, RegressionModule)
    assert type(cli.trainer.optimizers[0]) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.05, 0.9, 0)
    assert cli.trainer.lr_scheduler_configs[0].monitor == "val/mae"
