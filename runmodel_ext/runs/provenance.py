"""What code and what machine a run was made with."""

import hashlib
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from runmodel_ext._version import __version__

_LARGEST_PATCH = 5_000_000  # bytes; a patch beyond that is data by mistake, and its digest is enough
_LARGEST_NEW_FILE = 200_000  # bytes


def code_state(directory: Path, leave_out: Path) -> tuple[dict[str, Any] | None, str]:
    """The git state of the code, and the patch that leads from its commit to it.

    Args:
        directory: Where the user's code lies: the current directory.
        leave_out: A directory whose files are results, not code, though git may not ignore it.

    Returns:
        Commit, branch, whether it is dirty and the digest of it all, with the patch as text;
        ``(None, "")`` outside git.
    """
    top = _git(directory, "rev-parse", "--show-toplevel").strip()
    commit = _git(directory, "rev-parse", "HEAD").strip()
    if not top or not commit:
        return None, ""
    inside = leave_out.resolve()
    paths = ["--", "."]
    if inside.is_relative_to(Path(top)) and inside != Path(top):
        paths.append(f":(exclude,top,literal){inside.relative_to(top).as_posix()}")
    patch = _git(Path(top), "diff", "--no-ext-diff", "HEAD", *paths)
    names = _git(Path(top), "ls-files", "--others", "--exclude-standard", "-z", *paths).split("\0")
    patch += "".join(_new_file(Path(top), name) for name in sorted(filter(None, names)))
    state = {
        "commit": commit,
        "branch": _git(directory, "rev-parse", "--abbrev-ref", "HEAD").strip(),
        "dirty": bool(patch),
        "digest": hashlib.sha256((commit + patch).encode()).hexdigest(),
    }
    return state, patch if len(patch) <= _LARGEST_PATCH else ""


def environment() -> dict[str, Any]:
    """Versions and the machine, without importing what is not imported yet."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "lightning", "torchmetrics", "jsonargparse")},
        "runmodel_ext": __version__,
        "host": platform.node(),
        "platform": platform.platform(terse=True),
        **_devices(),
    }


def _devices() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {"cuda": None, "devices": platform.machine()}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cuda": torch.version.cuda, "devices": ", ".join(names)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _new_file(top: Path, name: str) -> str:
    path = top / name
    if not path.is_file() or path.is_symlink() or path.stat().st_size > _LARGEST_NEW_FILE:
        return f"diff --git a/{name} b/{name}\nnew file, not kept\n"
    # Exit status 1 says "they differ", which they do.
    return _git(top, "diff", "--no-ext-diff", "--no-index", "--", "/dev/null", name, accept=(0, 1))


def _git(directory: Path, *words: str, accept: tuple[int, ...] = (0,)) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), "-c", "core.quotePath=false", *words], capture_output=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.decode(errors="replace") if done.returncode in accept else ""
