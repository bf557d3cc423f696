"""A parsed configuration as plain values: what a digest is made of, and what a file keeps."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from runmodel_ext.cli.classes import described
from runmodel_ext.runs import canonical_json

_UNREADABLE = "Unable to serialize instance"  # how jsonargparse dumps an object that it has no words for
_OF_A_COMMAND = ("config", "ckpt_path", "verbose", "return_predictions")


@contextmanager
def objects_kept_as_they_are() -> Iterator[None]:
    """No warning that an object, which only a default can be, has no text: :func:`plain_config` sees to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=rf"\s*{_UNREADABLE}")
        yield


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


def config_text(config: Mapping[str, Any], parent: str | None) -> str:
    """The ``config.yaml`` of a run: what ``fit --config`` needs to make the same run.

    What belongs to one command and not to the configuration (``run.on_existing``, ``ckpt_path``) is left out.

    Args:
        config: The plain configuration.
        parent: The name of the run that ``--extend`` goes on with.
    """
    kept = {key: value for key, value in config.items() if key not in _OF_A_COMMAND}
    run = {key: value for key, value in config["run"].items() if key not in ("on_existing", "select", "untrained")}
    kept["run"] = {**run, "extend": parent}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _is_unreadable(parsed: Any, dumped: Any) -> bool:
    return not isinstance(parsed, str) and isinstance(dumped, str) and dumped.startswith(_UNREADABLE)
