"""Jobs of two ranks, however they are started: one directory, one decision, one end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from runmodel_ext.runs import Run, find_runs
from tests.life.kit import CONFIG, PATIENCE, assert_same_end, fit_args, fits, only_run, until
from tests.warm import Command, Warm

ROOT = Path(__file__).parents[2]
RISKY = """\
import os
import signal
from pathlib import Path
from typing import Any

from runmodel_ext.modules import ClassificationModule


class Risky(ClassificationModule):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        fate = Path("fate").read_text() if Path("fate").exists() else "live"
        if self.global_rank == 1 and self.current_epoch == 1 and batch_idx == 2:
            if fate == "raise":
                raise ValueError("rank one is unwell")
            if fate == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)
"""
DDP = CONFIG.replace("runmodel_ext.modules.ClassificationModule", "risky.Risky").replace(
    "max_epochs: 4", "max_epochs: 3\n  accelerator: cpu\n  devices: 2\n  strategy: ddp"
)

Environments = list[dict[str, str]]
_stores: list[TCPStore] = []  # a store lives as long as its object


def torchrun_like() -> Environments:
    """What torchrun's agent gives its ranks; the store is this process's."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "GROUP_RANK": "0"}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]


def slurm_like() -> Environments:
    """What srun gives its tasks: the same at each command of one step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    common |= {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    return [common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)]


def workplace(folder: Path, fate: str = "live") -> Path:
    (folder / "risky.py").write_text(RISKY)
    (folder / "fate").write_text(fate)
    return folder


def begin(warm: Warm, folder: Path, environments: Environments, *more: str) -> list[Command]:
    words = fit_args(folder, *more, config=DDP)
    return [
        warm.start(words, folder / f"rank-{rank}.log", cwd=folder, env=environment)
        for rank, environment in enumerate(environments)
    ]


def run_to_end(warm: Warm, folder: Path, environments: Environments) -> list[int]:
    commands = begin(warm, folder, environments)
    return [command.wait() for command in commands]


@pytest.fixture(scope="module")
def whole(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A job of two ranks that nobody disturbed."""
    folder = workplace(tmp_path_factory.mktemp("whole"))
    assert run_to_end(warm, folder, torchrun_like()) == [0, 0]
    return only_run(folder)


@pytest.mark.parametrize("environments", [torchrun_like, slurm_like])
def test_two_ranks_share_one_run_and_find_it_finished(
    warm: Warm, tmp_path: Path, whole: Run, environments: Callable[[], Environments]
) -> None:
    workplace(tmp_path)
    assert run_to_end(warm, tmp_path, environments()) == [0, 0]
    run = only_run(tmp_path)
    assert run.status == "finished"
    assert [entry["world_size"] for entry in run.attempts] == [2]
    assert_same_end(run, whole)

    again = begin(warm, tmp_path, environments())
    assert [command.wait() for command in again] == [0, 0]
    assert [command.text.count("finished already") for command in again] == [1, 0]
    assert len(only_run(tmp_path).attempts) == 1
    assert not list(tmp_path.glob("results/.ranks/*"))


def test_a_killed_job_goes_on_at_the_same_epoch_on_all_ranks(warm: Warm, tmp_path: Path, whole: Run) -> None:
    workplace(tmp_path)
    commands = begin(warm, tmp_path, torchrun_like())
    until(lambda: next(tmp_path.glob("results/**/last.ckpt"), None), "checkpoint", commands[0].is_over)
    for command in commands:
        command.kill()
    assert [command.wait() for command in commands] == [-9, -9]
    assert only_run(tmp_path).status == "interrupted"
    assert run_to_end(warm, tmp_path, torchrun_like()) == [0, 0]
    run = only_run(tmp_path)
    assert [status for status, _ in fits(run)] == ["interrupted", "finished"]
    assert run.attempts[1]["from_epoch"] >= 1
    assert_same_end(run, whole)


def test_an_error_on_another_rank_is_the_reason_of_the_run(warm: Warm, tmp_path: Path) -> None:
    workplace(tmp_path, "raise")
    assert run_to_end(warm, tmp_path, torchrun_like()) == [1, 1]
    run = only_run(tmp_path)
    assert run.status == "failed"
    assert run.reason is not None
    assert run.reason.startswith("rank 1: ValueError: rank one is unwell (risky.py:")


def test_a_rank_that_is_killed_makes_the_run_failed(warm: Warm, tmp_path: Path) -> None:
    workplace(tmp_path, "kill")
    assert run_to_end(warm, tmp_path, slurm_like()) == [1, -9]
    assert only_run(tmp_path).status == "failed"


