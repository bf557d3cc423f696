"""Words for the shell to offer, by argcomplete's protocol; silent where argcomplete is not installed."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any


def complete(build_parser: Callable[[], ArgumentParser], trainer_commands: Collection[str]) -> None:
    """Answer the shell's question, and end the process.

    Args:
        build_parser: Builds the parser of all commands.
        trainer_commands: The commands whose options only LightningCLI knows.
    """
    if not find_spec("argcomplete"):
        sys.exit(1)
    import argcomplete

    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or 0)]
    words = line.split()
    done = words if line[-1:].isspace() else words[:-1]
    place = next((i for i, word in enumerate(done) if word in trainer_commands), None)
    if place is None or "runs" in done[:place]:
        argcomplete.autocomplete(build_parser())
    elif done[place] != "schema":
        # argcomplete passes over the words before this place: the command's own parser reads the rest.
        os.environ["_ARGCOMPLETE"] = str(place + 1)
        _complete_trainer({"explain": "fit", "plan": "fit"}.get(done[place], done[place]))
    sys.exit(1)


def _complete_trainer(command: str) -> None:
    from runmodel_ext._private import parser_of
    from runmodel_ext.cli.run_cli import RunCLI  # torch takes seconds to import

    class Completer(RunCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            # jsonargparse 4.53 offers nothing below a subcommand (`argparse.Namespace` has no `[]`), so the
            # question goes to the subcommand's own parser, which ends the process.
            parser_of(self, command).parse_args([])

    Completer(args=[command])
