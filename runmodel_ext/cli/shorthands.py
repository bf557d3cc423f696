"""What a user types, as the parser reads it: ``--run last`` becomes a configuration and an option."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from runmodel_ext.errors import ConfigError, NotFoundError
from runmodel_ext.runs import DEFAULT_ROOT, Run, resolve_run

_SHORT = {"--run": "--run.select", "--extend": "--run.extend"}
COMMANDS = ("fit", "validate", "test", "predict")


def expand(args: Sequence[str], own_classes: bool = False) -> list[str]:
    """Write out ``--run RUN``, ``--extend RUN`` and ``--untrained``.

    A run that is named brings its own configuration, before everything that the user wrote, so that the
    user's arguments count.

    Args:
        args: The arguments, the command first or after options of its own.
        own_classes: Whether the caller has classes of its own, so that a configuration need not name them.

    Raises:
        NotFoundError: If no run fits, or several do.
        ConfigError: If an option lacks its value, or stands at a command that has no use for it.

    Example:
        >>> expand(["test", "--untrained", "--config", "c.yaml"])
        ['test', '--run.untrained=true', '--config', 'c.yaml']
    """
    words: list[str] = []
    reference: tuple[str, str] | None = None
    rest = iter(args)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _SHORT or name in _SHORT.values():
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"`{name}` needs a run: its path, its name, the start of its digest, or 'last'.")
            reference = (_SHORT.get(name, name), value)
        elif word == "--untrained":
            words.append("--run.untrained=true")
        else:
            words.append(word)
    if reference is None:
        return words
    return _with_run(words, *reference, own_classes)


def _with_run(words: list[str], option: str, reference: str, own_classes: bool) -> list[str]:
    place = next((i for i, word in enumerate(words) if word in COMMANDS), None)
    if place is None or (words[place] == "fit") != (option == "--run.extend"):
        short = next(name for name, long in _SHORT.items() if long == option)
        allowed = "`fit`" if option == "--run.extend" else "`test`, `validate` or `predict`"
        raise ConfigError(f"`{short}` goes with {allowed}, but found `{' '.join(words[:1])}`.")
    run = resolve_run(reference, _root(words))
    if not run.config_path.is_file():
        raise NotFoundError(f"The run '{run.path}' has no `{run.config_path.name}` to build its model from.")
    root = [] if _gives_root(words) else [f"--run.root={_root_of(run)}"]
    config = run.config_path if own_classes else _with_classes(run)
    return [*words[: place + 1], f"--config={config}", f"{option}={run.path}", *root, *words[place + 1 :]]


def _with_classes(run: Run) -> Path | str:
    """The configuration of a run, as a file or as text; that of a script gets the classes that the script has."""
    config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    missing = [key for key in ("model", "data") if _lacks_class(config.get(key)) and key in run.settings]
    if not missing:
        return run.config_path
    wrapped = {key: {"class_path": run.settings[key], "init_args": config[key]} for key in missing}
    return str(yaml.safe_dump({**config, **wrapped}))


def _lacks_class(section: object) -> bool:
    return isinstance(section, dict) and "class_path" not in section


def _root_of(run: Run) -> Path:
    """The root under which a run lies: its path without its name."""
    depth = len(Path(run.name).parts)
    return run.path.parents[depth - 1] if len(run.path.parents) >= depth else Path(DEFAULT_ROOT)


def _gives_root(words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] == "--run.root" for word in words)


def _root(words: Sequence[str]) -> str:
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--run.root":
            return value if equals else words[place + 1] if place + 1 < len(words) else DEFAULT_ROOT
    return DEFAULT_ROOT
