"""What a parser refuses, said in one sentence: what was asked, what was found, what to do.

A text of a shape that is not known here is shown as it is, in one line.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from runmodel_ext.cli.known_names import neighbours_of
from runmodel_ext.cli.parse_faults import fault_of, joined, shortened
from runmodel_ext.runs import did_you_mean

_LONGEST = 600  # characters of an error; a type with a hundred choices would fill the screen

_WRAPPED = ("Does not validate against any of the Union subtypes", "Parser key ", "Problem with given class_path")

_Teller: TypeAlias = Callable[[re.Match[str], Sequence[str], str], str]


def explain(message: str, names: Iterable[str] = (), source: str | None = None) -> str:
    r"""Say in one sentence why a parser refuses.

    Args:
        message: What jsonargparse or argparse says.
        names: The keys or commands that the parser takes, to find the one that was probably meant.
        source: The configuration file that is being read.

    Example:
        >>> explain('Parser key "trainer.max_epochs":\n  Expected a <class \'int\'>. Got value: ten')
        "`trainer.max_epochs` must be an int, but is 'ten'."
        >>> explain("Subcommand 'fit' does not accept option 'trainer.max_epoch'", ["trainer.max_epochs"])
        "There is no key `trainer.max_epoch`. Did you mean 'trainer.max_epochs'?"
    """
    message = message.strip().removeprefix("error: ")
    for pattern, tell in _KNOWN:
        match = re.fullmatch(pattern, message, re.DOTALL)
        if match:
            return tell(match, list(names), source or "")
    fault = fault_of(message)
    sentence = fault.sentence if fault is not None and fault.rank else one_sentence(message)
    return f"In '{source}': {sentence}" if source else sentence


def one_sentence(message: str) -> str:
    r"""A message of many lines as one line, without its bullets.

    Example:
        >>> one_sentence('Parser key "model":\n  Problem with given class_path:\n    - No such class')
        'Parser key "model": Problem with given class_path: No such class.'
    """
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    text = shortened(" ".join(lines), _LONGEST)
    return text if text.endswith((".", "?", "!", "…")) else text + "."


def users_own(error: BaseException) -> BaseException:
    """The error that a class raised when it was built, out of what jsonargparse wraps around it.

    Example:
        >>> inner = ZeroDivisionError("my own")
        >>> wrapped = ValueError("Does not validate against any of the Union subtypes ...")
        >>> wrapped.__cause__ = inner
        >>> users_own(wrapped)
        ZeroDivisionError('my own')
    """
    while error.__cause__ is not None and str(error).startswith(_WRAPPED):
        error = error.__cause__
    return error


def unknown_variable(environ: Mapping[str, str], prefix: str, names: Iterable[str]) -> str | None:
    """Say which environment variable is meant for a command, but sets none of its arguments.

    jsonargparse passes over such a one, so that what is misspelt would do nothing.

    Args:
        environ: The environment.
        prefix: What the variables of the command begin with.
        names: The keys that the command takes.

    Example:
        >>> unknown_variable({"RUNMODEL_FIT__RUN__ROTO": "x"}, "RUNMODEL_FIT__", ["run.root"])
        "The environment variable RUNMODEL_FIT__RUN__ROTO sets nothing. Did you mean 'RUNMODEL_FIT__RUN__ROOT'?"
    """
    known = [prefix + name.replace(".", "__").upper() for name in names]
    for variable in sorted(environ):
        if not variable.startswith(prefix) or variable in known:
            continue
        whole = next((name for name in known if variable.startswith(f"{name}__")), None)
        advice = did_you_mean(variable, known, 1)
        # A class chosen by its path is one argument; the arguments of a group have variables of their own.
        if whole is not None and not any(name.startswith(f"{whole}__") for name in known):
            advice = f" Set {whole} to a class, or to a whole configuration of it."
        return f"The environment variable {variable} sets nothing.{advice}"
    return None


def _unknown_words(match: re.Match[str], names: Sequence[str], source: str) -> str:
    word = match["word"].partition("=")[0]
    if not word.startswith("-"):
        return f"There is no argument '{word}'.{did_you_mean(word, names, 1)}"
    hint = did_you_mean(word.lstrip("-"), names, 1).replace("'", "'--", 1)
    return f"There is no option '{word}'.{hint}"


def _unknown_key(match: re.Match[str], names: Sequence[str], source: str) -> str:
    group = match.groupdict().get("group")
    key = f"{group}.{match['key']}" if group else match["key"]
    where = f" in '{source}'" if source else ""
    return f"There is no key `{key}`{where}.{did_you_mean(key, names, 1) or _near_top(key, names)}"


def _near_top(key: str, names: Sequence[str]) -> str:
    # A misspelt group is far from each of its own keys.
    return did_you_mean(key.partition(".")[0], [name.partition(".")[0] for name in names], 1)


def _too_early(match: re.Match[str], names: Sequence[str], source: str) -> str:
    command = match["command"]
    return (
        f"The key `{match['key']}` belongs to a command, but stands before `{command}`. "
        f"Write `{command} --config FILE`, in this order."
    )


def _missing(match: re.Match[str], names: Sequence[str], source: str) -> str:
    keys = [re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in match["keys"].split(", ")]
    if keys == ["model"]:
        return "There is no model. Give one: `--model CLASS`, or `model:` in a configuration."
    verb, what = ("is", "it") if len(keys) == 1 else ("are", "them")
    shown = joined([f"`{key}`" for key in keys], "and")
    return f"{shown} {verb} required, but not given. Set {what} in a configuration or as `--{keys[0]}`."


def _no_value(match: re.Match[str], names: Sequence[str], source: str) -> str:
    return f"`{match['option'].rpartition('/')[2]}` needs a value, but none is given."


def _no_command(match: re.Match[str], names: Sequence[str], source: str) -> str:
    return f"There is no command. Give one of {joined(match['names'].split(','), 'or')}."


def _wrong_command(match: re.Match[str], names: Sequence[str], source: str) -> str:
    choices = re.findall(r"'(.*?)'", match["names"]) or match["names"].split(", ")
    hint = did_you_mean(match["name"], choices, 1) or f" There are {joined(choices, 'and')}."
    return f"There is no command '{match['name']}'.{hint}"


def _no_file(match: re.Match[str], names: Sequence[str], source: str) -> str:
    path = _as_written(match["path"])
    return f"There is no configuration file '{path}'.{did_you_mean(str(path), neighbours_of(path), 1)}"


def _no_plain_file(match: re.Match[str], names: Sequence[str], source: str) -> str:
    path = _as_written(match["path"])
    found = "is a directory, not a file" if path.is_dir() else "is not a file"
    return f"The configuration '{path}' {found}. Give a YAML file."


def _unreadable(match: re.Match[str], names: Sequence[str], source: str) -> str:
    return f"The configuration file '{_as_written(match['path'])}' cannot be read: there is no permission."


def _broken(match: re.Match[str], names: Sequence[str], source: str) -> str:
    places = re.findall(r'in "[^"]*", line (\d+), column (\d+)', match["why"])
    reasons = [line for line in match["why"].splitlines() if not line.startswith(("  in ", "while "))]
    where = ", line {}, column {}".format(*places[-1]) if places else ""
    name = f"'{source}'" if source else "The configuration"
    return one_sentence(f"{name} is not valid YAML{where}: {'; '.join(reasons) or match['why']}")


def _no_mapping(match: re.Match[str], names: Sequence[str], source: str) -> str:
    name = f"'{source}'" if source else "`--config`"
    found = shortened(match["text"], 80)
    held = f"'{found}'" if found else "nothing"
    return f"{name} holds {held} instead of a configuration. Write keys such as `model:` and `trainer:`."


def _no_group(match: re.Match[str], names: Sequence[str], source: str) -> str:
    where = f"In '{source}': " if source else ""
    found = f"but is '{match['value']}', and there is no such file"
    return f"{where}`{match['key']}` must be a mapping or the path of a configuration file, {found}."


def _as_written(path: str) -> Path:
    here = Path.cwd()
    return Path(path).relative_to(here) if Path(path).is_relative_to(here) else Path(path)


def source_of(path: str | os.PathLike[str]) -> str:
    """A configuration file as a user would name it."""
    return str(_as_written(os.fspath(path)))


_CONFIG = r'Parser key "config": '
_KNOWN: Sequence[tuple[str, _Teller]] = (
    (r"unrecognized arguments: (?P<word>\S+).*", _unknown_words),
    (r"Subcommand '.*?' does not accept option '(?P<key>.*)'", _unknown_key),
    (r"Group '(?P<group>.*)' does not accept option '(?P<key>.*)'", _unknown_key),
    (r"Option '(?P<key>.*)' is not accepted", _unknown_key),
    (r"Option '(?P<key>.*)' is not accepted before subcommand '?(?P<command>\w+)'?", _too_early),
    (r"the following arguments are required: (?P<keys>.*)", _missing),
    (r"argument (?P<option>\S+): expected (?:one|at least one) argument", _no_value),
    (r'expected ".*" to be one of \{(?P<names>.*)\}, but it was not provided\.', _no_command),
    (r"argument \S+: invalid choice: '(?P<name>.*)' \(choose from (?P<names>.*)\)", _wrong_command),
    (_CONFIG + r".*does not exist: '(?P<path>.*)'", _no_file),
    (_CONFIG + r"Path is not a file: '(?P<path>.*)'", _no_plain_file),
    (_CONFIG + r".*(?:no permission to access|not readable): '(?P<path>.*)'", _unreadable),
    (rf"(?:{_CONFIG})?Problems parsing config: (?P<why>.*)", _broken),
    (r'Parser key "(?P<key>[^"]*)":\s+Unable to load config \'(?P<value>.*?)\'\n.*', _no_group),
    (rf"(?:{_CONFIG})?Unexpected config: ?(?P<text>.*)", _no_mapping),
)
