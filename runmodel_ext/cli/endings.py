"""How a command ends: exit codes for signals, a sentence for what the user can mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from runmodel_ext._files import storage_error
from runmodel_ext.cli.parse_errors import one_sentence
from runmodel_ext.errors import CheckpointError, ConfigError, RunModelError

_SIGTERM_EXIT = 128 + 15  # what a shell reports of a process that a signal ended
_CTRL_C_EXIT = 128 + 2
_SHOWN = 200  # characters of what differs, which may be every weight
_MISFIT = "Error(s) in loading state_dict for "


@contextmanager
def endings_explained(run: Path, checkpoint: str | None) -> Iterator[None]:
    """Give what ends a command its exit code or its sentence; a bug keeps its traceback.

    Args:
        run: The run's directory.
        checkpoint: The checkpoint that is loaded.

    Raises:
        SystemExit: With 143 after SIGTERM, 130 after Ctrl-C.
        StorageError: If the disk refuses.
        ConfigError: If Lightning refuses the configuration.
        CheckpointError: If the checkpoint's weights are not those of the model.
    """
    try:
        yield
    except SIGTERMException as error:  # Lightning would exit with 0
        raise SystemExit(_SIGTERM_EXIT) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(_CTRL_C_EXIT) from error
        raise
    except RunModelError:
        raise
    except MisconfigurationException as error:
        raise ConfigError(one_sentence(str(error))) from error
    except OSError as error:
        if (explained := storage_error(error, error.filename or run)) is not None:
            raise explained from error
        raise
    except RuntimeError as error:
        if not str(error).startswith(_MISFIT):
            raise
        raise CheckpointError(_misfit(str(error), checkpoint)) from error


def _misfit(message: str, checkpoint: str | None) -> str:
    model, _, rest = message.removeprefix(_MISFIT).partition(":")
    lines = [" ".join(line.split()).rstrip(". ") for line in rest.splitlines() if line.strip()]
    first = lines[0] if lines else "they differ"
    shown = first if len(first) <= _SHOWN else first[:_SHOWN].rpartition(",")[0] + ", …"
    return (
        f"The weights of '{checkpoint}' do not fit {model}: {shown}. "
        "Give the configuration that the checkpoint was made with, or another checkpoint."
    )
