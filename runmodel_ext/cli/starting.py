"""What a fit starts from: nothing, a checkpoint, or a finished run that it extends."""

from pathlib import Path
from typing import Any

from runmodel_ext.errors import CheckpointError, ConfigError
from runmodel_ext.runs import resolve_run


def start_from(options: dict[str, Any], ckpt_path: str | None) -> None:
    """Turn ``fit``'s ``--ckpt_path`` into the options of the run: ``run.start``, or ``run.on_existing``.

    Args:
        options: The ``run`` group of the configuration, which is changed.
        ckpt_path: What the user gave; ``None`` where nothing was given.

    Raises:
        ConfigError: If it is a word that only an evaluation understands.

    Example:
        >>> options = {"on_existing": "auto", "start": None}
        >>> start_from(options, "last")
        >>> options
        {'on_existing': 'resume', 'start': None}
    """
    if ckpt_path == "last":
        options["on_existing"] = "resume"
    elif ckpt_path in ("best", "hpc", "registry"):
        raise ConfigError(f"`fit --ckpt_path {ckpt_path}` means nothing here. Give a file, or 'last'.")
    elif ckpt_path is not None:
        options["start"] = ckpt_path


def parent_to_extend(reference: str, root: Path, max_epochs: int | None) -> dict[str, Any]:
    """The finished run that ``--extend`` names, as a record stores it.

    Args:
        reference: The run.
        root: The directory under which all runs lie.
        max_epochs: How many epochs there shall be in all.

    Raises:
        ConfigError: If the run is not finished, or has trained as many epochs already.
        CheckpointError: If it has no last checkpoint.
    """
    run = resolve_run(reference, root)
    if run.status != "finished":
        raise ConfigError(
            f"`--extend` goes on with a finished run, but '{run.name}' is {run.status}. Fit it to its end first."
        )
    checkpoint = run.checkpoint("last")
    if checkpoint is None:
        raise CheckpointError(f"The run '{run.name}' has no last checkpoint to go on from.")
    epochs = run.progress.get("epoch")
    if max_epochs is not None and epochs is not None and 0 <= max_epochs <= epochs:
        raise ConfigError(
            f"The run '{run.name}' has trained {epochs} epochs already, and `trainer.max_epochs` is {max_epochs}. "
            "Give `--extend` a larger `--trainer.max_epochs`."
        )
    return {"run": run.name, "digest": run.digest, "seed": run.seed, "checkpoint": str(checkpoint)}
