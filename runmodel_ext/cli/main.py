# PYTHON_ARGCOMPLETE_OK
"""The one door: ``runmodel``, ``python -m runmodel_ext``."""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from runmodel_ext._files import storage_error
from runmodel_ext._tables import FORMATS
from runmodel_ext._version import __version__
from runmodel_ext.cli.commands import adopt_runs, diff_runs, list_runs, path_of_run, show_run
from runmodel_ext.cli.completion import complete
from runmodel_ext.errors import ConfigError, RunModelError
from runmodel_ext.runs import did_you_mean, find_runs

TRAINER_COMMANDS = {
    "fit": "train; again, and it goes on where it stopped, or shows what it reached",
    "validate": "score the best checkpoint of a run on the validation data",
    "test": "score the best checkpoint of a run on the test data",
    "predict": "write a run's predictions, one a sample",
    "explain": "show a configuration's directory, and what `fit` would do there",
    "plan": "show what each stage of a fine-tuning would train, and write the stages to edit",
    "schema": "write a JSON schema of configurations, for editors",
}
RECORD_COMMANDS = {
    "runs list": "list runs, by any setting or score",
    "runs show": "show all that is recorded of one run",
    "runs diff": "show what differs between runs: settings, scores, code, environment",
    "runs path": "print where a run or its checkpoint lies",
    "adopt": "list the runs of a plain Lightning directory with the rest",
}
HELP = """\
usage: runmodel <command> [options]

Fit, test and compare PyTorch models from a configuration, each in a directory that the configuration names.

{commands}

  --help, --version    `runmodel <command> --help` explains a command

examples:
  runmodel fit --config configs/digits.yaml --model.lr 0.003
  runmodel runs list --where 'model.lr<0.01' --sort val/acc
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    The user's mistakes end in one sentence and exit code 2; a bug keeps its traceback. With
    ``RUNMODEL_DEBUG=1`` in the environment all keep it.

    Args:
        args: The words after ``runmodel``; by default those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        if "_ARGCOMPLETE" in os.environ:
            complete(build_parser, TRAINER_COMMANDS)
        elif is_for_the_trainer(words):
            _train(words)
        else:
            if args is None:
                gc.disable()  # thousands of records live to the end of the process, which is near
            _run(words)
        sys.stdout.flush()
    except RunModelError as error:
        if os.environ.get("RUNMODEL_DEBUG", "0") not in ("", "0"):
            raise
        print(f"runmodel: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        _end_of_output(error)
        raise


def _end_of_output(error: OSError) -> None:
    """Exit where standard output takes no more: ``head`` has enough, or the disk is full."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        sys.exit(141)  # as a shell reports a program that `head` has cut off
    if (explained := storage_error(error, error.filename or "standard output")) is not None:
        print(f"runmodel: {explained}", file=sys.stderr)
        os._exit(2)  # what waits in the buffer of the output cannot be written either


def is_for_the_trainer(words: Sequence[str]) -> bool:
    """Whether the words are for LightningCLI, which takes its ``--config`` also before the command.

    Example:
        >>> is_for_the_trainer(["--config", "full.yaml", "fit"]), is_for_the_trainer(["runs", "list"])
        (True, False)
    """
    first = words[0] if words else ""
    early = first.split("=")[0] in ("--config", "-c", "--print_config", "--seed_everything")
    return first in TRAINER_COMMANDS or early or (first[:1] == "-" and not TRAINER_COMMANDS.keys().isdisjoint(words))


def _train(words: Sequence[str]) -> None:
    # Users' own classes lie where they work, and `python -m` would find them there too.
    with suppress(FileNotFoundError):
        here = str(Path.cwd())
        if not {here, ""} & set(sys.path):
            sys.path.insert(0, here)
    from runmodel_ext.cli.trainer_commands import main as run_main  # torch takes seconds to import

    run_main(list(words))


def _run(words: Sequence[str]) -> None:
    options, unknown = build_parser().parse_known_args(words)
    chosen = vars(options)
    parser: _Parser = chosen.pop("parser")
    if unknown:
        parser.refuse_unknown(unknown)
    command: Callable[..., None] | None = chosen.pop("command", None)
    if command is None:
        parser.print_help()
    else:
        command(**chosen)


