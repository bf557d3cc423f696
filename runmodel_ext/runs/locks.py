"""Locks that a living process holds, and that its death frees."""

from pathlib import Path
from typing import TYPE_CHECKING

from runmodel_ext._files import refusals_explained

if TYPE_CHECKING:
    from filelock import BaseFileLock

# A reader that asks whether a lock is held takes it for an instant: a writer waits that long before it gives up.
PATIENCE = 2.0


def try_lock(path: Path, patience: float = PATIENCE) -> "BaseFileLock | None":
    """Take the lock of ``path``, which is freed with this process, however it ends.

    Args:
        path: The lock's file; its directory must exist.
        patience: How long to wait for it, in seconds.

    Returns:
        The lock, held; ``None`` if another process holds it.
    """
    from filelock import FileLock, Timeout  # reading a thousand runs asks for no lock, and need not wait for this

    lock = FileLock(path, thread_local=False)
    try:
        with refusals_explained(path):
            lock.acquire(timeout=patience, poll_interval=0.02)
    except Timeout:
        return None
    return lock


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of ``path``; never creates the file."""
    if not path.exists():
        return False
    lock = try_lock(path, patience=0.0)
    if lock is None:
        return True
    lock.release()
    return False
