"""Runs: what training left on disk, found, read and compared; nothing here imports torch.

Example:
    >>> from runmodel_ext.runs import find_runs
    >>> find_runs("no-such-directory")
    []
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runmodel_ext.runs.adoption import adopt
    from runmodel_ext.runs.canonical import SHOWN, canonical_json, digest
    from runmodel_ext.runs.comparison import Comparison, compare_runs
    from runmodel_ext.runs.flat import flatten
    from runmodel_ext.runs.frame import to_frame, to_records
    from runmodel_ext.runs.lifecycle import Claim, Identity, Look, OnExisting, claim, look
    from runmodel_ext.runs.metrics import MetricsFile, Row, read_curve, read_metrics
    from runmodel_ext.runs.names import data_label, labels, model_label, safe_component, spell
    from runmodel_ext.runs.provenance import code_state, environment
    from runmodel_ext.runs.ranks import first_note, global_rank, leave_note, publish, receive
    from runmodel_ext.runs.run import Mode, Run, Score
    from runmodel_ext.runs.search import DEFAULT_ROOT, find_runs, iter_runs, match_run, nearest_run, resolve_run
    from runmodel_ext.runs.template import DEFAULT_TEMPLATE, NameTemplate
    from runmodel_ext.runs.values import MISSING, Missing, did_you_mean, same
    from runmodel_ext.runs.where import Condition, field_names, parse_condition, value_of
    from runmodel_ext.runs.writer import RunWriter, begin_attempt, command_line, now, remove_attempt, training_seconds

# A file of this folder is imported when a name of it is asked for: listing runs must not pay for making them.
_HOMES = {
    "adoption": "adopt",
    "canonical": "SHOWN canonical_json digest",
    "comparison": "Comparison compare_runs",
    "provenance": "code_state environment",
    "flat": "flatten",
    "frame": "to_frame to_records",
    "lifecycle": "Claim Identity Look OnExisting claim look",
    "metrics": "MetricsFile Row read_curve read_metrics",
    "names": "data_label labels model_label safe_component spell",
    "ranks": "first_note global_rank leave_note publish receive",
    "run": "Mode Run Score",
    "search": "DEFAULT_ROOT find_runs iter_runs match_run nearest_run resolve_run",
    "template": "DEFAULT_TEMPLATE NameTemplate",
    "values": "MISSING Missing did_you_mean same",
    "where": "Condition field_names parse_condition value_of",
    "writer": "RunWriter begin_attempt command_line now remove_attempt training_seconds",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "DEFAULT_ROOT",
    "DEFAULT_TEMPLATE",
    "MISSING",
    "SHOWN",
    "Claim",
    "Comparison",
    "Condition",
    "Identity",
    "Look",
    "MetricsFile",
    "Missing",
    "Mode",
    "NameTemplate",
    "OnExisting",
    "Row",
    "Run",
    "RunWriter",
    "Score",
    "adopt",
    "begin_attempt",
    "canonical_json",
    "claim",
    "code_state",
    "command_line",
    "compare_runs",
    "data_label",
    "did_you_mean",
    "digest",
    "environment",
    "field_names",
    "find_runs",
    "first_note",
    "flatten",
    "global_rank",
    "iter_runs",
    "labels",
    "leave_note",
    "look",
    "match_run",
    "model_label",
    "nearest_run",
    "now",
    "parse_condition",
    "publish",
    "read_curve",
    "read_metrics",
    "receive",
    "remove_attempt",
    "resolve_run",
    "safe_component",
    "same",
    "spell",
    "to_frame",
    "to_records",
    "training_seconds",
    "value_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
