"""Locks that a living process holds, and that its death frees."""

import os
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
    """Whether a living process holds the lock of ``path``; readers write nothing, and do not disturb each other."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except ImportError:
        return path.exists() and not _could_take(path)
    except OSError:
        return path.exists()
    try:
        # Shared, so that two who ask at once do not see each other; closing the descriptor gives it back.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return not _could_take(path)  # a file system without such locks, where there is another kind
    finally:
        os.close(descriptor)
    return False


def _could_take(path: Path) -> bool:
    lock = try_lock(path, patience=0.0)
    if lock is not None:
        lock.release()
    return lock is not None
