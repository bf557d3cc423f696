"""Checkpoints that a user names: whether they are some, and how they differ from the arguments."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runmodel_ext.cli.classes import canonical_classes
from runmodel_ext.errors import CheckpointError
from runmodel_ext.runs import flatten, same


def check_checkpoint(path: str | Path, trusted: bool = False) -> dict[str, Any]:
    """Refuse what is no Lightning checkpoint, and return the hyperparameters that are readable without pickle.

    Args:
        path: A local file, or a URL, which is left to Lightning.
        trusted: Whether the user lets it build any object, as ``--weights_only false`` says.

    Raises:
        CheckpointError: If the file is missing, damaged, another kind of file, or needs to be trusted.
    """
    if "://" in str(path):
        return {}
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint '{path}'. Check the path, or leave it out.")
    if path.is_dir():  # sharded by the strategy, which alone can read it
        return {}
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"'{path}' is not a checkpoint, or a damaged one ({path.stat().st_size} bytes).")
    content = _content(path, trusted)
    if content is None:
        return {}
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"'{path}' holds no `state_dict`, so it is not a checkpoint of Lightning.")
    if "pytorch-lightning_version" not in content:
        advice = "Load it in the `__init__` of your module."
        raise CheckpointError(f"'{path}' holds weights alone, and is no checkpoint of Lightning. {advice}")
    return dict(content.get("hyper_parameters") or {})


def _content(path: Path, trusted: bool) -> Any:
    """What a file holds, as far as it is plain; ``None`` where it needs trust, and has it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        if found and trusted:
            return None
        if found:
            raise CheckpointError(
                f"The checkpoint '{path}' holds an object of {found[1]}, which torch builds only from a file that you "
                "trust. Give `--weights_only false` if you do."
            ) from error
        raise CheckpointError(f"The checkpoint '{path}' is damaged: its index cannot be read.") from error
    except PermissionError as error:
        raise CheckpointError(f"The checkpoint '{path}' cannot be read: there is no permission.") from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise CheckpointError(f"The checkpoint '{path}' is damaged, or none: {why}.") from error


def differences(hyperparameters: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where a checkpoint's settings differ from those asked for: key, the checkpoint's value, the value asked for.

    Args:
        hyperparameters: What :func:`check_checkpoint` returned.
        settings: The flat settings of the configuration.
    """
    if not hyperparameters:
        return {}
    own = {name: value for name, value in hyperparameters.items() if not name.startswith("_")}
    spec = {"class_path": hyperparameters["_class_path"], "init_args": own} if "_class_path" in hyperparameters else own
    made_with = flatten(canonical_classes({"model": spec}))
    return {
        key: (value, settings[key])
        for key, value in made_with.items()
        if key in settings and not same(value, settings[key])
    }


def tell_differences(path: str | Path, found: Mapping[str, tuple[Any, Any]]) -> str:
    """One line that says which of a checkpoint's settings the arguments override.

    Example:
        >>> tell_differences("a.ckpt", {"model.lr": (0.001, 0.5)})
        'The checkpoint a.ckpt was made with other settings, the arguments count: model.lr=0.5 (there 0.001).'
    """
    pairs = ", ".join(f"{key}={wanted} (there {there})" for key, (there, wanted) in found.items())
    return f"The checkpoint {path} was made with other settings, the arguments count: {pairs}."
