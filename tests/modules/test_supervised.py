from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from runmodel_ext.errors import ConfigError
from runmodel_ext.modules import ClassificationModule, Step, SupervisedModule
from runmodel_ext.networks import CNN, MLP


class ByHand(LightningModule):
    """The training loop that anyone would write, with the same groups."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=3e-3)


def test_two_epochs_leave_the_weights_of_a_hand_written_module_bit_for_bit(make_trainer, digits, loader):
    weights = []
    for build in (ByHand, lambda network: ClassificationModule(network, num_classes=10, lr=3e-3)):
        trainer = make_trainer(max_epochs=2)
        module = build(CNN(width=4, dropout=0.1))
        trainer.fit(module, loader(*digits))
        weights.append(module.network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_one_overridden_step_changes_that_step_alone(make_trainer, digits, loader):
    seen: list[Step] = []

    class Smoothed(ClassificationModule):
        def compute_loss(self, step: Step) -> Tensor:
            seen.append(step)
            return functional.cross_entropy(step.output, step.target, label_smoothing=0.1)

    trainer = make_trainer()
    trainer.fit(Smoothed(MLP(64, 10), num_classes=10), loader(*digits), loader(*digits))
    assert {step.phase for step in seen} == {"train", "validate"}
    assert seen[0].inputs.shape == (32, 1, 8, 8)
    assert {"train/loss", "val/loss", "val/acc", "val/f1"} <= set(trainer.callback_metrics)


def test_a_batch_that_is_a_dict_gives_its_target_and_passes_the_rest_by_name():
    class Sum(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    module = SupervisedModule(nn.Sequential())
    assert module.prepare_batch({"image": 1, "label": 2}) == (1, 2)
    assert module.prepare_batch({"left": 1, "right": 2}) == ({"left": 1, "right": 2}, None)
    assert module.prepare_batch(5) == (5, None)
    batch = {"left": torch.ones(3), "right": torch.ones(3)}
    assert SupervisedModule(Sum()).predict_step(batch, 0)["prediction"].tolist() == [2, 2, 2]


def test_a_batch_of_three_is_refused_with_a_way_out():
    message = r"^prepare_batch of SupervisedModule takes \(inputs, target\), but the batch is a tuple of 3\. Over"
    with pytest.raises(ConfigError, match=message):
        SupervisedModule(nn.Identity()).predict_step((1, 2, 3), 0)


def test_training_without_a_target_is_refused(make_trainer, loader):
    message = "found no target in a batch of type list, but 'train' needs one"
    with pytest.raises(ConfigError, match=message):
        make_trainer().fit(SupervisedModule(nn.Linear(2, 1)), loader(torch.zeros(4, 2)))


@pytest.mark.parametrize("lr", [0.0, -1e-3, float("nan")])
def test_a_learning_rate_that_is_not_positive_is_refused(lr):
    with pytest.raises(ConfigError, match=rf"^`lr` must be greater than 0, but is {lr:g}\.$"):
        SupervisedModule(nn.Identity(), lr=lr)


def test_norms_biases_and_vectors_do_not_decay_and_a_tied_weight_counts_once():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 144)
    )
    network.append(nn.Linear(144, 144))
    network[5].weight = network[4].weight
    network[4].bias.requires_grad_(False)
    decayed, spared = SupervisedModule(network).weight_decay_groups()
    assert {id(parameter) for parameter in decayed["params"]} == {
        id(network[0].weight),
        id(network[4].weight),
    }
    assert len(decayed["params"]) == 2
    assert len(spared["params"]) == 7  # frozen ones stay in: they may be thawed
    assert spared["weight_decay"] == 0


def test_the_optimizer_keeps_its_own_weight_decay_for_what_decays():
    module = SupervisedModule(
        nn.Linear(2, 1), lr=0.1, optimizer=lambda groups: torch.optim.SGD(groups, weight_decay=0.3)
    )
    groups = module.configure_optimizers().param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.3), (0.1, 0.0)]


def test_two_different_learning_rates_are_refused_and_null_takes_the_optimizers():
    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.5)

    with pytest.raises(ConfigError, match=r"`lr` is 0\.001, and SGD was given lr=0\.5\. Set `lr: 0\.5`, or"):
        SupervisedModule(nn.Linear(2, 1), optimizer=sgd).configure_optimizers()
    module = SupervisedModule(nn.Linear(2, 1), lr=None, optimizer=sgd)
    assert module.configure_optimizers().param_groups[0]["lr"] == 0.5


def test_a_plateau_watches_the_monitor_and_must_wait_in_its_direction(make_trainer, digits, loader):
    def plateau(mode: str) -> Any:
        return lambda optimizer: ReduceLROnPlateau(optimizer, mode=mode, patience=0, eps=0)

    network = MLP(64, 10)
    wrong = ClassificationModule(network, 10, lr_scheduler=plateau("min"))
    with pytest.raises(ConfigError, match=r"has mode 'min', but 'val/acc' is better towards the 'max'"):
        wrong.configure_optimizers()
    module = ClassificationModule(network, 10, lr=1e-9, lr_scheduler=plateau("max"))
    trainer = make_trainer(max_epochs=3)
    trainer.fit(module, loader(*digits), loader(*digits))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-11)


def test_a_scheduler_can_step_with_each_batch(make_trainer, digits, loader):
    module = ClassificationModule(
        MLP(64, 10),
        10,
        lr=1.0,
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        lr_interval="step",
    )
    trainer = make_trainer(max_steps=3, max_epochs=-1)
    trainer.fit(module, loader(*digits))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


def test_a_monitor_of_unknown_direction_is_refused_unless_mode_says_it():
    message = r"^`monitor` is 'val/accuracy', whose direction .*; known are val/loss, val/acc, val/f1\. Name"
    with pytest.raises(ConfigError, match=message):
        ClassificationModule(nn.Identity(), 3, monitor="val/accuracy")
    assert ClassificationModule(nn.Identity(), 3, monitor="val/accuracy", mode="max").mode == "max"


def test_directions_are_those_that_the_metrics_declare():
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassCalibrationError

    extra = {"ece": MulticlassCalibrationError(3), "mean": MeanMetric()}
    modes = ClassificationModule(nn.Identity(), 3, metrics=extra).score_modes
    assert modes["val/acc"] == modes["test/f1"] == "max"
    assert modes["val/ece"] == modes["train/loss"] == "min"
    assert "val/mean" not in modes


def test_each_loader_has_scores_of_its_own(make_trainer, digits, loader):
    images, labels = digits
    module = ClassificationModule(MLP(64, 10), 10)
    halves = _halves(images, labels, loader)
    alone = [make_trainer().validate(module, half, verbose=False)[0] for half in halves]
    together = make_trainer().validate(module, _halves(images, labels, loader), verbose=False)
    assert together[0]["val/acc"] == alone[0]["val/acc"]
    assert together[1]["val/acc/dataloader_idx_1"] == alone[1]["val/acc"]
    assert together[1]["val/loss/dataloader_idx_1"] == alone[1]["val/loss"]
    assert alone[0]["val/acc"] != alone[1]["val/acc"]


def _halves(images: Tensor, labels: Tensor, loader: Any) -> list[DataLoader[Any]]:
    return [loader(images[:90], labels[:90]), loader(images[90:], labels[90:])]


def test_metrics_of_training_are_computed_when_asked_for(make_trainer, digits, loader):
    for asked in (False, True):
        trainer = make_trainer()
        trainer.fit(ClassificationModule(MLP(64, 10), 10, train_metrics=asked), loader(*digits))
        assert ("train/acc" in trainer.callback_metrics) == asked


def test_a_compiled_network_trains(make_trainer, digits, loader):
    network = torch.compile(MLP(64, 10), backend="eager")
    trainer = make_trainer()
    trainer.fit(ClassificationModule(network, 10), loader(*digits), loader(*digits))
    assert "val/acc" in trainer.callback_metrics


def test_bfloat16_gives_scores_in_full_precision(make_trainer, digits, loader):
    trainer = make_trainer(precision="bf16-mixed")
    module = ClassificationModule(MLP(64, 10), 10)
    trainer.fit(module, loader(*digits), loader(*digits))
    assert trainer.callback_metrics["val/acc"] > 0
    predictions = trainer.predict(module, loader(*digits))
    assert predictions[0]["score"].dtype == torch.float32


def test_a_checkpoint_opens_without_pickle_and_loads_with_the_network(make_trainer, digits, loader, tmp_path):
    module = ClassificationModule(MLP(64, 10), num_classes=10, lr=0.02, optimizer=torch.optim.SGD)
    trainer = make_trainer()
    trainer.fit(module, loader(*digits))
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert stored["lr"] == 0.02
    assert stored["num_classes"] == 10
    assert not {"network", "optimizer", "metrics"} & set(stored)
    loaded = ClassificationModule.load_from_checkpoint(path, network=MLP(64, 10), weights_only=True)
    assert loaded.lr == 0.02
    assert torch.equal(loaded.network.head.weight, module.network.head.weight)


def test_a_subclass_keeps_its_own_arguments_too(make_trainer, digits, loader, tmp_path):
    class Mine(ClassificationModule):
        def __init__(self, penalty: float = 0.5, callback: Any = None, **others: Any) -> None:
            super().__init__(num_classes=10, **others)
            self.penalty = penalty

    trainer = make_trainer()
    trainer.fit(Mine(0.25, callback=print, network=MLP(64, 10), lr=0.5), loader(*digits))
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["hyper_parameters"]
    assert (stored["penalty"], stored["lr"]) == (0.25, 0.5)
    assert "callback" not in stored


def test_the_steps_run_without_a_trainer_and_a_step_knows_its_size():
    module = SimpleNamespace(run=ClassificationModule(MLP(64, 10), 10).run_step)
    step = module.run("predict", torch.zeros(7, 1, 8, 8), 0)
    assert step.batch_size == 7
    assert step.loss is None
