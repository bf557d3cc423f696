"""A mistake in the stages of a configuration is one sentence, which names the key, the value and a way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runmodel_ext.errors import ConfigError
from tests.finetuning.yaml_kit import config, in_words, parsers, written

STAGES = "trainer.callbacks.stages"
SPEC = "{class_path: torch.optim.lr_scheduler.StepLR, init_args: %s}"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """Parse a configuration with stages, which must be refused; what the user reads."""
    monkeypatch.chdir(tmp_path)

    def parse(stages: Any) -> str:
        written(Path(), config(stages))
        with pytest.raises(ConfigError) as error:
            parsers()[0].parse_args(["fit", "--config=c.yaml"])
        sentence = str(error.value)
        assert "\n" not in sentence
        return sentence.partition(" See `")[0]

    return parse


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("lrr: 1", f"`{STAGES}.lrr` is not an argument of runmodel_ext.Stage. Did you mean 'lr'?"),
        ("lr: fast", f"`{STAGES}.lr` must be a float, a mapping or null, but is 'fast'."),
        ("lr: {head: fast}", f"Each value in `{STAGES}.lr` must be a float, but one is 'fast'."),
        ("train: [[1]]", f"Each value in `{STAGES}.train` must be a string, but one is '[1]'."),
        (
            "exclude: a, except: b",
            f"`{STAGES}.except` is not an argument of runmodel_ext.Stage. Did you mean 'exclude'?",
        ),
        (
            "until: {epoch: 1}",
            f"`{STAGES}.until.epoch` is not an argument of runmodel_ext.Until. Did you mean 'epochs'?",
        ),
        (
            "until: 3",
            f"`{STAGES}.until` must be a mapping (epochs, steps, fraction, plateau, reaches) or null, but is 3.",
        ),
        ("until: {epochs: soon}", f"`{STAGES}.until.epochs` must be an int or null, but is 'soon'."),
        (
            "until: {plateau: val/loss}",
            f"`{STAGES}.until.plateau` must be a mapping (monitor, patience, min_delta, mode) or null, "
            "but is 'val/loss'.",
        ),
        (
            "until: {plateau: {monitr: val/loss}}",
            f"`{STAGES}.until.plateau.monitr` is not an argument of runmodel_ext.finetuning.Plateau. "
            "Did you mean 'monitor'?",
        ),
        (
            "until: {reaches: {monitor: a, value: 1, mode: mx}}",
            f"`{STAGES}.until.reaches.mode` must be 'min' or 'max', but is 'mx'. Did you mean 'max'?",
        ),
        (
            "restore_best: {monitor: a, mod: max}",
            f"`{STAGES}.restore_best.mod` is not an argument of runmodel_ext.finetuning.Best. Did you mean 'mode'?",
        ),
        ("warmup: 3", f"`{STAGES}.warmup` must be a mapping (steps, start) or null, but is 3."),
        ("lr_interval: stp", f"`{STAGES}.lr_interval` must be 'epoch' or 'step', but is 'stp'. Did you mean 'step'?"),
        (
            "lr_scheduler: StepLRR",
            f"There is no class 'StepLRR' for `{STAGES}.lr_scheduler`. Did you mean 'StepLR'?",
        ),
        (
            "lr_scheduler: torch.optim.lr_scheduler.StepLRR",
            f"The class 'torch.optim.lr_scheduler.StepLRR' for `{STAGES}.lr_scheduler` cannot be imported: "
            "module 'torch.optim.lr_scheduler' has no attribute 'StepLRR'. Did you mean 'StepLR'?",
        ),
        (
            "lr_scheduler: torch.nn.Linear",
            f"`{STAGES}.lr_scheduler` must be a LRScheduler, but torch.nn.Linear is none.",
        ),
        (
            f"lr_scheduler: {SPEC % '{step_sz: 1}'}",
            f"`{STAGES}.lr_scheduler.step_sz` is not an argument of torch.optim.lr_scheduler.StepLR. "
            "Did you mean 'step_size'?",
        ),
        (f"lr_scheduler: {SPEC % '{step_size: x}'}", f"`{STAGES}.lr_scheduler.step_size` must be an int, but is 'x'."),
    ],
)
def test_a_mistake_in_a_stage_is_one_sentence(words: str, sentence: str, refused: Callable[[Any], str]) -> None:
    before = [in_words(name="first"), yaml.safe_load(f"{{name: a, train: '*', {words}}}")]
    assert refused(before) == f"In 'c.yaml': {sentence}"


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (
            [{"name": "a"}],
            f"`{STAGES}.train` is required by runmodel_ext.Stage, but not given. "
            "Set it in a configuration or as an option.",
        ),
        (
            [in_words(lr_scheduler="torch.optim.lr_scheduler.StepLR")],
            f"`{STAGES}.lr_scheduler.step_size` is required by torch.optim.lr_scheduler.StepLR, but not given. "
            "Set it in a configuration or as an option.",
        ),
        (
            in_words(),
            f"In 'c.yaml': `{STAGES}` must be a list or a Schedule (its `class_path` and `init_args`), "
            "but is {'name': 'a', 'train': '*'}.",
        ),
        (
            ["head"],
            f"In 'c.yaml': `{STAGES}` must be a list, "
            "each a mapping (name, train, lr, until, exclude, weight_decay, …) "
            "or a Schedule (its `class_path` and `init_args`), but is ['head'].",
        ),
        (
            {"class_path": "gradual_unfreezing"},
            f"In 'c.yaml': There is no class 'gradual_unfreezing' for `{STAGES}`. "
            "Did you mean 'runmodel_ext.gradual_unfreezing'?",
        ),
        (
            {"class_path": "runmodel_ext.gradual_unfreezing", "init_args": {"except": "a"}},
            f"In 'c.yaml': `{STAGES}.except` is not an argument of runmodel_ext.gradual_unfreezing. "
            "Did you mean 'exclude'?",
        ),
        ("c.yml", f"In 'c.yaml': There is no file 'c.yml' for `{STAGES}`. Did you mean 'c.yaml'?"),
    ],
)
def test_stages_of_another_kind_are_refused_in_one_sentence(
    stages: Any, sentence: str, refused: Callable[[Any], str]
) -> None:
    assert refused(stages) == sentence
