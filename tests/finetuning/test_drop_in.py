"""Modules and callbacks of other people, untouched: stages drop into them."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel, RandomDataset
from lightning.pytorch.demos.transformer import LightningTransformer, Transformer
from torch import Tensor, nn, optim
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from runmodel_ext import Stage, Until
from runmodel_ext.errors import ScheduleError
from runmodel_ext.finetuning import Plateau
from tests.finetuning.small import (
    HEAD,
    Net,
    Plain,
    Watch,
    copied,
    fit,
    gradients,
    head_body_head,
    loader,
    moved,
    rates,
    staged,
    weights,
)


@pytest.mark.parametrize("kind", [BoringModel, ManualOptimBoringModel])
def test_the_boring_models_of_lightning(kind: type[BoringModel]):
    module = kind()
    start, watch = copied(module), Watch(weights)
    stages = [Stage("bias", train="layer.bias", until=Until(steps=3)), Stage("all", train="*", lr=0.01)]
    trainer = fit(module, stages, watch, loaders=(DataLoader(RandomDataset(32, 16), 2),), epochs=1)
    assert moved(start, watch.within("bias")[-1]) == {"layer.bias"}
    assert moved(start, copied(module)) == {"layer.bias", "layer.weight"}
    assert [passed["to"]["step"] for passed in staged(trainer).history] == [3, 8]


class Words(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        words = torch.randint(0, 20, (7,), generator=torch.Generator().manual_seed(number))
        return words[:-1], words[1:]


class DemoTransformer(LightningTransformer):
    """The demo with words of the test's, as its own would have to be downloaded; smaller, but with its own steps."""

    def __init__(self) -> None:
        super().__init__(vocab_size=20)
        self.model = Transformer(vocab_size=20, ninp=8, nhead=2, nhid=8, nlayers=2)

    def prepare_data(self) -> None:
        """There is nothing to download."""


def test_the_demo_transformer_of_lightning():
    module = DemoTransformer()
    start, watch = copied(module), Watch(weights)
    stages = [
        Stage("output", train="model.decoder", until=Until(epochs=1)),
        Stage("top", train=["model.decoder", "model.transformer.*.layers.1"], lr=0.05, until=Until(epochs=1)),
        Stage("all", train="*", layer_decay=0.8),
    ]
    fit(module, stages, watch, loaders=(DataLoader(Words(), 4),))
    assert moved(start, watch.within("output")[-1]) == {"model.decoder.weight", "model.decoder.bias"}
    top = {name for name in start if "decoder.weight" in name or "decoder.bias" in name or ".layers.1." in name}
    assert moved(start, watch.within("top")[-1]) == top
    assert "model.embedding.weight" in moved(start, copied(module))


class LitAutoEncoder(LightningModule):
    """The module of Lightning's README."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        loss = functional.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.Adam(self.parameters(), lr=1e-3)


def test_the_auto_encoder_of_lightnings_readme():
    module = LitAutoEncoder()
    start, watch = copied(module), Watch(weights)
    stages = [
        Stage("decoder", train="decoder", until=Until(plateau=Plateau("train_loss", patience=1, min_delta=9.0))),
        Stage("all", train="*", lr={"encoder": 1e-4, "*": 1e-3}),
    ]
    trainer = fit(module, stages, watch, loaders=(loader(),))
    assert {name.partition(".")[0] for name in moved(start, watch.within("decoder")[-1])} == {"decoder"}
    assert {name.partition(".")[0] for name in moved(start, copied(module))} == {"decoder", "encoder"}
    assert staged(trainer).history[0]["ended"].startswith("'train_loss' has not improved")


class Gan(LightningModule):
    """Two optimizers that take turns, each with its own parameters switched on."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
        self.discriminator = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Dropout(0.3), nn.Linear(8, 1))

    def judged(self, x: Tensor, real: bool) -> Tensor:
        verdict = self.discriminator(x)
        return functional.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, float(real)))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generates, discriminates = self.optimizers()
        made = self.generator(torch.randn(len(batch[0]), 3))
        self.toggle_optimizer(generates)
        generates.zero_grad()
        self.manual_backward(self.judged(made, real=True))
        generates.step()
        self.untoggle_optimizer(generates)
        self.toggle_optimizer(discriminates)
        discriminates.zero_grad()
        self.manual_backward(self.judged(batch[0], real=True) + self.judged(made.detach(), real=False))
        discriminates.step()
        self.untoggle_optimizer(discriminates)

    def configure_optimizers(self) -> Any:
        return [optim.Adam(self.generator.parameters(), 0.01), optim.Adam(self.discriminator.parameters(), 0.02)]


