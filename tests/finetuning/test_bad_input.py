"""What is refused before the first step, and in which words."""

import re
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateFinder, StochasticWeightAveraging
from torch import nn
from torch.optim import lr_scheduler

from runmodel_ext import Stage, StagedFinetuning, Until, gradual_unfreezing
from runmodel_ext.errors import ConfigError, ScheduleError
from runmodel_ext.finetuning import Best, Plateau, Reaches, Warmup
from tests.finetuning.kit import ByHand, Digits, fit

ONE = [Stage("all", train="*")]


class NoStep(Callback):
    """Fails where a step is taken."""

    def on_train_batch_start(self, *_: Any) -> None:
        pytest.fail("a step was taken")


def refused(stages: Any, make: Any = Digits, beside: tuple[Callback, ...] = (), **settings: Any) -> str:
    """The sentence with which a fit is refused before its first step."""
    with pytest.raises(ScheduleError) as caught:
        fit(make, [StagedFinetuning(stages, show_plan=False), *beside, NoStep()], **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            Stage("a", train="net.haed"),
            "Stage 'a': the selector 'net.haed' in `train` matches none of the 22 modules and parameters of the model; "
            "the nearest are 'net.head', 'net.head.bias', 'net.stem'.",
        ),
        (Stage("a", train="h"), "matches none of the 22 modules and parameters of the model"),
        (Stage("a", train="head"), "the nearest are 'net.head'."),
        (Stage("a", train="*", exclude="net.hed"), "the selector 'net.hed' in `exclude` matches none"),
        (Stage("a", train="*", train_mode="net.hed"), "the selector 'net.hed' in `train_mode` matches none"),
        (Stage("a", train="*", eval_mode="type:Batch"), "the selector 'type:Batch' in `eval_mode` matches none"),
        (
            Stage("a", train="type:BatchNorm3"),
            "matches none of the modules of the model; the nearest are 'BatchNorm2d'.",
        ),
        (Stage("a", train="re:("), "the selector 're:(' in `train` is no regular expression: missing )"),
        (Stage("a", train=""), "the selector '' in `train` is empty."),
        (Stage("a", train=[]), "`train` names nothing. Name what trains, such as 'head', or '*' for everything."),
        (Stage("a", train="net.stem.2"), "it trains nothing: 'net.stem.2' names modules without parameters."),
        (
            Stage("a", train="net.head", exclude="net"),
            "it trains nothing: `exclude` takes away all of the 2 parameters that 'net.head' names.",
        ),
        (Stage("a", train="*", lr=-1.0), "`lr` must be a number greater than 0, but is -1.0."),
        (Stage("a", train="*", lr=float("nan")), "`lr` must be a number greater than 0, but is nan."),
        (Stage("a", train="*", lr={"*": 0.0}), "`lr['*']` must be a number greater than 0, but is 0.0."),
        (Stage("a", train="*", lr={}), "`lr` is an empty table. Give it entries, or leave it out."),
        (Stage("a", train="*", lr={"re:(": 1.0, "*": 1.0}), "the selector 're:(' in `lr` is no regular expression"),
        (
            Stage("a", train="net.head", lr={"net.head": 0.1, "net.body": 0.2}),
            "`lr` gives a learning rate to 'net.body', which is frozen in this stage. Train it, or leave",
        ),
        (
            Stage("a", train="net.head", weight_decay={"net.head": 0.1, "net.body": 0.2}),
            "`weight_decay` gives a weight decay to 'net.body', which is frozen in this stage.",
        ),
        (
            Stage("a", train="net", lr={"net.head": 0.1}),
            "`lr` says nothing of 8 of the 10 parameters that train, such as 'net.stem.0.weight'. "
            "Add an entry for them, such as '*'.",
        ),
        (
            Stage("a", train="*", lr={"*": 0.1, "net.head": 0.2}),
            "the entry 'net.head' of `lr` never counts: the entries before it match all that it matches",
        ),
        (Stage("a", train="*", weight_decay=-0.1), "`weight_decay` must be a number of at least 0, but is -0.1."),
        (Stage("a", train="*", layer_decay=1.5), "`layer_decay` must be greater than 0 and at most 1, but is 1.5."),
        (
            Stage("a", train="net.head", layer_decay=0.5),
            "`layer_decay` needs an order of blocks, but the 2 parameters that train lie in 1 block.",
        ),
        (
            Stage("a", train="*", warmup=Warmup(steps=0)),
            "`warmup.steps` must be a whole number of at least 1, but is 0.",
        ),
        (
            Stage("a", train="*", warmup=Warmup(5, start=1.0)),
            "`warmup.start` must be at least 0 and less than 1, but is 1",
        ),
        (
            Stage("a", train="*", until=Until(epochs=0)),
            "`until.epochs` must be a whole number of at least 1, but is 0.",
        ),
        (
            Stage("a", train="*", until=Until(steps=2.5)),
            "`until.steps` must be a whole number of at least 1, but is 2.5.",
        ),
        (
            Stage("a", train="*", until=Until(fraction=1.5)),
            "`until.fraction` must be greater than 0 and at most 1, but",
        ),
        (
            Stage("a", train="*", until=Until(plateau=Plateau("x", patience=0))),
            "`until.plateau.patience` must be a whole",
        ),
        (Stage("a", train="*", until=Until(plateau=Plateau("x", mode="up"))), "must be 'min' or 'max', but is 'up'."),
        (
            Stage("a", train="*", until=Until(plateau=Plateau("x", min_delta=-1))),
            "`until.plateau.min_delta` must be at",
        ),
        (
            Stage("a", train="*", until=Until(reaches=Reaches("x", "y"))),
            "`until.reaches.value` must be a number, but is 'y'.",
        ),
        (
            Stage("a", train="*", until=Until(reaches=Reaches("v", 0.3), plateau=Plateau("v", mode="max"))),
            "`until` contradicts itself: for `plateau`, 'v' is better towards 'max', for `reaches` towards 'min'.",
        ),
        (
            Stage("a", train="*", until=Until(epochs=3, plateau=Plateau("val/loss", patience=5))),
            "a plateau with patience 5 can never come before 3 epochs, in which 'val/loss' is looked at 3 times.",
        ),
        (Stage("a", train="*", restore_best=True), "`restore_best` needs a metric, but `until` watches none."),
        (Stage("a", train="*", restore_best=Best("x", mode="most")), "`restore_best.mode` must be 'min' or 'max'"),
        (Stage("a", train="*", lr_interval="batch"), "`lr_interval` must be 'epoch' or 'step', but is 'batch'."),
        (Stage("a", train="*", optimizer_state="drop"), "`optimizer_state` must be 'keep' or 'reset', but is 'drop'."),
        (
            Stage("a", train="*", lr_scheduler="StepLR"),
            "`lr_scheduler` must be what builds a scheduler from an optimizer",
        ),
        (
            Stage("a", train="*", lr_scheduler=lambda optimizer: lr_scheduler.StepLR(optimizer)),
            "`lr_scheduler` cannot be built: TypeError: StepLR.__init__() missing 1 required positional argument",
        ),
        (
            Stage("a", train="*", lr_scheduler=lr_scheduler.ReduceLROnPlateau),
            "its `lr_scheduler` waits for a metric, but none is named. Name one in `until`",
        ),
        (Stage(" ", train="*"), "`name` must be a word, but is ' '."),
    ],
)
def test_a_stage_that_cannot_be_carried_out_is_refused(stage: Stage, message: str) -> None:
    assert message in refused([stage])


