"""``runmodel schema``: a JSON schema of configurations, so that an editor completes and checks them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from runmodel_ext._files import write_whole
from runmodel_ext.runs import DEFAULT_ROOT

SCHEMA_FILE = "runmodel.schema.json"


def main(args: Sequence[str]) -> None:
    """Write the schema.

    Args:
        args: The words after ``runmodel schema``.
    """
    parser = argparse.ArgumentParser(prog="runmodel schema", description=__doc__)
    parser.add_argument("--output", type=Path, help=f"the file; by default <root>/{SCHEMA_FILE}, where saved configs look")
    parser.add_argument("--root", type=Path, default=Path(DEFAULT_ROOT), help="the directory of the runs")
    options = parser.parse_args(args)
    output = options.output or options.root / SCHEMA_FILE
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, make_schema())
    print(output)


def make_schema() -> str:
    """The schema of what ``runmodel fit --config`` reads, as JSON text."""
    raise NotImplementedError
