"""`runmodel plan` shows what a fine-tuning would train, trains nothing, and leaves nothing but what it is told to."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from runmodel_ext import Stage, StagedFinetuning, Until, gradual_unfreezing
from runmodel_ext.cli.main import main
from runmodel_ext.finetuning import Schedule, described
from tests.cli.tiny import Tiny, TinyData
from tests.finetuning.yaml_kit import config, in_words, with_ours, written

Captured = pytest.CaptureFixture[str]
HERE = "tests.cli.test_plan"
STAGES = [
    in_words(name="head", train="layer.1", lr=1e-2, until={"epochs": 1}),
    in_words(name="all", lr={"layer.1": 1e-3, "*": 1e-4}, warmup={"steps": 2}),
]


class Untouched(TinyData):
    """Data of which no sample may be looked at."""

    def points(self, count: int, seed: int) -> Any:
        class Points(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return count

            def __getitem__(self, index: int) -> Any:
                raise AssertionError("A sample was loaded.")

        return Points()


class Untrained(Tiny):
    """A model that may not be trained."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise AssertionError("A batch was trained.")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where someone works."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def planned(content: dict[str, Any], *more: str, model: str = "Untrained", data: str = "Untouched") -> None:
    """Run `runmodel plan` on a configuration, without a sample and without a step."""
    content = {**content, "data": {"class_path": f"{HERE}.{data}"}}
    content["model"] = {**content["model"], "class_path": f"{HERE}.{model}"}
    main(["plan", f"--config={written(Path('..'), content)}", *more])


def refused(capsys: Captured, content: dict[str, Any], *more: str, **classes: str) -> str:
    """The sentence with which it ends."""
    with pytest.raises(SystemExit) as ended:
        planned(content, *more, **classes)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    said = printed.err[printed.err.index("runmodel: ") :]
    return said.removeprefix("runmodel: ").rstrip("\n")


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line) for line in text.splitlines() if line]


def test_the_plan_is_a_table_of_the_stages(capsys: Captured) -> None:
    planned(config(STAGES))
    assert rows(capsys.readouterr().out) == [
        ["stage", "trains", "parameters", "share", "learning rate", "until"],
        ["head", "layer.1", "4", "31%", "0.01", "1 epoch"],
        ["all", "everything", "13", "100%", "layer.1 0.001, layer.0 0.0001, warm-up 2 steps", "the fit ends"],
    ]


@pytest.mark.parametrize(
    "stages",
    [STAGES, {"class_path": "runmodel_ext.gradual_unfreezing", "init_args": {"layer_decay": 0.5}}],
    ids=["listed", "ready-made"],
)
def test_the_plan_is_the_one_that_the_fit_prints(stages: Any, capsys: Captured) -> None:
    planned(config(stages))
    plan = capsys.readouterr().out
    main(["fit", f"--config={written(Path('..'), config(stages))}"])
    assert plan in capsys.readouterr().out


class NeedsALogger(Callback):
    """As Lightning's DeviceStatsMonitor does."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        assert trainer.loggers
        trainer.logger.log_metrics({"a": 1.0})


def test_nothing_is_left_behind(folder: Path) -> None:
    spec = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/loss"}}
    content = config(STAGES)
    content["trainer"]["callbacks"] += [spec, {"class_path": "RichProgressBar"}, {"class_path": f"{HERE}.NeedsALogger"}]
    planned(content, "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=logs")
    assert list(folder.iterdir()) == []


class Connects(CSVLogger):
    """A logger that would open a connection when it is built."""

    def __init__(self) -> None:
        raise AssertionError("A logger was built.")


class Adapts(Callback):
    """Changes the model before the fit starts, as callbacks that add adapters do."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.adapter = nn.Linear(5, 5)


def test_callbacks_that_change_the_model_count_and_loggers_are_not_built(capsys: Captured) -> None:
    content = config([in_words(train="adapter")])
    content["trainer"]["callbacks"].insert(0, {"class_path": f"{HERE}.Adapts"})
    content["trainer"]["logger"] = {"class_path": f"{HERE}.Connects"}
    planned(content)
    assert rows(capsys.readouterr().out)[1] == ["a", "adapter", "30", "70%", "0.1", "the fit ends"]