def test_a_gan_with_two_optimizers_that_are_toggled():
    module = Gan()
    ends = {"generator.3.weight", "generator.3.bias", "discriminator.3.weight", "discriminator.3.bias"}
    start = copied(module)
    watch = Watch(lambda trainer, module: (copied(module), gradients(module), rates(trainer)))
    stages = [
        Stage("ends", train=["generator.3", "discriminator.3"], until=Until(steps=6)),
        Stage("all", train="*", lr={"generator": 0.001, "*": 0.002}),
    ]
    fit(module, stages, watch, loaders=(loader(),), epochs=2)
    now, training, _ = watch.within("ends")[-1]
    assert moved(start, now) == training == ends
    _, training, shown = watch.within("all")[-1]
    assert training == set(dict(module.named_parameters()))
    assert {name: rate for name, rate in shown.items() if "0.weight" in name} == {
        "generator.0.weight": 0.001,
        "discriminator.0.weight": 0.002,
    }


def test_a_loss_of_which_nothing_trains_is_explained():
    stages = [Stage("one side", train="generator", until=Until(steps=6)), Stage("all", train="*")]
    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        fit(Gan(), stages, loaders=(loader(),), epochs=2)
    (note,) = caught.value.__notes__
    assert note.startswith("Stage 'one side' trains nothing on which this loss depends.")


def test_a_module_with_one_cycle_over_all_of_its_steps():
    def configure(module: Plain) -> Any:
        optimizer = optim.AdamW(module.parameters(), lr=0.01)
        steps = int(module.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps), "interval": "step"}]

    module = Plain(configure)
    start, watch = copied(module), Watch(weights)
    trainer = fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    assert trainer.global_step == 12


def test_a_network_in_a_single_child_and_a_parameter_that_its_parent_owns():
    class Scaled(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def loss(self, batch: Any) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]) * self.scale, batch[1])

    module = Scaled()
    start, watch = copied(module), Watch(weights)
    stages = [
        Stage("scale", train="scale", until=Until(epochs=1)),
        Stage("below", train="net", until=Until(epochs=1)),
        Stage("all", train="*"),
    ]
    fit(module, stages, watch)
    scaled, below = watch.within("scale")[-1], watch.within("below")[-1]
    assert moved(start, scaled) == {"scale"}
    assert torch.equal(below["scale"], scaled["scale"])
    assert not torch.equal(below["net.stem.0.weight"], start["net.stem.0.weight"])


