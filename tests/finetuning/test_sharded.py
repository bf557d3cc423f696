"""Stages where parameters are sharded among two ranks, and strategies with which there can be none."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from runmodel_ext import StagedFinetuning
from runmodel_ext.errors import ScheduleError
from tests.finetuning.kit import THREE, Digits, fit
from tests.finetuning.sharded_ranks import BY_EPOCHS, HEAD, OF_ALL, Halves, Perceptron, Watch, weights
from tests.life.kit import PATIENCE
from tests.life.test_ddp import ROOT, torchrun_like

Found = dict[str, Any]


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The tensors that are not the same bits."""
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Found]:
    """What both ranks have found."""
    words = [sys.executable, "-m", "tests.finetuning.sharded_ranks", str(folder)]
    logs = [(folder / f"{rank}.log").open("w") for rank in (0, 1)]
    processes = [
        subprocess.Popen(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **own}, stdout=log, stderr=log)
        for own, log in zip(torchrun_like(), logs, strict=True)
    ]
    try:
        for rank, process in enumerate(processes):
            assert process.wait(PATIENCE) == 0, (folder / f"{rank}.log").read_text()[-3000:]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> list[dict[str, Tensor]]:
    """The weights at the end of each epoch of the same fit on one process."""
    watch = Watch()
    fit(Halves, [StagedFinetuning(BY_EPOCHS, show_plan=False), watch], seed=1, num_sanity_val_steps=0)
    return watch.seen


@pytest.mark.slow
def test_ranks_with_shards_train_as_one_process_does_in_every_stage(
    ranks: list[Found], alone: list[dict[str, Tensor]]
) -> None:
    for found in ranks:
        seen = found["stages_on_two_ranks"]["seen"]
        assert len(seen) == len(alone) == 7
        assert max(distance(one, other) for one, other in zip(seen, alone, strict=True)) < 1e-5
        assert distance(seen[0], seen[-1]) > 0.1


@pytest.mark.slow
def test_a_stage_changes_what_it_names_and_no_bit_of_the_rest(ranks: list[Found]) -> None:
    seen = ranks[0]["stages_on_two_ranks"]["seen"]
    body = {"net.body.0.weight", "net.body.0.bias", "net.body.1.weight", "net.body.1.bias"}
    head = {f"{HEAD}.weight", f"{HEAD}.bias"}
    stem = {"net.stem.0.weight", "net.stem.0.bias"}
    stages = [changed(seen[start], seen[start + 2]) for start in (0, 2, 4)]
    assert stages == [head, head | body, stem | body]


@pytest.mark.slow
def test_the_gradients_that_are_reduced_are_those_of_what_trains(ranks: list[Found]) -> None:
    assert [found["stages_on_two_ranks"]["reduced"] for found in ranks] == [[(550, 550), (784, 784), (274, 274)]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "fits",
    [
        "resumes_of_shards",
        "resumes_of_one_file",
        "resumes_by_steps",
        "resumes_of_a_head_only_optimizer",
        "resumes_between_two_steps",
        "resumes_by_hand",
        "resumes_in_half_precision",
    ],
)
def test_a_fit_on_shards_goes_on_as_if_it_had_not_been_stopped(ranks: list[Found], fits: str) -> None:
    for found in ranks:
        assert found[fits]
        assert all(where == [] for where in found[fits].values()), found[fits]


@pytest.mark.slow
def test_matrices_that_are_cut_train_as_whole_ones_do_and_go_on(ranks: list[Found]) -> None:
    watch = Watch()
    whole = [StagedFinetuning(OF_ALL, show_plan=False), watch]
    fit(lambda: Plain(Perceptron), whole, seed=1, num_sanity_val_steps=0)
    for found in ranks:
        cut = found["tensor_parallel"]
        assert max(distance(one, other) for one, other in zip(cut["seen"], watch.seen, strict=True)) < 1e-5
        assert cut["differences"] == {"batch-5": [], "batch-17": []}


