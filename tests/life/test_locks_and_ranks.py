"""Locks, claims and the messages between ranks, without torch."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runmodel_ext.errors import NotFoundError, RanksError, RunBusyError, RunExistsError
from runmodel_ext.runs import Claim, Identity, NameTemplate, Run, RunWriter, begin_attempt, claim, find_runs, ranks
from runmodel_ext.runs.locks import is_held, try_lock
from tests.life.kit import until

ROOT = Path(__file__).parents[2]
TEMPLATE = NameTemplate("{data}/{model}/{changes}-{digest}/seed={seed}/v{version}", {})
CONTENTS: Mapping[str, Any] = {"config": "model: a\n", "patch": "", "tags": [], "notes": ""}


def identity(seed: int = 0, lr: float = 0.1) -> Identity:
    digest = f"{int(lr * 1000):052d}"
    fields = {"data": "digits", "model": "cnn", "changes": f"lr={lr}", "digest": digest, "seed": seed}
    settings = {"model.lr": lr}
    return Identity(digest, seed, settings, {}, {"model.lr": 0.001}, ["model.lr"], fields)


def take(root: Path, on_existing: Any = "auto", seed: int = 0) -> Claim:
    return claim(root, TEMPLATE, identity(seed), on_existing, CONTENTS)


def finish(taken: Claim) -> None:
    assert taken.writer is not None
    taken.writer.end("finished")
    taken.release()


class TestLocks:
    def test_one_holder_at_a_time(self, tmp_path: Path) -> None:
        lock = try_lock(tmp_path / ".lock")
        assert lock is not None
        assert try_lock(tmp_path / ".lock", patience=0.0) is None
        assert is_held(tmp_path / ".lock")
        lock.release()
        assert not is_held(tmp_path / ".lock")

    def test_asking_creates_nothing_and_needs_no_permission_to_write(self, tmp_path: Path) -> None:
        assert not is_held(tmp_path / ".lock")
        assert not list(tmp_path.iterdir())
        (tmp_path / ".lock").touch(mode=0o444)
        assert not is_held(tmp_path / ".lock")

    def test_many_who_ask_at_once_do_not_see_each_other(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").touch()
        with ThreadPoolExecutor(8) as pool:
            assert not any(pool.map(lambda _: is_held(tmp_path / ".lock"), range(2000)))

    @pytest.mark.parametrize("forked", [False, True], ids=["alone", "with a forked worker"])
    def test_a_killed_holder_frees_it(self, tmp_path: Path, forked: bool) -> None:
        program = (
            "import os, signal, sys; from pathlib import Path; from runmodel_ext.runs.locks import try_lock\n"
            f"lock = try_lock(Path({str(tmp_path / '.lock')!r}))\n"
            f"pid = os.fork() if {forked} else 1\n"
            "print('held', pid, flush=True) if pid else None\n"
            "signal.pause()"
        )
        holder = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        worker = int(holder.stdout.readline().split()[1])
        try:
            assert is_held(tmp_path / ".lock")
            holder.kill()
            holder.wait()
            until(lambda: not is_held(tmp_path / ".lock"), "free lock")
        finally:
            holder.stdout.close()
            if forked:
                os.kill(worker, signal.SIGKILL)


class TestClaims:
    def test_the_first_makes_the_run_and_the_second_is_told_who_holds_it(self, tmp_path: Path) -> None:
        first = take(tmp_path)
        assert first.action == "new"
        assert first.run.status == "running"
        with pytest.raises(RunBusyError, match=rf"being trained by process {os.getpid()} on \S+ since "):
            take(tmp_path)
        first.release()
        assert take(tmp_path).action == "resume"

    def test_threads_that_claim_new_runs_at_once_get_versions_without_gaps(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: take(tmp_path, "new"), range(24)))
        assert sorted(one.run.version for one in taken) == list(range(1, 25))
        assert len({one.run.path for one in taken}) == 24
        for one in taken:
            one.release()

    def test_processes_that_claim_one_run_at_once_leave_it_to_one(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from tests.life import test_locks_and_ranks as t\n"
            "sys.stdin.readline()\n"
            "try: taken = t.take(Path(sys.argv[1])); print(taken.action, flush=True)\n"
            "except t.RunBusyError as error: print('busy', flush=True)\n"
            "sys.stdin.readline()"
        )
        command = [sys.executable, "-c", program, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(4)]  # type: ignore[call-overload]
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.stdout.readline().strip() for process in started]
        for process in started:
            process.communicate("end\n")
        assert sorted(said) == ["busy", "busy", "busy", "new"]
        assert len(find_runs(tmp_path)) == 1

    def test_a_claim_that_is_abandoned_leaves_no_directory(self, tmp_path: Path) -> None:
        take(tmp_path / "results").abandon()
        assert not (tmp_path / "results").exists()

    def test_an_abandoned_claim_spares_what_others_made(self, tmp_path: Path) -> None:
        finish(take(tmp_path))
        take(tmp_path, "new").abandon()
        (run,) = find_runs(tmp_path)
        assert (run.version, run.status) == (1, "finished")
        assert sorted(path.name for path in run.path.parent.iterdir()) == [".lock", "v1"]

    def test_a_resume_that_is_abandoned_leaves_the_run_as_it_was(self, tmp_path: Path) -> None:
        first = take(tmp_path)
        assert first.writer is not None
        first.writer.end("interrupted", "Ctrl-C")
        first.release()
        take(tmp_path).abandon()
        (run,) = find_runs(tmp_path)
        assert (run.status, run.reason) == ("interrupted", "Ctrl-C")
        assert [entry["folder"] for entry in run.attempts] == ["fit-1"]
        assert not (run.path / "fit-2").exists()

    def test_what_a_process_left_that_died_before_its_record_is_used_again(self, tmp_path: Path) -> None:
        path = tmp_path / TEMPLATE.fill({**identity().fields, "version": 1}, identity().settings)
        path.mkdir(parents=True)
        (path / ".lock").touch()
        (path / "config.yaml").write_text("half")
        (path / ".run.json.x1.tmp").write_text("{")
        taken = take(tmp_path)
        assert taken.run.path == path
        assert (path / "config.yaml").read_text() == CONTENTS["config"]
        assert not list(path.glob(".*.tmp"))

    def test_a_strange_directory_in_the_way_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / TEMPLATE.fill({**identity().fields, "version": 1}, identity().settings)
        path.mkdir(parents=True)
        (path / "thesis.tex").write_text("mine")
        assert take(tmp_path).run.version == 2
        assert [entry.name for entry in path.iterdir()] == ["thesis.tex"]

    def test_seeds_stand_side_by_side(self, tmp_path: Path) -> None:
        first, second = take(tmp_path, seed=0), take(tmp_path, seed=1)
        assert first.run.path.parent.parent == second.run.path.parent.parent
        assert (first.run.version, second.run.version) == (1, 1)

    def test_overwrite_refuses_while_the_run_is_trained(self, tmp_path: Path) -> None:
        held = take(tmp_path)
        with pytest.raises(RunBusyError, match="is being trained by process"):
            take(tmp_path, "overwrite")
        held.release()
        assert take(tmp_path, "overwrite").run.version == 1
        assert len(find_runs(tmp_path)) == 1

    def test_error_and_resume_refuse_what_they_say(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match="No run of this configuration"):
            take(tmp_path / "results", "resume")
        assert not (tmp_path / "results").exists()
        finish(take(tmp_path))
        with pytest.raises(RunExistsError, match=r"is there already \(finished\)"):
            take(tmp_path, "error")


class TestWriter:
    def test_updates_from_many_threads_lose_nothing(self, tmp_path: Path) -> None:
        taken = take(tmp_path)
        writers = [RunWriter(taken.run.path, "fit-1") for _ in range(20)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: pair[1].set_scores({str(pair[0]): {"value": 1.0}}), enumerate(writers)))
        assert len(Run.read(taken.run.path).scores) == 20

    def test_attempts_begun_at_once_get_folders_of_their_own(self, tmp_path: Path) -> None:
        path = take(tmp_path).run.path
        with ThreadPoolExecutor(8) as pool:
            begun = list(pool.map(lambda _: begin_attempt(path, "test", ["runmodel", "test"]), range(8)))
        assert sorted(writer.folder for writer in begun) == [f"test-{number}" for number in range(1, 9)]
        assert len(Run.read(path).attempts) == 9

    def test_a_reader_never_sees_half_a_record(self, tmp_path: Path) -> None:
        taken = take(tmp_path)
        over = threading.Event()

        def write() -> None:
            for number in range(60):
                RunWriter(taken.run.path, "fit-1").set_scores({str(number): {"value": number}})
            over.set()

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(write)
            seen = [len(Run.read(taken.run.path).scores) for _ in iter(over.is_set, True)]
            done.result()
        assert seen == sorted(seen)

    def test_a_new_attempt_closes_the_one_that_was_killed(self, tmp_path: Path) -> None:
        take(tmp_path).release()
        run = take(tmp_path).run
        assert [(entry["status"], entry["reason"]) for entry in run.attempts] == [
            ("interrupted", "the process was killed"),
            ("running", None),
        ]


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that belongs to no job yet, and has decided nothing."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "SLURM_PROCID", ranks._VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ranks, "_own", [])
    return monkeypatch


class TestRanks:
    @pytest.mark.parametrize(
        ("variables", "rank"),
        [
            ({}, 0),
            ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
            ({"LOCAL_RANK": "2"}, 2),
            ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, 3),
            ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, 0),
            ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "bash"}, 0),
        ],
    )
    def test_the_rank_is_read_from_the_launcher(
        self, job: pytest.MonkeyPatch, variables: dict[str, str], rank: int
    ) -> None:
        for name, value in variables.items():
            job.setenv(name, value)
        assert ranks.global_rank() == rank

    def test_slurm_tasks_take_their_own_message_once(self, job: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name, value in {"SLURM_NTASKS": "3", "SLURM_JOB_ID": "9", "SLURM_PROCID": "0"}.items():
            job.setenv(name, value)
        ranks.publish({"path": "a"}, tmp_path)
        for rank in ("1", "2"):
            job.setattr(ranks, "_own", [])
            job.setenv("SLURM_PROCID", rank)
            assert ranks.receive(tmp_path) == {"path": "a"}
        assert not list((tmp_path / ".ranks").iterdir())

    def test_a_task_that_waits_in_vain_says_where_it_looked(self, job: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "9", "SLURM_PROCID": "1"}.items():
            job.setenv(name, value)
        job.setattr(ranks, "_PATIENCE", 0.1)
        looked = r"waited 0.1 s for rank 0's decision in '.*\.ranks.*', which did not come"
        with pytest.raises(RanksError, match=looked):
            ranks.receive(tmp_path)

    def test_a_launched_rank_takes_the_decisions_of_its_parent_in_order(
        self, job: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        job.setenv("LOCAL_RANK", "1")
        decisions = [{"path": "a"}, {"path": "b"}]
        job.setenv(ranks._VARIABLE, json.dumps({"pid": os.getppid(), "decisions": decisions}))
        assert [ranks.receive(tmp_path), ranks.receive(tmp_path)] == decisions
        with pytest.raises(RanksError, match="Start the job with torchrun, with SLURM, or as one process"):
            ranks.receive(tmp_path)

    def test_an_environment_that_a_stranger_left_is_not_believed(self, job: pytest.MonkeyPatch, tmp_path: Path) -> None:
        job.setenv("LOCAL_RANK", "1")
        job.setenv(ranks._VARIABLE, json.dumps({"pid": 1, "decisions": [{"path": "a"}]}))
        with pytest.raises(RanksError, match="This process is rank 1 of a job, but rank 0 is not its parent"):
            ranks.receive(tmp_path)

    def test_torchrun_ranks_take_their_own_message_once(self, job: pytest.MonkeyPatch, tmp_path: Path) -> None:
        distributed = pytest.importorskip("torch.distributed")
        store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "RANK": "0"}
        for name, value in {**common, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
            job.setenv(name, value)
        ranks.publish({"path": "a"}, tmp_path)
        job.setattr(ranks, "_own", [])
        job.setenv("RANK", "1")
        assert ranks.receive(tmp_path) == {"path": "a"}
        job.setattr(ranks, "_own", [])
        job.setattr(ranks, "_PATIENCE", 0.2)
        with pytest.raises(RanksError, match="heard nothing from rank 0 through torchrun's store"):
            ranks.receive(tmp_path)
