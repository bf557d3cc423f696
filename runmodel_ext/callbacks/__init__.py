"""Callbacks, and what else a Trainer is given; one file each."""

from runmodel_ext.callbacks.checkpoint_io import WholeCheckpointIO
from runmodel_ext.callbacks.evaluation_recorder import EvaluationRecorder
from runmodel_ext.callbacks.last_checkpoint import LastCheckpoint
from runmodel_ext.callbacks.metrics_logger import MetricsLogger
from runmodel_ext.callbacks.prediction_writer import PredictionWriter
from runmodel_ext.callbacks.random_state import RandomState
from runmodel_ext.callbacks.run_keeper import RunKeeper
from runmodel_ext.callbacks.run_recorder import RunRecorder, how_it_ended
from runmodel_ext.callbacks.staged_finetuning import StagedFinetuning

__all__ = [
    "EvaluationRecorder",
    "LastCheckpoint",
    "MetricsLogger",
    "PredictionWriter",
    "RandomState",
    "RunKeeper",
    "RunRecorder",
    "StagedFinetuning",
    "WholeCheckpointIO",
    "how_it_ended",
]