class OneCycle(Untrained):
    """One that asks the Trainer how long the fit is, and makes its layers late."""

    def __init__(self, width: int = 1) -> None:
        super().__init__(width=width)
        self.late: nn.Module | None = None

    def configure_model(self) -> None:
        self.late = self.late or nn.Linear(3, 3)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [OneCycleLR(optimizer, 0.5, total_steps=int(self.trainer.estimated_stepping_batches))]


def test_the_models_own_optimizer_scheduler_and_late_layers_are_those_of_the_fit(capsys: Captured) -> None:
    planned(config([in_words(train="late")]), model="OneCycle")
    assert rows(capsys.readouterr().out)[1] == ["a", "late", "12", "48%", "0.5", "the fit ends"]


class Stages(Untrained):
    """One that brings its stages itself."""

    def configure_callbacks(self) -> Any:
        return [StagedFinetuning([Stage("bias", train="*.bias")])]


def test_stages_that_the_model_brings_itself_are_shown(capsys: Captured) -> None:
    content = config([])
    content["trainer"]["callbacks"] = [{"class_path": "BatchSizeFinder"}]
    planned(content, model="Stages")
    assert rows(capsys.readouterr().out)[1] == ["bias", "layer.0.bias, layer.1.bias", "4", "31%", "0.1", "the fit ends"]


def test_a_configuration_without_stages_is_told_so(capsys: Captured) -> None:
    content = config([])
    content["trainer"]["callbacks"] = []
    assert refused(capsys, content) == (
        "There are no stages to show: the Trainer has no StagedFinetuning among its callbacks. "
        "Add one under `trainer.callbacks`."
    )


def test_all_problems_are_said_at_once(capsys: Captured) -> None:
    stages = [
        in_words(train="layr", until={"epochs": 1}),
        in_words(name="b", lr=-1.0, until={"epochs": 1}),
        in_words(name="c", layer_decay=2.0),
    ]
    first, *problems = refused(capsys, config(stages)).splitlines()
    assert first == f"The stages have {len(problems)} problems:"
    for problem in ["the selector 'layr'", "`lr` must be", "`layer_decay` must be"]:
        assert [line for line in problems if problem in line], problem


STEPS = [in_words(until={"steps": 20}), in_words(name="b")]


def test_stages_that_are_longer_than_the_data_allow_are_refused(capsys: Captured) -> None:
    sentence = refused(capsys, config(STEPS))  # four epochs of three batches
    assert sentence.startswith("Stage 'b' can never begin: those before it take 6.67 epochs or more")
    planned(config(STEPS), "--trainer.max_epochs=8")
    assert len(rows(capsys.readouterr().out)) == 3


def test_steps_are_not_counted_where_several_processes_share_the_data(capsys: Captured) -> None:
    planned(config(STEPS), "--trainer.devices=2", "--trainer.strategy=ddp")
    assert len(rows(capsys.readouterr().out)) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--trainer.strategy=fsdp"], "StagedFinetuning cannot work with FSDPStrategy"),
        (
            ["--trainer.strategy={class_path: lightning.pytorch.strategies.FSDPStrategy}"],
            "StagedFinetuning cannot work with FSDPStrategy",
        ),
        (["--trainer.callbacks+=LearningRateFinder"], "The Trainer has StagedFinetuning beside LearningRateFinder"),
        (["--trainer.callbacks+=BackboneFinetuning"], "The Trainer has StagedFinetuning beside BackboneFinetuning"),
        (["--trainer.max_epochz=3"], "There is no option '--trainer.max_epochz'. Did you mean '--trainer.max_epochs'?"),
        (["--write"], "`--write` needs a value, but none is given. See `runmodel plan --help`."),
        (["--write="], "`--write` needs a new file, but none is named."),
    ],
)
def test_what_a_fit_would_refuse_is_refused(words: list[str], sentence: str, capsys: Captured) -> None:
    assert refused(capsys, config(STAGES), *words).startswith(sentence)


def test_a_mistake_in_the_configuration_points_to_the_commands_help(capsys: Captured) -> None:
    assert refused(capsys, config([in_words(lrr=1)])).endswith("Did you mean 'lr'? See `runmodel plan --help`.")


# ---- stages written to be edited ----------------------------------------------------------------------------------

