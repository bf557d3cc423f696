"""What stages cannot be beside, by name: classes are told by their names, so that both namespaces of Lightning do."""

from lightning.pytorch import Callback, Trainer

from runmodel_ext.finetuning import problem_of_strategy

#: Callbacks that decide on the same parameters, or the same rates.
_RIVALS = {
    "StagedFinetuning": "one fine-tuning decides what trains. Put all stages into one of them",
    "BaseFinetuning": "both freeze and thaw the same parameters. Leave it out, and say in the stages what trains",
    "StochasticWeightAveraging": (
        "it puts a learning rate of its own in the place of the stages'. Take EMAWeightAveraging instead"
    ),
    "ModelPruning": "it puts other parameters in the place of the model's, and changes frozen ones. Prune afterwards",
    "LearningRateFinder": (
        "it looks for one learning rate for everything. Find the rate in a fit of its own, and write it into the stages"
    ),
}
_OPTIMIZERS = {
    "ZeroRedundancyOptimizer": "it shares out its groups among the ranks before the stages can split them",
    "_MockOptimizer": "`configure_optimizers` gives none",
}


def problems_of_company(own: Callback, trainer: Trainer) -> list[str]:
    """Callbacks and strategies beside which stages cannot work, each in a sentence."""
    problems = []
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Trainer gets from a connector
    for place, callback in enumerate(callbacks):
        for cls in type(callback).__mro__:
            if place != callbacks.index(own) and cls.__name__ in _RIVALS:
                name = type(callback).__name__
                what = "two StagedFinetuning" if name == "StagedFinetuning" else f"StagedFinetuning beside {name}"
                problems.append(f"The Trainer has {what}, but {_RIVALS[cls.__name__]}.")
                break
    strategy = problem_of_strategy(trainer)
    return list(dict.fromkeys([*problems, strategy] if strategy else problems))


def problems_of_optimizers(trainer: Trainer) -> list[str]:
    """Optimizers that stages cannot split, each in a sentence."""
    problems = []
    for optimizer in trainer.optimizers:
        name = type(optimizer).__name__
        if name in _OPTIMIZERS:
            shown = "no optimizer" if name == "_MockOptimizer" else name
            problems.append(f"StagedFinetuning cannot work with {shown}: {_OPTIMIZERS[name]}.")
    return problems
