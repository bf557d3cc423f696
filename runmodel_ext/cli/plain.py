"""A parsed configuration as plain values: what a digest is made of, and what a file keeps."""

import functools
import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type

from runmodel_ext.cli.identity import class_path
from runmodel_ext.runs import canonical_json

_UNREADABLE = "Unable to serialize instance"  # how jsonargparse dumps an object that it has no words for
_OF_A_COMMAND = ("config", "ckpt_path", "verbose", "return_predictions")
_SCALARS = (str, int, float, bool, type(None), Enum, Path)


def register_torch_types() -> None:
    """Let devices and dtypes be written as text: in a file, an option, a digest."""
    register_type(torch.device, str, torch.device, fail_already_registered=False)
    register_type(
        torch.dtype,
        lambda kind: str(kind).removeprefix("torch."),
        lambda name: getattr(torch, name),
        fail_already_registered=False,
    )


def plain_config(parsed: Any, dumped: Any, *, for_a_file: bool = False) -> Any:
    """A dumped configuration without what differs from process to process.

    What was parsed as a set is a sorted list, because the order of a dumped set follows the process's hash seed.
    An object that has no text, which only a default can be, is described; a file leaves it to the default.

    Args:
        parsed: The configuration as the parser returned it.
        dumped: The same, dumped.
        for_a_file: Whether a file is made of it, and not a digest.

    Example:
        >>> plain_config({"words": {"b", "a"}, "n": 1}, {"words": ["b", "a"], "n": 1})
        {'words': ['a', 'b'], 'n': 1}
    """
    if isinstance(parsed, (set, frozenset)) and isinstance(dumped, list):
        return sorted(dumped, key=canonical_json)
    if _is_unreadable(parsed, dumped):
        return described(parsed)
    if isinstance(dumped, dict) and hasattr(parsed, "get"):
        pairs = {key: (parsed.get(key), value) for key, value in dumped.items()}
        return {
            key: plain_config(one, other, for_a_file=for_a_file)
            for key, (one, other) in pairs.items()
            if not (for_a_file and _is_unreadable(one, other))
        }
    if isinstance(dumped, list) and isinstance(parsed, (list, tuple)) and len(parsed) == len(dumped):
        return [plain_config(one, other, for_a_file=for_a_file) for one, other in zip(parsed, dumped, strict=True)]
    return dumped


def described(value: Any) -> Any:
    """A value of any kind in plain words, the same in every process: a class by its path, an object by its class
    and those arguments that it keeps.

    Example:
        >>> described(torch.nn.Dropout(0.25))
        {'class_path': 'torch.nn.modules.dropout.Dropout', 'init_args': {'p': 0.25, 'inplace': False}}
    """  # noqa: D205
    if isinstance(value, Namespace):
        return {key: described(item) for key, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(map(described, value)) if type(value) in (list, tuple, set, frozenset) else value
    if isinstance(value, (torch.device, torch.dtype)):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) or inspect.isroutine(value):
        return class_path(value)
    if isinstance(value, functools.partial):
        return {"class_path": class_path(value.func), "init_args": described(value.keywords)}
    if type(value).__module__ in ("builtins", "pathlib", "datetime", "numpy") or isinstance(value, Enum):
        return value
    return {"class_path": class_path(type(value)), "init_args": _kept_arguments(value)}


def config_text(config: Mapping[str, Any], parent: str | None) -> str:
    """The ``config.yaml`` of a run: what ``fit --config`` needs to make the same run.

    What belongs to one command and not to the configuration (``run.on_existing``, ``ckpt_path``) is left out.

    Args:
        config: The plain configuration.
        parent: The name of the run that ``--extend`` goes on with.
    """
    kept = {key: value for key, value in config.items() if key not in _OF_A_COMMAND}
    kept["run"] = {key: value for key, value in config["run"].items() if key not in ("on_existing", "select", "untrained")}
    kept["run"]["extend"] = parent
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _is_unreadable(parsed: Any, dumped: Any) -> bool:
    return not isinstance(parsed, str) and isinstance(dumped, str) and dumped.startswith(_UNREADABLE)


def _kept_arguments(value: Any) -> dict[str, Any]:
    try:
        names = list(inspect.signature(type(value)).parameters)
    except (TypeError, ValueError):  # a class written in C may not tell
        return {}
    kept = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {name: item for name, item in kept.items() if isinstance(item, _SCALARS)}
