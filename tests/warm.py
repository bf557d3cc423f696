"""Commands in processes of their own that need not import torch again: each is forked from one that has.

A real ``runmodel fit`` spends seven seconds on imports; a test that kills twenty of them would do little else.
``python -m tests.warm`` imports once, then forks a child for each line that it reads, which runs one command in a
process group of its own, with its output in a file.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PATIENCE = 120.0  # seconds; a bound for what takes a few
_pause = threading.Event()


class Command:
    """A command that runs in a process of its own.

    Args:
        pid: Its process.
        output: The file of what it printed.
        server: The server that waits for it.
    """

    def __init__(self, pid: int, output: Path, server: "Warm") -> None:
        self.pid = pid
        self.output = output
        self._server = server
        self._code: int | None = None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """Wait for its end: its exit code, negative for the signal that ended it; one that hangs is killed."""
        for _ in range(int(_PATIENCE / 0.005)):
            if (code := self.poll()) is not None:
                return code
            _pause.wait(0.005)
        os.killpg(self.pid, signal.SIGKILL)
        raise AssertionError(f"It did not end within {_PATIENCE:g} s:\n{self.text}")

    def poll(self) -> int | None:
        """Its exit code, or ``None`` while it runs."""
        if self._code is None:
            self._code = self._server.ask({"poll": self.pid})["code"]
        return self._code

    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.poll() is not None

    @property
    def text(self) -> str:
        """What it printed so far, on both channels."""
        return self.output.read_text(errors="replace")


class Warm:
    """The server; ``with Warm() as warm: warm.start(["fit", …], log).wait()``."""

    def __enter__(self) -> "Warm":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.ask({})
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(
        self, args: Sequence[str], output: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Command:
        """Begin ``runmodel *args``."""
        where = str(cwd or Path(__file__).parents[1])
        request = {"args": [str(arg) for arg in args], "output": str(output), "cwd": where, "env": dict(env or {})}
        return Command(self.ask(request)["pid"], output, self)

    def run(self, args: Sequence[str], output: Path, cwd: Path | None = None) -> tuple[int, str]:
        """Run ``runmodel *args`` to its end: its exit code, and what it printed."""
        command = self.start(args, output, cwd)
        return command.wait(), command.text

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One question to the server, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    import torch

    import runmodel_ext.data
    import runmodel_ext.modules
    import runmodel_ext.networks  # noqa: F401
    from runmodel_ext.cli.run_cli import RunCLI  # noqa: F401

    torch.set_num_threads(1)  # a process that forks must not have threads that hold locks
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "args" in request:
            answer["pid"] = _fork(request)
        elif "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer["code"] = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    os._exit(_main(request["args"]))


def _main(args: Sequence[str]) -> int:
    from runmodel_ext.cli.main import main

    sys.argv = ["runmodel", *args]
    code: object = 0
    try:
        main(args)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    _serve()
