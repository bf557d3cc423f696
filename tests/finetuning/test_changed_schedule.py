"""Going on from a checkpoint of another schedule, of none, or with none."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.callbacks import RandomState
from runmodel_ext.errors import ScheduleError
from tests.finetuning.kit import BATCHES, THREE, Digits, SaveAt, differences, final_state, fit, with_scheduler

HEAD, TOP, ALL = THREE


def callbacks(stages: Sequence[Stage] | None) -> list[Callback]:
    return [RandomState(), *([StagedFinetuning(list(stages), show_plan=False)] if stages else [])]


def saved(folder: Path, step: int, stages: Sequence[Stage] | None, make: Any = Digits) -> Path:
    fit(make, [*callbacks(stages), SaveAt(folder, [("batch", step)])])
    return folder / f"batch-{step}.ckpt"


def assert_same(trainer: Trainer, other: Trainer) -> None:
    assert differences(final_state(trainer), final_state(other)) == []


LATER = Stage("all", train="*", exclude="net.stem", lr={"net.head.bias": 0.1, "*": 0.002})


@pytest.mark.parametrize("step", [3, 9, 14, 16, 28])
def test_a_change_of_what_is_to_come_counts_as_if_it_had_been_so_from_the_start(tmp_path: Path, step: int) -> None:
    checkpoint = saved(tmp_path, step, THREE)
    with pytest.warns(UserWarning, match="stage 'all': `exclude` was not set and is 'net.stem'"):
        resumed = fit_loudly(checkpoint, [HEAD, TOP, LATER])
    assert_same(resumed, fit(Digits, callbacks([HEAD, TOP, LATER])))


def fit_loudly(checkpoint: Path, stages: Sequence[Stage], make: Any = Digits) -> Trainer:
    return fit(make, callbacks(stages), checkpoint, seed=7, warn=True)


def test_a_stage_that_is_new_behind_the_present_one_begins_in_its_turn(tmp_path: Path) -> None:
    middle = Stage("stem", train="net.stem", lr=0.01, until=Until(epochs=1))
    with pytest.warns(UserWarning, match="stage 'stem' is new"):
        resumed = fit_loudly(saved(tmp_path, 10, THREE), [HEAD, TOP, middle, ALL])
    assert_same(resumed, fit(Digits, callbacks([HEAD, TOP, middle, ALL])))


def test_the_present_stage_goes_on_with_its_new_rate_and_its_new_end(tmp_path: Path) -> None:
    longer = Stage("head", train="net.head", lr=0.5, until=Until(epochs=3))
    with pytest.warns(UserWarning, match="The stages have changed") as told:
        resumed = fit_loudly(saved(tmp_path, 10, THREE), [longer, TOP, ALL])
    text = " ".join(str(each.message) for each in told)
    assert "stage 'head': `lr` was 0.02 and is 0.5" in text
    assert "stage 'head': `until` was {'epochs': 2} and is {'epochs': 3}" in text
    (callback,) = [each for each in resumed.callbacks if isinstance(each, StagedFinetuning)]
    assert [passed["to"]["step"] for passed in callback.history] == [3 * BATCHES, 5 * BATCHES, 6 * BATCHES]


def test_the_present_stage_must_still_be_there(tmp_path: Path) -> None:
    message = (
        "The checkpoint was saved in stage 'top', but the stages are 'head', 'everything' now. "
        "Keep a stage of that name, or start from the weights alone."
    )
    with pytest.raises(ScheduleError, match=re.escape(message)):
        fit(Digits, callbacks([HEAD, Stage("everything", train="*")]), saved(tmp_path, 16, THREE))


def test_a_stage_that_is_over_cannot_come_again_under_its_name(tmp_path: Path) -> None:
    again = Stage("head", train="net.head")
    with pytest.raises(
        ScheduleError, match=r"when stage 'head' was over, but 'head' comes after it now\. Put it before"
    ):
        fit(Digits, callbacks([TOP, again]), saved(tmp_path, 16, THREE))


SAME_RATES = [
    Stage("a", train="*", until=Until(epochs=2)),
    Stage("b", train="*", lr={"net.head": 0.01, "*": 0.01}, until=Until(epochs=2)),
    Stage("c", train="*", layer_decay=1.0),
]


@pytest.mark.parametrize("step", [2, 9, 16])
def test_a_checkpoint_that_knows_no_stages_begins_with_the_first_one(tmp_path: Path, step: int) -> None:
    plain = fit(Digits, callbacks(None))
    staged = fit(Digits, callbacks([Stage("all", train="*")]), saved(tmp_path, step, None), seed=7)
    weights, others = final_state(plain)["weights"], final_state(staged)["weights"]
    assert differences(weights, others) == []


def test_moments_go_with_their_parameters_into_the_split_groups(tmp_path: Path) -> None:
    make = with_scheduler(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
    plain = fit(make, callbacks(None))
    stages = [Stage("a", train="*", until=Until(epochs=1)), Stage("b", train="*", lr={"net.head": 0.01, "*": 0.01})]
    staged = fit(make, callbacks(stages), saved(tmp_path, 16, None, make), seed=7)
    assert differences(final_state(plain)["weights"], final_state(staged)["weights"]) == []


@pytest.mark.parametrize("step", [9, BATCHES * 2, 16, 32])
def test_a_checkpoint_of_stages_goes_on_without_them(tmp_path: Path, step: int) -> None:
    make = with_scheduler(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))
    plain = fit(make, callbacks(None), saved(tmp_path, step, SAME_RATES, make), seed=7)
    weights = final_state(fit(make, callbacks(None)))["weights"]
    assert differences(weights, final_state(plain)["weights"]) == []


def test_a_checkpoint_holds_the_optimizer_as_the_user_built_it(tmp_path: Path) -> None:
    make = with_scheduler(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    checkpoint = torch.load(saved(tmp_path, 16, THREE, make), weights_only=True)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert [len(group["params"]) for group in groups] == [3, 7]
    assert [group["lr"] for group in groups] == [0.01 * 0.5**2] * 2
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert all("name" not in group for group in groups)
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [0.01, 0.01]
    assert Digits.load_from_checkpoint(tmp_path / "batch-16.ckpt", configure=None) is not None


def test_what_the_optimizer_did_not_hold_keeps_its_moments_too(tmp_path: Path) -> None:
    def make() -> Digits:
        return Digits(lambda module: torch.optim.Adam(module.net.head.parameters(), lr=0.01))

    checkpoint = saved(tmp_path, 32, THREE, make)
    assert len(torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"]) == 1
    assert_same(fit(make, callbacks(THREE), checkpoint, seed=7), fit(make, callbacks(THREE)))
