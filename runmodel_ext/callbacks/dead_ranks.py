"""Why a job of several ranks failed: the rank that died, not those that lost it afterwards."""

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from runmodel_ext.runs import RunWriter, first_note, leave_note

# How gloo, NCCL and sockets say that the process at the other end is gone.
_LOST_PEER = ("closed by peer", "reset by peer", "Broken pipe", "NCCL", "gloo/transport")
_STOPPED = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT)
_LOOK_EVERY = 0.5  # seconds
_DYING = 2.0  # seconds that a process may take from closing its connections to its end


class DeadRanks:
    """What rank 0 knows of the ranks that died: the notes that they left, and the end of those that it launched.

    Args:
        writer: The writer of the attempt, in whose folder the notes lie.
    """

    def __init__(self, writer: RunWriter) -> None:
        self.folder = writer.path / writer.folder
        self._processes: Sequence[subprocess.Popen[Any]] = ()
        self._stop: threading.Event | None = None

    def leave_note(self, rank: int, reason: str) -> None:
        """Say, on a rank that dies of an error of its own, which one."""
        leave_note(self.folder, rank, reason)

    def watch(self, processes: Sequence[subprocess.Popen[Any]], tell: Callable[[str], None]) -> None:
        """Watch the processes of rank 1 and up, until :meth:`stop`; ``tell`` is given the reason when one dies."""
        self._processes = processes
        self._stop = stop = threading.Event()

        def look() -> None:
            while not stop.wait(_LOOK_EVERY):
                if any(_has_failed(process) for process in processes):
                    tell(self.reason() or "a rank died")
                    return

        threading.Thread(target=look, name="runmodel-rank-watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        if self._stop is not None:
            self._stop.set()

    def reason(self, wait: bool = False) -> str | None:
        """Which rank died, and of what; ``None`` where none is known to have.

        Args:
            wait: Whether a rank is about to die, so that waiting a moment for its end makes sense.
        """
        if wait and self._processes:
            self._await_an_end()
        if (note := first_note(self.folder)) is not None:
            return note
        for rank, process in enumerate(self._processes, start=1):
            if _has_failed(process):
                return f"rank {rank} ended with exit code {process.returncode}"
        return None

    def _await_an_end(self) -> None:
        pause = threading.Event()
        for _ in range(int(_DYING / 0.05)):
            if any(process.poll() is not None for process in self._processes):
                return
            pause.wait(0.05)

    def __getstate__(self) -> dict[str, Any]:
        # Neither an event nor a process can travel to a spawned process, which watches nobody.
        return {**self.__dict__, "_stop": None, "_processes": ()}


def lost_a_peer(exception: BaseException) -> bool:
    """Whether an error only says that another rank is gone.

    Example:
        >>> lost_a_peer(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:2730"))
        True
    """
    return isinstance(exception, RuntimeError) and any(word in str(exception) for word in _LOST_PEER)


def _has_failed(process: "subprocess.Popen[Any]") -> bool:
    code = process.poll()
    return code not in (None, 0, *_STOPPED)