class Plain(Halves):
    """Without a scheduler."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.05)


@pytest.mark.slow
def test_the_best_weights_of_a_stage_are_put_back_on_shards_after_a_resume_too(ranks: list[Found]) -> None:
    for found in ranks:
        fits = found["resumes_with_best_weights"]
        begun = {stage["stage"]: stage["from"]["epoch"] for stage in fits["end"]["history"]}
        assert begun["all"] == 4
        end = fits["end"]["weights"]
        assert changed(fits["seen"][5], end) == set(), "the loss was highest after the last stage's first epoch"
        assert changed(fits["seen"][6], end)
        assert fits["differences"] == {"batch-12": [], "validation-14": [], "batch-37": []}


@pytest.mark.slow
def test_a_checkpoint_before_the_first_step_of_a_stage_changes_nothing(ranks: list[Found]) -> None:
    assert [found["a_checkpoint_before_the_first_step"] for found in ranks] == [{"undisturbed": [], "resumed": []}] * 2


@pytest.mark.slow
def test_statistics_that_a_stage_freezes_are_the_same_on_all_ranks(ranks: list[Found]) -> None:
    first, second = (found["statistics_of_batch_norm"] for found in ranks)
    moving = [changed(one, other) for one, other in zip(first["seen"], second["seen"], strict=True)]
    assert moving[1] == {"net.stem.1.running_mean", "net.stem.1.running_var"}, "each rank saw other data"
    assert moving[2:] == [set()] * 5
    assert changed(first["end"]["weights"], second["end"]["weights"]) == set()
    assert first["notes"] == [
        "'net.stem.1' has the statistics of its own data on each rank until it is frozen, and a checkpoint holds those "
        "of one rank. Take SyncBatchNorm for a resume to the same bits."
    ]


@pytest.mark.slow
def test_a_checkpoint_of_shards_goes_on_with_other_stages_or_with_none(ranks: list[Found]) -> None:
    found = ranks[0]["other_schedules"]
    assert changed(found["changed-False"]["weights"], found["changed-True"]["weights"]) == set()
    ends = {name: [each["ended"] for each in state["history"]] for name, state in found.items()}
    for kind in (False, True):
        assert ends[f"changed-{kind}"] == ["2 epochs are over", "3 epochs are over", "the fit ended"]
        assert ends[f"with-{kind}"] == ["1 epoch is over", "3 epochs are over", "the fit ended"]
        assert (ends[f"without-{kind}"], found[f"without-{kind}"]["step"]) == ([], 49)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["batch-5", "batch-15", "batch-33"])
def test_a_checkpoint_in_one_file_goes_on_where_nothing_is_sharded(
    folder: Path, ranks: list[Found], alone: list[dict[str, Tensor]], moment: str
) -> None:
    path = folder / "resumes_of_one_file" / f"{moment}.ckpt"
    again = fit(Halves, [StagedFinetuning(BY_EPOCHS, show_plan=False)], path, seed=2, num_sanity_val_steps=0)
    assert distance(weights(again.lightning_module), alone[-1]) < 1e-5


@pytest.mark.slow
def test_lbfgs_is_refused_where_parameters_are_sharded(ranks: list[Found]) -> None:
    assert [found["refusals"] for found in ranks] == [
        "StagedFinetuning cannot work with LBFGS where parameters are sharded: it keeps one vector over all of them. "
        "Take another optimizer, or `strategy: ddp`."
    ] * 2


class OnOneDevice(SingleDeviceStrategy):
    def __init__(self) -> None:
        super().__init__(device="cpu")


class FSDPStrategy(OnOneDevice):
    """Has the name of Lightning's, which does not run on CPU."""


class DeepSpeedStrategy(OnOneDevice):
    """Has the name of Lightning's."""


class OwnStrategy(OnOneDevice):
    @property
    def lightning_restore_optimizer(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (FSDPStrategy, "FSDPStrategy: FullyShardedDataParallel flattens parameters that freeze and thaw apart. Take"),
        (DeepSpeedStrategy, "DeepSpeedStrategy: DeepSpeed keeps copies of the parameters, in groups that it makes"),
        (OwnStrategy, "OwnStrategy: it saves and restores optimizers in a way of its own. Take `strategy: ddp`, or"),
    ],
)
def test_a_strategy_that_cannot_work_is_refused_before_the_first_step(
    strategy: type[OnOneDevice], message: str
) -> None:
    module = Digits()
    before = weights(module)
    with pytest.raises(ScheduleError, match=f"StagedFinetuning cannot work with {message}"):
        fit(lambda: module, [StagedFinetuning(THREE)], strategy=strategy())
    assert changed(before, weights(module)) == set()
