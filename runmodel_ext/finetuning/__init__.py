"""Staged fine-tuning: what a user declares, what it means for a model, and what carries it out."""

from runmodel_ext.finetuning.blocks import find_blocks
from runmodel_ext.finetuning.checks import Length, problems_of_length, problems_of_stages, raise_problems
from runmodel_ext.finetuning.conductor import Conductor
from runmodel_ext.finetuning.curve import Curve
from runmodel_ext.finetuning.picture import (
    curve_of_metrics,
    draw_stages,
    need_matplotlib,
    problem_of_picture,
    validation_metrics,
)
from runmodel_ext.finetuning.plan import Plan, make_plan
from runmodel_ext.finetuning.progress import Position, Progress
from runmodel_ext.finetuning.replicas import (
    are_wrapped,
    make_buffers_equal,
    problem_of_strategy,
    restores_by_name,
    wrap_again,
)
from runmodel_ext.finetuning.resume import changes_between, stage_to_go_on_with
from runmodel_ext.finetuning.schedules import Schedule, gradual_unfreezing, linear_probe_then_finetune
from runmodel_ext.finetuning.stages import Best, Plateau, Reaches, Stage, Until, Warmup, described, in_one_spelling
from runmodel_ext.finetuning.table import COLUMNS, plan_rows, print_plan
from runmodel_ext.finetuning.weights import keep_gradients, put_back_gradients

__all__ = [
    "COLUMNS",
    "Best",
    "Conductor",
    "Curve",
    "Length",
    "Plan",
    "Plateau",
    "Position",
    "Progress",
    "Reaches",
    "Schedule",
    "Stage",
    "Until",
    "Warmup",
    "are_wrapped",
    "changes_between",
    "curve_of_metrics",
    "described",
    "draw_stages",
    "find_blocks",
    "gradual_unfreezing",
    "in_one_spelling",
    "keep_gradients",
    "linear_probe_then_finetune",
    "make_buffers_equal",
    "make_plan",
    "need_matplotlib",
    "plan_rows",
    "print_plan",
    "problem_of_picture",
    "problem_of_strategy",
    "problems_of_length",
    "problems_of_stages",
    "put_back_gradients",
    "raise_problems",
    "restores_by_name",
    "stage_to_go_on_with",
    "validation_metrics",
    "wrap_again",
]