MANY = [
    in_words(
        name="head",
        train=["layer.1", "re:layer.1.*"],
        lr={"*.bias": 1e-5, "*": 3e-4},
        until={"epochs": 3, "plateau": {"monitor": "val/loss", "patience": 1, "min_delta": 0.5}},
        restore_best={"monitor": "val/loss", "mode": "min"},
        lr_scheduler={"class_path": "StepLR", "init_args": {"step_size": 2}},
    ),
    in_words(name="rest: yes", exclude="layer.0.bias", warmup={"steps": 3}, lr_scheduler=f"{HERE}.halved"),
]


def halved(optimizer: Optimizer) -> LRScheduler:
    return StepLR(optimizer, 1, gamma=0.5)


@pytest.mark.parametrize(
    "stages",
    [MANY, {"class_path": "runmodel_ext.gradual_unfreezing", "init_args": {"until": {"epochs": 1}, "lr": 1e-3}}],
    ids=["listed", "ready-made"],
)
def test_the_written_stages_are_the_same_stages(stages: Any, folder: Path, capsys: Captured) -> None:
    content = config(stages)
    content["trainer"]["callbacks"][0]["init_args"]["show_plan"] = False
    planned(content, "--write=new/stages.yaml")
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"Wrote 2 stages to 'new/stages\.yaml'\. Edit them, and train with them: `stages: ", told)
    again = re.search(r"`stages: (.*?)`", told)
    assert again is not None
    read = with_ours(written(folder.parent, config(again[1])))
    assert isinstance(read.stages, list)
    given = with_ours(written(folder.parent, content)).stages
    meant = given.stages_for(Tiny(width=3)) if isinstance(given, Schedule) else given
    assert [described(stage) for stage in read.stages] == [described(stage) for stage in meant]


def test_the_written_stages_are_easy_to_edit(folder: Path) -> None:
    planned(config(MANY), "--write=stages.yaml")
    assert (folder / "stages.yaml").read_text() == (
        "# Stages of a fine-tuning: `stages: stages.yaml` among the arguments of StagedFinetuning.\n"
        "- name: head\n"
        "  train: [layer.1, 're:layer.1.*']\n"
        "  lr: {'*.bias': 1.0e-05, '*': 0.0003}\n"
        "  until:\n"
        "    epochs: 3\n"
        "    plateau: {monitor: val/loss, patience: 1, min_delta: 0.5}\n"
        "  lr_scheduler:\n"
        "    class_path: torch.optim.lr_scheduler.StepLR\n"
        "    init_args: {step_size: 2}\n"
        "  restore_best: {monitor: val/loss}\n"
        "- name: 'rest: yes'\n"
        "  train: '*'\n"
        "  exclude: layer.0.bias\n"
        "  warmup: {steps: 3}\n"
        f"  lr_scheduler: {HERE}.halved\n"
    )


def test_a_file_that_is_there_stays_as_it_is(folder: Path, capsys: Captured) -> None:
    (folder / "stages.yaml").write_text("mine")
    assert refused(capsys, config(STAGES), "--write=stages.yaml") == (
        "`--write` needs a new file, but 'stages.yaml' is there already. Choose another name, or remove it."
    )
    assert (folder / "stages.yaml").read_text() == "mine"


class WithALambda(Schedule):
    """A schedule of one's own, with a scheduler that no configuration can name."""

    def stages_for(self, model: nn.Module) -> list[Stage]:
        (first, *_) = gradual_unfreezing(Until(epochs=1)).stages_for(model)
        return [first, Stage("own", train="*", lr_scheduler=lambda optimizer: StepLR(optimizer, 1))]


def test_a_scheduler_without_a_name_is_refused_and_nothing_is_written(folder: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        planned(config({"class_path": f"{HERE}.WithALambda"}), "--write=stages.yaml")
    assert ended.value.code == 2
    assert "Stage 'own' cannot be written: its `lr_scheduler` is '" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_edited_stages_are_the_stages_of_the_fit(folder: Path, capsys: Captured) -> None:
    planned(config(STAGES), "--write=stages.yaml")
    (folder / "stages.yaml").write_text((folder / "stages.yaml").read_text().replace("lr: 0.01", "lr: 0.02"))
    planned(config(yaml.safe_load((folder / "stages.yaml").read_text())))
    edited = capsys.readouterr().out
    capsys.readouterr()
    planned(config("work/stages.yaml"))
    assert capsys.readouterr().out == edited[edited.rindex("stage  ") :]
    assert "0.02" in edited
