"""LightningModules whose steps have names; one task a file."""

from runmodel_ext.modules.classification import ClassificationModule
from runmodel_ext.modules.regression import RegressionModule
from runmodel_ext.modules.step import Step
from runmodel_ext.modules.supervised import SupervisedModule

__all__ = ["ClassificationModule", "RegressionModule", "Step", "SupervisedModule"]
