"""The commands that need torch, as the door runs them: fit, validate, test, predict, explain, plan, schema."""

import warnings
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from runmodel_ext.cli.run_cli import RunCLI


def main(args: Sequence[str]) -> None:
    """Run one of the commands that need torch: fit, validate, test, predict, explain, plan, schema."""
    import runmodel_ext.data
    import runmodel_ext.modules
    import runmodel_ext.networks  # noqa: F401  so that `--model ClassificationModule` finds them by their bare names

    # Lightning 2.6 asks torch in a way that torch 2.13 calls old; a user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
    words = list(args)
    kwargs: dict[str, Any] = {"parser_kwargs": {"default_env": True, "env_prefix": "RUNMODEL", "prog": "runmodel"}}
    if words[:1] == ["schema"]:
        _SchemaCLI(args=words, **kwargs)
    elif words[:1] == ["plan"]:
        from runmodel_ext.cli.plan import PlanCLI

        PlanCLI(args=words, **kwargs)
    else:
        RunCLI(args=words, **kwargs)


class _SchemaCLI(RunCLI):
    """Builds the parsers, and parses nothing."""

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        from runmodel_ext.cli.schema import main as write_schema

        write_schema(list(args)[1:], self.parsers[0])
        raise SystemExit(0)
