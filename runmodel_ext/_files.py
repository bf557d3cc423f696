"""Whole-or-nothing writes, and digests of files."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from runmodel_ext.errors import StorageError

_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EACCES: "there is no permission to write there",
    errno.EPERM: "there is no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the path is longer than this system allows",
    errno.ENOTDIR: "a part of the path is a file, not a directory",
}


def storage_error(error: OSError, path: str | os.PathLike[str]) -> StorageError | None:
    """The refusal of a disk as one sentence; ``None`` where the error is of another kind.

    Example:
        >>> import errno
        >>> str(storage_error(OSError(errno.ENOSPC, "No space left on device"), "results/run.json"))
        "Cannot write 'results/run.json': the disk is full. Free some space or choose another `run.root`."
    """
    if error.errno not in _REFUSALS:
        return None
    advice = "Free some space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
    message = f"Cannot write '{os.fspath(path)}': {_REFUSALS[error.errno]}. {advice} another `run.root`."
    return StorageError(message)


@contextmanager
def refusals_explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a disk's refusal inside the block into a :class:`StorageError` that names ``path``.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        yield
    except OSError as error:
        explained = storage_error(error, path)
        if explained is None:
            raise
        raise explained from error


def make_directory(path: Path) -> None:
    """Make a directory, with those above it; one that is there is left as it is.

    Raises:
        StorageError: If the disk refuses, or something else is in its place.
    """
    with refusals_explained(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StorageError(f"Cannot make the directory '{path}': a file is in its place.") from error
        except FileNotFoundError as error:  # as where the working directory is gone, or below /proc
            raise StorageError(f"Cannot make the directory '{path}': nothing can be made there.") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is written entirely or not at all, whatever dies when.

    The content goes to a temporary file beside ``path``, is synced, and takes the name in one step.

    Raises:
        StorageError: If the disk refuses; an earlier file of that name stays as it was.
    """
    with refusals_explained(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file entirely or not at all, as :func:`whole_file` does.

    Raises:
        StorageError: If the disk refuses; an earlier file of that name stays as it was.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, entirely or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    # The process's mask can only be read by setting it; two threads that do so agree on the value.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