def test_a_rank_with_other_arguments_is_refused(warm: Warm, tmp_path: Path) -> None:
    workplace(tmp_path)
    environments = torchrun_like()
    words = fit_args(tmp_path, config=DDP)
    others = fit_args(tmp_path, "--model.lr=0.5", config=DDP)
    first = warm.start(words, tmp_path / "0", cwd=tmp_path, env=environments[0])
    second = warm.start(others, tmp_path / "1", cwd=tmp_path, env=environments[1])
    assert second.wait() == 2
    assert "Rank 1 has another configuration than rank 0: digest " in second.text
    first.kill(signal.SIGTERM)  # as torchrun's agent does
    assert first.wait() != 0
    run = only_run(tmp_path)
    assert run.status == "failed"
    assert run.reason is not None
    assert run.reason.startswith("rank 1: Rank 1 has another configuration")


def test_of_a_job_that_finds_its_run_busy_no_rank_hangs(warm: Warm, tmp_path: Path) -> None:
    workplace(tmp_path)
    alone = [*fit_args(tmp_path, config=DDP), "--trainer.devices=1", "--trainer.strategy=auto"]
    holder = warm.start(alone, tmp_path / "holder", cwd=tmp_path)
    until(lambda: find_runs(tmp_path / "results") and only_run(tmp_path).metrics(), "rows", holder.is_over)
    os.kill(holder.pid, signal.SIGSTOP)
    commands = begin(warm, tmp_path, torchrun_like())
    codes = [command.wait() for command in commands]
    holder.kill()
    holder.wait()
    assert codes == [2, 2]
    assert f"is being trained by process {holder.pid} on " in commands[0].text
    assert f"is being trained by process {holder.pid} on " in commands[1].text
    assert len(only_run(tmp_path).attempts) == 1


def real(folder: Path, *launcher: str) -> "subprocess.CompletedProcess[str]":
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, "runmodel_ext", *fit_args(folder, config=DDP)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "fate", "reason"),
    [
        ((), "kill", "rank 1 ended with exit code -9"),
        (TORCHRUN, "raise", "rank 1: ValueError: rank one is unwell (risky.py:"),
    ],
    ids=["lightning", "torchrun"],
)
def test_launched_ranks_that_die_fail_the_run_which_goes_on_afterwards(
    tmp_path: Path, whole: Run, launcher: tuple[str, ...], fate: str, reason: str
) -> None:
    workplace(tmp_path, fate)
    ended = real(tmp_path, *launcher)
    assert ended.returncode != 0, ended.stderr
    run = only_run(tmp_path)
    assert run.status == "failed"
    assert run.reason is not None
    assert run.reason.startswith(reason)

    (tmp_path / "fate").write_text("live")
    ended = real(tmp_path, *launcher)
    assert ended.returncode == 0, ended.stderr
    run = only_run(tmp_path)
    assert [status for status, _ in fits(run)] == ["failed", "finished"]
    assert run.attempts[1]["from_epoch"] == 1
    assert_same_end(run, whole)


@pytest.mark.slow
def test_spawned_ranks_share_one_run(tmp_path: Path, warm: Warm) -> None:
    workplace(tmp_path)
    # A scheduler from a configuration is a closure of jsonargparse's, which cannot travel to a spawned process.
    plain = DDP[: DDP.index("    lr_scheduler")] + DDP[DDP.index("data:") :]
    words = fit_args(tmp_path, config=plain.replace("strategy: ddp", "strategy: ddp_spawn"))
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = warm.start(words, tmp_path / "log", cwd=tmp_path, env=environment)
    assert command.wait() == 0, command.text
    run = only_run(tmp_path)
    assert run.status == "finished"
    assert [entry["world_size"] for entry in run.attempts] == [2]
    assert run.progress == {"epoch": 3, "step": 15}
    code, text = warm.run(words, tmp_path / "log", cwd=tmp_path)
    assert (code, text.count("finished already")) == (0, 1), text


@pytest.mark.slow
def test_sigterm_ends_all_ranks_at_once(tmp_path: Path) -> None:
    workplace(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = fit_args(tmp_path, "--trainer.max_epochs=500", config=DDP)
    log = (tmp_path / "log").open("w")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-m", "runmodel_ext", *words], cwd=tmp_path, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        until(
            lambda: find_runs(tmp_path / "results") and len(only_run(tmp_path).metrics()) > 12,
            "rows",
            lambda: process.poll() is not None,
        )
        process.terminate()
        assert process.wait(timeout=100) == 143, (tmp_path / "log").read_text()
    assert (only_run(tmp_path).status, only_run(tmp_path).reason) == ("interrupted", "SIGTERM")
