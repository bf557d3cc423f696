"""Every error that the package raises on purpose.

RunModelError
├── ConfigError (ValueError)        the configuration cannot be used as written
│   ├── NameTemplateError           ... `run.name` names a key that is not there
│   └── ScheduleError               ... the stages of a fine-tuning do not fit together, the model or the Trainer
├── NotFoundError (LookupError)     a name points at nothing, or at several things
├── RunExistsError (FileExistsError)  the run is there already, and the user asked not to touch it
├── RunBusyError (RuntimeError)     another live process is training the run
├── RecordError (ValueError)        a file of a record cannot be read as one
├── CheckpointError (ValueError)    a checkpoint is missing, damaged or not a checkpoint
├── RanksError (RuntimeError)       the ranks of one job do not agree
├── StorageError (OSError)          the disk refuses: full, read-only, no permission
└── MissingExtraError (ImportError) an optional package is not installed

Each one also is the built-in that a stranger would catch. Each message is one sentence for the user, with what
was found in it; the command line prints it without a traceback and exits with code 2.
"""


class RunModelError(Exception):
    """The root of the tree: a mistake or an obstacle that the user can mend."""


class ConfigError(RunModelError, ValueError):
    """The configuration cannot be used as written."""


class NameTemplateError(ConfigError):
    """The template of a run's name cannot be filled."""


class ScheduleError(ConfigError):
    """The stages of a fine-tuning do not fit together, or not the model, the optimizer or the Trainer."""


class NotFoundError(RunModelError, LookupError):
    """A name points at nothing, or at several things."""


class RunExistsError(RunModelError, FileExistsError):
    """The run is there already, and the user asked not to touch it."""


class RunBusyError(RunModelError, RuntimeError):
    """Another live process is training the run."""


class RecordError(RunModelError, ValueError):
    """A file of a record cannot be read as one."""


class CheckpointError(RunModelError, ValueError):
    """A checkpoint is missing, damaged or not a checkpoint."""


class RanksError(RunModelError, RuntimeError):
    """The ranks of one job do not agree."""


class StorageError(RunModelError, OSError):
    """The disk refuses: it is full, read-only, or not ours to write."""


class MissingExtraError(RunModelError, ImportError):
    """An optional package is not installed."""
