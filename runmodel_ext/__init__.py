"""Run, fine-tune in stages, register and compare PyTorch models with Lightning, from a configuration.

The names below are imported when they are first used, so that ``import runmodel_ext`` costs nothing:

>>> import runmodel_ext
>>> "ClassificationModule" in dir(runmodel_ext)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from runmodel_ext._version import __version__

if TYPE_CHECKING:
    from runmodel_ext.callbacks import StagedFinetuning
    from runmodel_ext.cli import RunCLI
    from runmodel_ext.finetuning import Stage, Until, gradual_unfreezing, linear_probe_then_finetune
    from runmodel_ext.modules import ClassificationModule, RegressionModule, SupervisedModule

__all__ = [
    "ClassificationModule",
    "RegressionModule",
    "RunCLI",
    "Stage",
    "StagedFinetuning",
    "SupervisedModule",
    "Until",
    "__version__",
    "gradual_unfreezing",
    "linear_probe_then_finetune",
]

_HOMES = {
    "ClassificationModule": "runmodel_ext.modules",
    "RegressionModule": "runmodel_ext.modules",
    "RunCLI": "runmodel_ext.cli",
    "Stage": "runmodel_ext.finetuning",
    "StagedFinetuning": "runmodel_ext.callbacks",
    "SupervisedModule": "runmodel_ext.modules",
    "Until": "runmodel_ext.finetuning",
    "gradual_unfreezing": "runmodel_ext.finetuning",
    "linear_probe_then_finetune": "runmodel_ext.finetuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