def _nobody_reads() -> bool:
    """Whether standard output is the broken pipe; it is put out of the way, so that the exit is quiet too."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


class _Parser(argparse.ArgumentParser):
    """A parser that refuses in one sentence, and offers what was probably meant."""

    also_offered: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message[:1].upper()}{message[1:].rstrip('.')}.")

    def refuse(self, sentence: str) -> NoReturn:
        raise ConfigError(f"{sentence} See `{self.prog} --help`.")

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        word = words[0].split("=")[0]
        kind = "option" if word.startswith("-") else "argument"
        self.refuse(f"There is no {kind} '{word}'.{did_you_mean(word, self._option_string_actions)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        what = " ".join(action.option_strings) or "command"
        advice = did_you_mean(str(value), [*choices, *self.also_offered]) or f" There are {', '.join(choices)}."
        self.refuse(f"There is no {what} '{value}'.{advice}")


class _Root(_Parser):
    """The parser of all commands, with a help of its own, which names those below `runs` too."""

    also_offered = tuple(RECORD_COMMANDS)

    def format_help(self) -> str:
        groups = {"train and evaluate:": TRAINER_COMMANDS, "look at what training left:": RECORD_COMMANDS}
        lines = [
            "\n".join([title, *(f"  {name:<12}{text}" for name, text in commands.items())])
            for title, commands in groups.items()
        ]
        return HELP.format(commands="\n\n".join(lines))


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything that needs no torch; the trainer's commands are in it by name only."""
    root = _Root(prog="runmodel")
    root.add_argument("--version", action="version", version=f"runmodel {__version__}")
    commands = root.add_subparsers(parser_class=_Parser, metavar="<command>")
    for name in TRAINER_COMMANDS:
        commands.add_parser(name, add_help=False)
    runs = commands.add_parser("runs", description="Look at what training left.")
    below = runs.add_subparsers(parser_class=_Parser, metavar="<command>")
    _fill_list(_command(below, "runs list", list_runs))
    show = _command(below, "runs show", show_run)
    _add_reference(show, "reference", "a path, a name or a part of it, the beginning of a digest, or `last`")
    _add_format(show, [form for form in FORMATS if form != "csv"])
    diff = _command(below, "runs diff", diff_runs)
    _add_reference(diff, "references", "two runs or more, each as in `runmodel runs show`", nargs="+")
    _add_format(diff)
    path = _command(below, "runs path", path_of_run)
    _add_reference(path, "reference", "as in `runmodel runs show`")
    path.add_argument("--checkpoint", choices=["best", "last"], help="print the path of this checkpoint instead")
    adopt = _command(commands, "adopt", adopt_runs)
    adopt.add_argument("source", help="a directory such as `lightning_logs`; nothing in it is changed")
    return root


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, function: Callable[..., None]) -> _Parser:
    text = RECORD_COMMANDS[name]
    parser = commands.add_parser(name.split()[-1], help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=function)
    parser.add_argument("--root", default="results", help="the directory that holds the runs (default: results)")
    return parser


def _fill_list(parser: _Parser) -> None:
    parser.epilog = (
        "A field is a setting (model.lr, or lr where nothing else ends so), a score (val/acc), or one of: "
        "status, name, seed, version, digest, created, ended, seconds, epoch, step, tags, notes, reason."
    )
    condition = "only runs like this, such as 'model.lr<0.01' or status=finished; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="CONDITION", help=condition)
    parser.add_argument("--sort", metavar="FIELD", help="of a score the best first (default: created, newest first)")
    parser.add_argument("--descending", action="store_const", const=True, help="the largest first")
    parser.add_argument("--ascending", dest="descending", action="store_const", const=False, help="the smallest first")
    parser.add_argument("--columns", type=_fields, default=[], metavar="FIELD,...", help="the fields to print")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many runs")
    _add_format(parser)


def _fields(text: str) -> list[str]:
    return [field.strip() for field in text.split(",") if field.strip()]


def _add_format(parser: _Parser, forms: Sequence[str] = FORMATS) -> None:
    text = f"{', '.join(forms)} (default: table)"
    parser.add_argument("--format", dest="form", choices=forms, default="table", metavar="FORMAT", help=text)


def _add_reference(parser: _Parser, name: str, text: str, nargs: str | None = None) -> None:
    action = parser.add_argument(name, nargs=nargs, metavar="run", help=text)
    vars(action)["completer"] = _references  # where argcomplete looks for the words to offer


def _references(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    return ["last", *(run.name for run in find_runs(parsed_args.root))]
