"""What a command does, and where: decided on rank 0, the same on every rank."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from runmodel_ext.errors import CheckpointError, NotFoundError, RanksError
from runmodel_ext.runs import (
    MISSING,
    SHOWN,
    Claim,
    Identity,
    NameTemplate,
    Run,
    RunWriter,
    begin_attempt,
    claim,
    command_line,
    global_rank,
    iter_runs,
    leave_note,
    match_run,
    nearest_run,
    publish,
    receive,
    remove_attempt,
    resolve_run,
)

_ANEW = "`fit` with `--run.on_existing overwrite` trains it again"


@dataclass(frozen=True)
class Decision:
    """Where a command writes and what it starts from; plain enough to travel between ranks.

    Args:
        action: ``new``, ``resume`` or ``done`` of a fit; ``evaluate``.
        path: The run's directory; for an evaluation that belongs to no run, where predictions go.
        folder: The folder of the attempt in it; empty where nothing is recorded.
        checkpoint: The checkpoint to load; ``None`` to start from the initial weights.
        digest: The digest of rank 0's configuration.
        seed: The seed of rank 0.
        notices: What the user should be told.
    """

    action: str
    path: str
    folder: str
    checkpoint: str | None
    digest: str
    seed: int | None
    notices: Sequence[str] = ()

    @property
    def run_path(self) -> Path:
        """The run's directory."""
        return Path(self.path)

    @property
    def writer(self) -> RunWriter | None:
        """The writer of the attempt; ``None`` where nothing is recorded."""
        return RunWriter(self.run_path, self.folder) if self.folder else None