class Tied(nn.Module):
    """Weights that are shared, a module under two names, equal values, and whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.alias = self.first
        self.norms = nn.ModuleList([nn.LayerNorm(6), nn.LayerNorm(6)])
        self.head = nn.Linear(6, 3)
        self.offset = nn.Parameter(torch.tensor(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.first(x))
        return self.head(self.norms[1](self.second(self.alias(x))) + self.offset)


def test_shared_weights_are_one_and_equal_values_are_two():
    floats = lambda module: [p for p in module.parameters() if p.is_floating_point()]  # noqa: E731
    module = Plain(lambda module: optim.SGD(floats(module), 0.1, momentum=0.9, weight_decay=0.1), Tied())
    start, watch = copied(module), Watch(weights)
    stages = [
        Stage("tied", train="net.second.weight", until=Until(epochs=1)),
        Stage("norm", train="net.norms.1", until=Until(epochs=1)),
        Stage("all", train="*"),
    ]
    trainer = fit(module, stages, watch)
    tied, norm = watch.within("tied")[-1], watch.within("norm")[-1]
    assert moved(start, tied) == {f"net.{name}.weight" for name in ("first", "second", "alias")}
    assert moved(tied, norm) == {"net.norms.1.weight", "net.norms.1.bias"}
    assert moved(norm, copied(module)) == set(start) - {"net.offset"}
    assert staged(trainer).conductor.notes[0] == (
        "Stage 'tied': 'net.first.weight' is the same parameter as 'net.second.weight', 'net.alias.weight', "
        "and trains with it."
    )


def test_whole_numbers_alone_cannot_train():
    with pytest.raises(ScheduleError, match=r"the parameters that 'net\.offset' names hold whole numbers"):
        fit(Plain(network=Tied()), [Stage("offset", train="net.offset")])


def test_a_module_that_is_made_in_configure_model():
    class Late(Plain):
        def __init__(self) -> None:
            super().__init__(network=nn.Identity())

        def configure_model(self) -> None:
            if isinstance(self.net, nn.Identity):
                self.net = Net()

    module = Late()
    trainer = fit(module, head_body_head())
    assert [passed["stage"] for passed in staged(trainer).history] == ["head", "all", "again"]
    assert gradients(module) == set(dict(module.named_parameters()))


def test_parameters_that_are_made_after_the_fits_start_are_refused_at_the_next_stage():
    class Grows(Plain):
        def on_train_start(self) -> None:
            self.more = nn.Linear(2, 2)

    with pytest.raises(ScheduleError, match="Stage 'head' is over, but the model holds other parameters than at the"):
        fit(Grows(), head_body_head())


@pytest.fixture(autouse=True)
def _compile_anew() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("compiled", ["the network", "a part of it", "the module"])
def test_compiled_networks_train_and_freeze_as_those_that_are_not(backend: str, compiled: str):
    module = Plain(lambda module: optim.SGD(module.parameters(), 0.05, momentum=0.9))
    start = {name: value.clone() for name, value in module.state_dict().items()}
    if compiled == "the network":
        module.net = torch.compile(module.net, backend=backend)
    elif compiled == "a part of it":
        module.net.body = torch.compile(module.net.body, backend=backend)
    else:
        module = torch.compile(module, backend=backend)
    watch = Watch(lambda trainer, module: {n.replace("._orig_mod", ""): v for n, v in copied(module).items()})
    fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    assert moved(watch.within("all")[-1], watch.within("again")[-1]) == HEAD
    assert moved(start, watch.within("all")[-1]) >= {name for name in start if "running" in name}
    assert all(module.training for module in module.modules())


@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_a_part_that_is_torchscript(kind: str):
    module = Plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "scripted":
            module.net.body = torch.jit.script(module.net.body)
        else:
            module.net.body = torch.jit.trace(module.net.body.eval(), torch.randn(3, 8))
    start, watch = copied(module), Watch(weights)
    fit(module, head_body_head(), watch)
    assert moved(start, watch.within("head")[-1]) == HEAD
    assert "net.body.0.weight" in moved(watch.within("head")[-1], watch.within("all")[-1])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(precision: str):
    module = Plain()
    watch = Watch(weights)
    fit(module, head_body_head(), watch, precision=precision)
    first, last = watch.within("head")[0], watch.within("head")[-1]
    assert moved(first, last) == HEAD
    assert moved(watch.within("all")[-1], watch.within("again")[-1]) == HEAD


@pytest.mark.parametrize("batches", [2, 3])
def test_gradients_that_are_accumulated_are_not_lost_at_a_transition(batches: int):
    steps: list[tuple[set[str], dict[str, Tensor]]] = []

    class Looks(Plain):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            found = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}
            steps.append((set(found), found))

    network = Net().eval()
    fit(Looks(lambda module: optim.SGD(module.parameters(), 0.0), network), None, accumulate_grad_batches=batches)
    without, steps = steps, []
    stages = [
        Stage("head", train="net.head", until=Until(steps=1)),
        Stage("top", train=["net.head", "net.body"], until=Until(steps=2)),
        Stage("all", train="*"),
    ]
    module = Looks(lambda module: optim.SGD(module.parameters(), 0.0), network)
    fit(module, stages, accumulate_grad_batches=batches)
    assert [len(names) for names, _ in steps] == [2, 6, 6, 10, 10, 10]
    for (_, one), (_, other) in zip(without, steps, strict=True):
        assert all(torch.equal(value, one[name]) for name, value in other.items())


def test_accumulation_that_changes_beside_stages_by_steps():
    stages = [Stage("head", train="net.head", until=Until(steps=3)), Stage("all", train="*")]
    trainer = fit(Plain(), stages, theirs.GradientAccumulationScheduler({0: 2, 1: 1}))
    assert [passed["to"] for passed in staged(trainer).history] == [{"epoch": 1, "step": 3}, {"epoch": 3, "step": 10}]


def test_gradients_that_are_accumulated_by_hand_are_not_lost_at_a_transition():
    sums: list[Tensor] = []

    class ByHand(Plain):
        def __init__(self, configure: Any) -> None:
            super().__init__(configure)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(batch))
            if batch_idx % 2:
                sums.append(self.net.head.bias.grad.clone())
                self.optimizers().step()
                self.optimizers().zero_grad()

    stages = [Stage("head", train="net.head", until=Until(steps=1)), Stage("bias", train="net.head.bias")]
    for each in (stages, [Stage("head", train="net.head")]):
        module = ByHand(lambda module: optim.SGD(module.parameters(), 0.0))
        seed_everything(0, verbose=False)
        module.net.load_state_dict(Net().state_dict())
        fit(module, each, epochs=1)
    assert all(torch.equal(one, other) for one, other in zip(sums[:2], sums[2:], strict=True))


def test_clipping_by_norm_counts_what_trains_alone():
    norms: list[float] = []

    class Clips(Plain):
        def configure_gradient_clipping(self, optimizer: Any, **_: Any) -> None:
            self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
            found = [p.grad for p in self.parameters() if p.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in found]))))

    fit(Clips(), head_body_head(), gradient_clip_val=1e-3)
    assert norms == pytest.approx([1e-3] * 12, rel=1e-3)


def test_a_module_that_zeroes_its_gradients_instead_of_dropping_them():
    held: list[set[str]] = []

    class Zeroes(Plain):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            held.append({name for name, parameter in self.named_parameters() if parameter.grad is not None})

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    watch = Watch(weights)
    configure = lambda module: optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=0.1)  # noqa: E731
    stages = [Stage("all", train="*", until=Until(steps=2)), Stage("again", train="net.head")]
    fit(Zeroes(configure), stages, watch, epochs=1)  # without a validation in between, which drops all gradients
    assert [len(names) for names in held] == [10, 10, 2, 2]
    assert held[-1] == HEAD  # or clipping by norm would count what is left over, and momentum would go on
    assert moved(watch.within("all")[-1], watch.within("again")[-1]) == HEAD