def test_all_problems_are_said_at_once() -> None:
    stages = [
        Stage("a", train=["net.haed", "re:("], lr=-1, until=Until(epochs=0)),
        Stage("a", train="net.boddy", layer_decay=2.0, until=Until(fraction=3)),
        Stage("c", train="*", restore_best=True),
    ]
    message = refused(stages, beside=(StochasticWeightAveraging(swa_lrs=0.1),))
    assert "StochasticWeightAveraging" in message
    listed = refused(stages).splitlines()
    assert listed[0] == "The stages have 9 problems:"
    assert len(listed) == 10
    for word in [
        "2 stages are called 'a'",
        "net.haed",
        "'re:('",
        "`lr`",
        "epochs",
        "net.boddy",
        "layer_decay",
        "fraction",
    ]:
        assert any(word in line for line in listed), word


@pytest.mark.parametrize(
    ("stages", "settings", "message"),
    [
        ([Stage("a", train="*"), Stage("b", train="*")], {}, "stage 'a' before it has no `until`. Say when it ends"),
        (
            [Stage("a", train="*", until=Until(epochs=6)), Stage("b", train="*")],
            {},
            "Stage 'b' can never begin: those before it take 6 epochs or more, and the fit ends after 6 epochs "
            "(max_epochs). Make them shorter or the fit longer.",
        ),
        (
            [Stage("a", train="*", until=Until(steps=20)), Stage("b", train="*")],
            {"max_steps": 20},
            "those before it take 20 steps or more, and the fit ends after 20 steps (max_steps).",
        ),
        (
            [Stage("a", train="*", until=Until(steps=50)), Stage("b", train="*")],
            {},
            "those before it take 7.14 epochs or more, and the fit ends after 6 epochs (max_epochs).",
        ),
        (
            [Stage(n, train="*", until=Until(fraction=0.5)) for n in "ab"] + [Stage("c", train="*")],
            {},
            "Stage 'c' can never begin",
        ),
        (
            [Stage("a", train="*", until=Until(plateau=Plateau("val/loss", patience=6))), Stage("b", train="*")],
            {},
            "Stage 'b' can never begin: those before it take 7 epochs or more",
        ),
        (
            [Stage("a", train="*", until=Until(fraction=0.5)), Stage("b", train="*")],
            {"epochs": -1, "max_time": "00:00:01:00"},
            "Stage 'a': `until.fraction` needs a fit with an end, but the Trainer has neither max_epochs nor",
        ),
    ],
)
def test_a_stage_that_can_never_begin_is_refused(stages: list[Stage], settings: dict[str, Any], message: str) -> None:
    assert message in refused(stages, **settings)


