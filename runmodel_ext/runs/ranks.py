"""Rank 0 decides; every other rank of the job takes the whole decision from it.

The ranks of one job are started in one of three ways, and each has its own channel:

- Lightning's launcher starts ranks as children of rank 0: the decision travels in their environment.
- ``torchrun`` starts all at once and keeps a key-value store: the decision travels through that.
- SLURM starts all at once on one file system: the decision travels in files named after job, step and restart.

In both, each rank gets a message of its own and takes it away, so that the next command of the same job or step
(a ``test`` after a ``fit``) cannot take it for its own.

Processes that are spawned or forked inside ``trainer.fit`` need no channel: their objects know the decision.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from runmodel_ext._files import write_json, write_whole
from runmodel_ext.errors import RanksError

_VARIABLE = "_RUNMODEL_DECISIONS"
_PATIENCE = 600.0  # seconds that a rank waits for rank 0's word
_A_DAY = 86_400.0

_own: list[dict[str, Any]] = []  # the decisions that this process took or was given, in order


def global_rank() -> int:
    """The rank of this process in its job, from the launchers' environment variables; 0 outside a job."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if _slurm_job() is not None:
        return int(os.environ["SLURM_PROCID"])
    if int(os.environ.get("LOCAL_RANK", 0)):
        return int(os.environ["LOCAL_RANK"])
    return int(os.environ.get("NODE_RANK", 0))


def publish(decision: Mapping[str, Any], root: Path) -> None:
    """Hand rank 0's decision to all ranks that there are or will be."""
    _own.append(dict(decision))
    os.environ[_VARIABLE] = json.dumps({"pid": os.getpid(), "decisions": _own})
    if (store := _torchrun_store()) is not None:
        for rank in range(1, int(os.environ["WORLD_SIZE"])):
            store.set(_key(rank, len(_own)), json.dumps(decision))
    elif (job := _slurm_job()) is not None:
        folder = root / ".ranks"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.json"):
            if time.time() - old.stat().st_mtime > _A_DAY:
                old.unlink(missing_ok=True)
        for rank in range(1, int(os.environ["SLURM_NTASKS"])):
            write_json(folder / f"{job}-{len(_own)}-rank-{rank}.json", dict(decision))


def receive(root: Path) -> dict[str, Any]:
    """Take rank 0's decision; for every rank but 0.

    Raises:
        RanksError: If there is no channel to rank 0, or it says nothing for ten minutes.
    """
    decision = _received(root)
    _own.append(decision)
    return decision


def leave_note(folder: Path, rank: int, reason: str) -> None:
    """Say, on a rank that gives up, why; it is the reason of the run if rank 0 does not live to write one.

    Args:
        folder: The folder of the attempt.
        rank: The rank.
        reason: Why, in one line.
    """
    write_whole(folder / f"rank-{rank}.error", f"rank {rank}: {reason}\n")


def first_note(folder: Path) -> str | None:
    """What the first rank that left a note wrote; ``None`` where none did."""
    for note in sorted(folder.glob("rank-*.error")):
        return note.read_text(encoding="utf-8").strip()
    return None


def _received(root: Path) -> dict[str, Any]:
    taken = len(_own)
    if (store := _torchrun_store()) is not None:
        return dict(json.loads(_take(store, _key(global_rank(), taken + 1))))
    if (job := _slurm_job()) is not None:
        return _wait_for(root / ".ranks" / f"{job}-{taken + 1}-rank-{global_rank()}.json")
    inherited = json.loads(os.environ.get(_VARIABLE, "{}"))
    if inherited.get("pid") == os.getppid() and len(inherited["decisions"]) > taken:
        return dict(inherited["decisions"][taken])
    raise RanksError(
        f"This process is rank {global_rank()} of a job, but rank 0 is not its parent, and neither torchrun nor SLURM "
        "started it. Start the job with torchrun, with SLURM, or as one process that launches the others."
    )


def _key(rank: int, number: int) -> str:
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"runmodel/{restart}/{number}/{rank}"


def _torchrun_store() -> Any:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_PATIENCE))


def _take(store: Any, key: str) -> str:
    from torch.distributed import DistError

    try:
        word = str(store.get(key).decode())
        store.delete_key(key)
    except (DistError, RuntimeError) as error:
        raise RanksError(
            f"Rank {global_rank()} heard nothing from rank 0 through torchrun's store: {error}."
        ) from error
    return word


def _slurm_job() -> str | None:
    if int(os.environ.get("SLURM_NTASKS", 1)) < 2 or "SLURM_PROCID" not in os.environ:
        return None
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # Lightning launches the ranks itself there
        return None
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return "-".join(os.environ.get(name, "0") for name in names)


def _wait_for(path: Path) -> dict[str, Any]:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if path.exists():
            decision = dict(json.loads(path.read_bytes()))
            path.unlink()
            return decision
        time.sleep(0.05)
    raise RanksError(
        f"Rank {global_rank()} waited {_PATIENCE:g} s for rank 0's decision in '{path}', which did not come. "
        "Is `run.root` on a file system that all nodes share?"
    )
