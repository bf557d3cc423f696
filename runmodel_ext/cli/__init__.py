"""The command line: ``runmodel``, and the class for scripts of one's own.

``RunCLI`` is imported when it is first used, because torch takes seconds.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runmodel_ext.cli.run_cli import RunCLI

__all__ = ["RunCLI"]


def __getattr__(name: str) -> Any:
    if name != "RunCLI":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runmodel_ext.cli.run_cli import RunCLI

    return RunCLI


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