class Decider:
    """Takes a decision on rank 0, and hands it to the others.

    Args:
        root: The directory under which all runs lie.
        template: How they are named.
        identity: What the configuration is, worked out on this rank.
    """

    def __init__(self, root: Path, template: NameTemplate, identity: Identity) -> None:
        self.root = root
        self.template = template
        self.identity = identity
        self.claim: Claim | None = None
        self._evaluation: RunWriter | None = None

    @property
    def lock(self) -> BaseFileLock | None:
        """The lock of the run, held by rank 0 while it fits."""
        return self.claim.lock if self.claim else None

    def fit(self, options: Mapping[str, Any], contents: Callable[[], Mapping[str, Any]]) -> Decision:
        """Make a run, go on with one, or find that it is done.

        Args:
            options: The ``run`` group of the configuration.
            contents: Makes what a new record holds, on rank 0 alone.
        """
        return self._shared(lambda: self._fit(options, contents))

    def evaluate(self, kind: str, options: Mapping[str, Any], ckpt_path: str | None) -> Decision:
        """Find the run and the checkpoint that a test, validation or prediction is about.

        Args:
            kind: ``"test"``, ``"validate"`` or ``"predict"``.
            options: The ``run`` group of the configuration.
            ckpt_path: What the user gave as ``--ckpt_path``.
        """
        return self._shared(lambda: self._evaluate(kind, options, ckpt_path))

    def abandon(self) -> None:
        """Take back what was begun, before anything came of it."""
        if self.claim is not None:
            self.claim.abandon()
        elif self._evaluation is not None:
            remove_attempt(self._evaluation)

    def _shared(self, decide: Callable[[], Decision]) -> Decision:
        if global_rank() == 0:
            try:
                decision = decide()
            except BaseException as error:
                publish({"error": str(error) or type(error).__name__}, self.root)
                raise
            publish(asdict(decision), self.root)
            return decision
        message = receive(self.root)
        if "error" in message:
            raise RanksError(f"Rank 0 stopped: {message['error']}")
        decision = Decision(**message)
        if decision.digest != self.identity.digest:
            refusal = (
                f"Rank {global_rank()} has another configuration than rank 0: digest {self.identity.digest[:8]} "
                f"instead of {decision.digest[:8]}. Give every rank the same arguments, files and code."
            )
            if decision.folder:
                leave_note(decision.run_path / decision.folder, global_rank(), refusal)
            raise RanksError(refusal)
        return decision

    def _fit(self, options: Mapping[str, Any], contents: Callable[[], Mapping[str, Any]]) -> Decision:
        found = contents()
        self.claim = claim(self.root, self.template, self.identity, options["on_existing"], found)
        run, writer = self.claim.run, self.claim.writer
        notices = [_added(run, self.claim.added)] if self.claim.added else []
        expected = self.root / self.template.family(self.identity.fields, self.identity.settings)
        if run.path.parent != expected and not self.claim.added:
            notices.append(f"This configuration has a run already, under the name '{run.name}'.")
        if self.claim.action == "done":
            if _changed_code(run, found.get("code")):
                notices.append(
                    f"The code has changed since '{run.name}' was trained; `--run.on_existing new` trains it anew."
                )
            if run.progress.get("epoch") and run.record.get("checkpoints") and run.checkpoint("best") is None:
                notices.append(f"The checkpoints of '{run.name}' are gone; {_ANEW}.")
            return self._decision("done", run.path, "", None, notices)
        assert writer is not None
        checkpoint = latest_checkpoint(run) if self.claim.action == "resume" else None
        if checkpoint is None:
            parent = found.get("parent")
            checkpoint = parent["checkpoint"] if parent else options.get("start")
        return self._decision(self.claim.action, run.path, writer.folder, checkpoint, notices)

    def _evaluate(self, kind: str, options: Mapping[str, Any], ckpt_path: str | None) -> Decision:
        if options["untrained"]:
            return self._decision("evaluate", self._unrecorded(kind), "", None, ["The weights are untrained."])
        which = ckpt_path if ckpt_path in ("best", "last") else None
        if ckpt_path is not None and which is None:
            run = _owner(Path(ckpt_path))
            if run is None:
                return self._decision("evaluate", self._unrecorded(kind), "", ckpt_path, [])
            return self._begin(kind, run, ckpt_path, [])
        run, notices = self._find(options)
        checkpoint = run.checkpoint("last" if which == "last" else "best")
        if checkpoint is None:
            raise CheckpointError(
                f"The run '{run.path}' ({run.status}) has no checkpoint to {kind}. "
                f"Name one with `--ckpt_path`, or fit it: {_ANEW} where it is finished."
            )
        return self._begin(kind, run, str(checkpoint), notices)

    def _unrecorded(self, kind: str) -> Path:
        return self.root / ".unrecorded" / f"{kind}-{self.identity.digest[:SHOWN]}-{os.getpid()}"

    def _find(self, options: Mapping[str, Any]) -> tuple[Run, list[str]]:
        if options["select"] is not None:
            run = resolve_run(options["select"], self.root)
            notices = [] if run.status in ("finished", "adopted") else [f"The run '{run.name}' is {run.status}."]
            return run, notices
        identity = self.identity
        everything = list(iter_runs(self.root))
        of_seed = [run for run in everything if run.seed == identity.seed and run.record["status"] != "adopted"]
        found, added = match_run(identity.digest, identity.settings, identity.defaults, of_seed)
        finished = [run for run in found if run.status == "finished"]
        if not finished:
            raise NotFoundError(self._nothing_fits(found, everything))
        run = max(finished, key=lambda run: (run.version, run.created))
        return run, [_added(run, added)] if added else []

    def _nothing_fits(self, found: Sequence[Run], everything: Sequence[Run]) -> str:
        wanted = f"No finished run of this configuration (digest {self.identity.digest[:8]}, seed {self.identity.seed})"
        if found:
            run = found[-1]
            return (
                f"{wanted} under '{self.root}': '{run.name}' is {run.status}. "
                f"Run `fit` again to continue it, or evaluate it as it is with `--run {run.path}`."
            )
        others = [run for run in everything if run.digest == self.identity.digest and run.status == "finished"]
        if others:
            seeds = ", ".join(str(run.seed) for run in others[:5])
            advice = f"Give that `--seed_everything`, or `--run {others[0].path}`."
            return f"{wanted} under '{self.root}', but with seed {seeds}. {advice}"
        near = nearest_run(self.identity.settings, everything)
        if near is None:
            return f"{wanted} under '{self.root}', which holds none. Run `fit` first, or insist with `--untrained`."
        advice = "Run `fit` first, choose it with `--run`, or insist with `--untrained`."
        return f"{wanted} under '{self.root}'. {nearest_text(*near)} {advice}"

    def _begin(self, kind: str, run: Run, checkpoint: str, notices: list[str]) -> Decision:
        self._evaluation = writer = begin_attempt(run.path, kind, command_line())
        return self._decision("evaluate", run.path, writer.folder, checkpoint, notices)

    def _decision(self, action: str, path: Path, folder: str, checkpoint: str | None, notices: list[str]) -> Decision:
        return Decision(action, str(path), folder, checkpoint, self.identity.digest, self.identity.seed, notices)


def latest_checkpoint(run: Run) -> str | None:
    """The newest checkpoint to go on from: the last epoch's, or one that SLURM's requeueing saved after it."""
    candidates = list((run.path / "checkpoints").glob("last*.ckpt"))
    candidates += run.path.glob("hpc_ckpt_*.ckpt")
    newest = max(candidates, key=lambda path: path.stat().st_mtime, default=None)
    return str(newest) if newest else None


def nearest_text(run: Run, found: Mapping[str, tuple[Any, Any]]) -> str:
    """The nearest run and how it differs, as one sentence."""
    pairs = [f"{key}={_shown(there)} (wanted {_shown(wanted)})" for key, (wanted, there) in list(found.items())[:6]]
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return f"The nearest is '{run.name}' ({run.status}), with {', '.join(pairs)}{more}."


def _shown(value: Any) -> str:
    return "unset" if value is MISSING else str(value)


def _added(run: Run, keys: Sequence[str]) -> str:
    return f"The run '{run.name}' was made before {', '.join(keys)} existed; at the default it is the same."


def _changed_code(run: Run, code: Any) -> bool:
    return bool(code and run.code and code.get("digest") != run.code.get("digest"))


def _owner(checkpoint: Path) -> Run | None:
    for directory in checkpoint.resolve().parents:
        if (directory / "run.json").is_file():
            return Run.read(directory)
    return None