def test_a_fast_dev_run_of_a_long_schedule_is_none_of_these() -> None:
    trainer = fit(
        Digits,
        [StagedFinetuning([Stage("a", train="net.head", until=Until(epochs=4)), *ONE], show_plan=False)],
        fast_dev_run=True,
    )
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (
            StagedFinetuning(ONE, show_plan=False),
            "The Trainer has two StagedFinetuning, but one fine-tuning decides what trains. Put all stages into one",
        ),
        (
            BackboneFinetuning(),
            "StagedFinetuning beside BackboneFinetuning, but both freeze and thaw the same parameters. Leave it out",
        ),
        (StochasticWeightAveraging(swa_lrs=0.1), "it puts a learning rate of its own in the place of the stages'."),
        (LearningRateFinder(), "it looks for one learning rate for everything."),
    ],
)
def test_a_callback_that_decides_on_the_same_is_refused(beside: Callback, message: str) -> None:
    assert message in refused(ONE, beside=(beside,))


class Unbuilt(Digits):
    """Has a layer whose size comes with the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.LazyLinear(3)


@pytest.mark.parametrize(
    ("stages", "make", "message"),
    [
        ([], Digits, "There are no stages. Give at least one, such as `Stage('all', train='*')`."),
        (["head"], Digits, "Each of `stages` must be a Stage, but one is 'head'."),
        (
            ONE,
            lambda: Digits(lambda module: None),
            "StagedFinetuning cannot work with no optimizer: `configure_optimizers`",
        ),
        (
            [Stage("a", train="*", weight_decay=0.1)],
            lambda: Digits(lambda module: torch.optim.Rprop(module.parameters())),
            "Stage 'a' sets `weight_decay`, but Rprop has no such option. Leave it out.",
        ),
        (
            [Stage("a", train="*", lr={"net.head": 0.1, "*": 0.2})],
            lambda: Digits(lambda module: torch.optim.LBFGS(module.parameters())),
            "Stage 'a' has 2 learning rates, but LBFGS takes one group of parameters. Give one `lr`, or take another",
        ),
        (ONE, Unbuilt, "The parameter 'extra.weight' has no shape yet. Run a batch through the model before the fit."),
    ],
)
def test_a_model_or_an_optimizer_that_cannot_be_staged_is_refused(stages: Any, make: Any, message: str) -> None:
    assert message in refused(stages, make)


def only_the_head(module: Digits) -> Any:
    return torch.optim.SGD(module.net.head.parameters(), lr=0.1)


class HeadsByHand(ByHand):
    """Two optimizers, which together leave out the stem."""

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net.head, self.net.body)]


@pytest.mark.parametrize(
    ("group", "make", "message"),
    [
        (7, lambda: Digits(only_the_head), "its `group` is 7, but there are the groups 0/0. Name one of them."),
        ("top", lambda: Digits(only_the_head), "its `group` is 'top', but there are the groups 0/0. Name one of them."),
        (None, HeadsByHand, "there are 2 optimizers. Say which takes them, such as `group: 1/0`."),
        ("1/3", HeadsByHand, "its `group` is '1/3', but there are the groups 0/0, 1/0. Name one of them."),
    ],
)
def test_parameters_without_an_optimizer_need_a_group_that_there_is(group: Any, make: Any, message: str) -> None:
    found = refused([Stage("a", train="*", group=group)], make)
    assert "Stage 'a' trains" in found
    assert "that no optimizer holds, such as 'net.stem.0.weight', and " in found
    assert message in found


def test_a_metric_that_is_not_logged_is_named_with_those_that_are() -> None:
    stages = [Stage("a", train="*", until=Until(plateau=Plateau("val/los")))]
    message = (
        "Stage 'a' watches 'val/los', but the module does not log it; it logs 'val/loss'. "
        "Watch one of those, or log 'val/los' in validation_step."
    )
    with pytest.raises(ScheduleError, match=re.escape(message)):
        fit(Digits, [StagedFinetuning(stages, show_plan=False)])


def test_a_schedule_that_finds_no_blocks_is_refused() -> None:
    message = refused(gradual_unfreezing(blocks=["net"]))
    assert message.startswith(
        "gradual_unfreezing finds 1 block in Digits, and needs 2 or more. Name them with `blocks`"
    )
    assert "`at_once` of gradual_unfreezing must be at least 1, but is 0." in refused(gradual_unfreezing(at_once=0))


def test_the_error_is_one_that_strangers_catch() -> None:
    assert issubclass(ScheduleError, ConfigError)
    assert issubclass(ScheduleError, ValueError)


def test_nothing_is_changed_where_stages_are_refused() -> None:
    made: list[Digits] = []

    def make() -> Digits:
        made.append(Digits())
        return made[0]

    with pytest.raises(ScheduleError):
        fit(make, [StagedFinetuning([Stage("a", train="net.head"), Stage("b", train="nothing")], show_plan=False)])
    assert all(parameter.requires_grad for parameter in made[0].parameters())
    assert all(module.training for module in made[0].modules())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", train="*", until=3)], "`until` must be of the kind Until, but is 3. Write `Until(…)`."),
        (
            [Stage("a", train="*", until=Until(plateau="val/loss"))],
            "`until.plateau` must be of the kind Plateau, but is",
        ),
        ([Stage("a", train="*", until=Until(plateau=Plateau(None)))], "`until.plateau.monitor` must be the name of a"),
        ([Stage("a", train="*", warmup=3)], "`warmup` must be of the kind Warmup, but is 3. Write `Warmup(…)`."),
        ([Stage("a", train=3)], "the selector 3 in `train` is a int, not a text."),
        (
            [Stage("a", train="*", restore_best="val/loss")],
            "`restore_best` must be true, false or of the kind Best, but",
        ),
        (
            [Stage("a", train="*", lr_scheduler=lambda optimizer: None)],
            "`lr_scheduler` must give a scheduler, but gives",
        ),
        (None, "`stages` must be a list of Stage or a schedule, such as `gradual_unfreezing()`, but is None."),
        (gradual_unfreezing, "`stages` must be a list of Stage or a schedule, such as `gradual_unfreezing()`, but is"),
        (gradual_unfreezing(until=3), "`until` must be of the kind Until, but is 3."),
        (
            gradual_unfreezing(blocks="head"),
            "`blocks` of gradual_unfreezing must be a list of selectors, but is 'head'.",
        ),
        (gradual_unfreezing(restore_best=True), "Watch one there (`plateau`, `reaches`), or say which"),
    ],
)
def test_a_slip_in_the_kind_of_an_argument_is_a_sentence(stages: Any, message: str) -> None:
    assert message in refused(stages)


def test_the_same_callback_twice_is_refused() -> None:
    callback = StagedFinetuning(ONE, show_plan=False)
    with pytest.raises(ScheduleError, match="The Trainer has two StagedFinetuning"):
        fit(Digits, [callback, callback])


class LogsNothingThatCounts(Digits):
    """Its validation loss is no number."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(float("nan")))


def test_a_plateau_of_what_is_no_number_ends_its_stage() -> None:
    stages = [Stage("a", train="net.head", until=Until(plateau=Plateau("val/loss", patience=2))), *ONE]
    trainer = fit(LogsNothingThatCounts, [StagedFinetuning(stages, show_plan=False)])
    (callback,) = trainer.callbacks[:1]
    assert callback.history[0]["ended"] == "'val/loss' has not improved on nan in 2 looks"


def test_a_stage_that_never_began_is_named_when_the_fit_ends(caplog: pytest.LogCaptureFixture) -> None:
    never = Stage("a", train="net.head", until=Until(reaches=Reaches("val/loss", -1.0)))
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(Digits, [StagedFinetuning([never, *ONE], show_plan=False)], epochs=1, quiet=False)
    assert "The fit ended in stage 'a', before 'all': a stage that never began." in caplog.text
