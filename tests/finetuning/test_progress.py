"""When a stage ends, decided without a Trainer."""

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext import Stage, Until
from runmodel_ext.finetuning import Best, Plateau, Position, Progress, Reaches

WHOLE = st.integers(1, 6)
POSITIONS = st.builds(Position, st.integers(0, 9), st.integers(0, 99), st.floats(0, 1), st.booleans())
VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 1)), max_size=12)
MODES = st.sampled_from(["min", "max"])


def begun(at: Position) -> Progress:
    progress = Progress()
    progress.begin(0, at)
    return progress


def stage(until: Until) -> Stage:
    return Stage("one", train="*", until=until)


@settings(deadline=None)
@given(
    POSITIONS,
    POSITIONS,
    st.none() | WHOLE,
    st.none() | WHOLE,
    st.none() | st.floats(0.1, 1),
)
def test_of_several_conditions_the_first_ends_a_stage(
    start: Position, now: Position, epochs: int | None, steps: int | None, fraction: float | None
):
    progress = begun(start)
    alone = [Until(epochs=epochs), Until(steps=steps), Until(fraction=fraction)]
    reasons = [progress.due(stage(until), now) for until in alone]
    together = progress.due(stage(Until(epochs=epochs, steps=steps, fraction=fraction)), now)
    assert together == next((reason for reason in reasons if reason), None)


@settings(deadline=None)
@given(POSITIONS, POSITIONS, WHOLE, WHOLE, st.floats(0.1, 1), st.integers(0, 5), st.integers(0, 50), st.floats(0, 1))
def test_what_is_due_stays_due(
    start: Position, now: Position, epochs: int, steps: int, fraction: float, later: int, more: int, share: float
):
    progress = begun(start)
    until = stage(Until(epochs=epochs, steps=steps, fraction=fraction))
    after = Position(now.epoch + later, now.step + more, max(now.share, share))
    assert progress.due(until, now) is None or progress.due(until, after) is not None


@settings(deadline=None)
@given(POSITIONS, WHOLE, WHOLE)
def test_epochs_and_steps_count_from_the_start_of_the_stage(start: Position, epochs: int, steps: int):
    progress = begun(start)
    first = start.epoch + start.within  # an epoch that is on already does not count
    ends = [epoch for epoch in range(30) if progress.due(stage(Until(epochs=epochs)), Position(epoch, start.step))]
    assert ends[0] == first + epochs
    ends = [step for step in range(200) if progress.due(stage(Until(steps=steps)), Position(start.epoch, step))]
    assert ends[0] == start.step + steps


def test_a_share_that_is_not_known_ends_nothing():
    progress = begun(Position(0, 0))
    assert progress.due(stage(Until(fraction=0.1)), Position(9, 99, math.nan)) is None
    assert progress.due(stage(Until(fraction=0.1)), Position(9, 99, 0.1)) == "0.1 of the fit is over"


def test_a_share_counts_from_the_start_of_the_stage_in_spite_of_rounding():
    progress = begun(Position(0, 0, 0.1 + 0.2))
    assert progress.due(stage(Until(fraction=0.3)), Position(0, 0, 0.6)) == "0.3 of the fit is over"


def ends_by_hand(values: list[float], patience: int, by: float, mode: str) -> int | None:
    """The number of the look at which a plateau is there."""
    best, wait = None, 0
    for look, value in enumerate(values):
        gain = math.inf if best is None else (value - best if mode == "max" else best - value)
        best, wait = (value, 0) if gain > by else (best, wait + 1)
        if wait >= patience:
            return look
    return None


@settings(deadline=None)
@given(VALUES, WHOLE, st.sampled_from([0.0, 0.25, 1.05]), MODES)
def test_a_plateau_is_so_many_looks_without_an_improvement(values: list[float], patience: int, by: float, mode: str):
    one = stage(Until(plateau=Plateau("x", patience, by, mode)))
    progress = begun(Position(0, 0))
    ended = None
    for look, value in enumerate(values):
        progress.look(one, {"x": value})
        if progress.due(one, Position(0, 0)) and ended is None:
            ended = look
    assert ended == ends_by_hand(values, patience, by, mode)
    if ended is not None:
        assert str(progress.reason).startswith("'x' has not improved on ")


@settings(deadline=None)
@given(VALUES, st.floats(-5, 5), MODES)
def test_a_value_that_is_reached_ends_the_stage_at_once(values: list[float], wanted: float, mode: str):
    one = stage(Until(reaches=Reaches("x", wanted, mode)))
    progress = begun(Position(0, 0))
    for look, value in enumerate(values):
        progress.look(one, {"x": value})
        there = [other >= wanted if mode == "max" else other <= wanted for other in values[: look + 1]]
        assert (progress.due(one, Position(0, 0)) is not None) == any(there)


@settings(deadline=None)
@given(VALUES, MODES)
def test_the_best_value_is_the_first_of_the_best_ones(values: list[float], mode: str):
    progress = begun(Position(0, 0))
    improved = [look for look, value in enumerate(values) if progress.improves(Best("x", mode), value)]
    if values:
        best = max(values) if mode == "max" else min(values)
        assert progress.best == best
        assert improved[-1] == values.index(best)
    else:
        assert improved == []


def test_values_that_are_no_numbers_are_never_the_best_and_do_not_hold_a_plateau_up():
    progress = begun(Position(0, 0))
    assert not progress.improves(Best("x"), math.nan)
    assert progress.improves(Best("x"), 1.0)
    assert not progress.improves(Best("x"), math.nan)
    one = stage(Until(plateau=Plateau("x", patience=2)))
    for value in (math.nan, math.nan, 1.0, math.nan, math.nan):
        assert progress.reason is None
        progress.look(one, {"x": value})
    assert progress.reason == "'x' has not improved on 1 in 2 looks"


def test_a_plateau_of_nothing_but_nan_ends_nothing_and_infinity_is_a_number():
    one = stage(Until(plateau=Plateau("x", patience=1)))
    progress = begun(Position(0, 0))
    progress.look(one, {"x": math.inf})
    progress.look(one, {"x": 1.0})
    assert progress.reason is None
    progress.look(one, {"x": math.inf})
    assert progress.reason == "'x' has not improved on 1 in 1 look"


@settings(deadline=None)
@given(VALUES, VALUES, WHOLE, MODES)
def test_a_progress_that_is_saved_goes_on_as_one_that_is_not(
    before: list[float], after: list[float], patience: int, mode: str
):
    one = stage(Until(plateau=Plateau("x", patience, mode=mode)))
    progress = begun(Position(2, 30, 0.25, within=True))
    for value in before:
        progress.improves(Best("x", mode), value)
        progress.look(one, {"x": value})
    restored = Progress()
    restored.load_state_dict(copy.deepcopy(progress.state_dict()))
    assert restored == progress
    for value in after:
        assert restored.improves(Best("x", mode), value) == progress.improves(Best("x", mode), value)
        for each in (progress, restored):
            each.look(one, {"x": value})
    assert restored == progress


def test_a_new_stage_has_seen_nothing_and_what_is_over_stays_noted():
    progress = begun(Position(0, 0))
    one = stage(Until(plateau=Plateau("x", patience=1)))
    for value in (1.0, 2.0):
        progress.look(one, {"x": value})
    passed = progress.end(one, Position(2, 9), str(progress.reason))
    assert passed == {"stage": "one", "from": {"epoch": 0, "step": 0}, "to": {"epoch": 2, "step": 9},
                      "ended": "'x' has not improved on 1 in 1 look"}  # fmt: skip
    progress.begin(1, Position(2, 9, 0.5))
    assert (progress.reason, progress.lowest, progress.wait, progress.best) == (None, None, 0, None)
    assert (progress.index, progress.epoch, progress.step, progress.share) == (1, 2, 9, 0.5)
    assert progress.passed == [passed]


def test_a_stage_that_is_on_again_after_a_resume_has_not_ended():
    progress = begun(Position(0, 0))
    progress.end(stage(Until(epochs=1)), Position(1, 4), "1 epoch is over")
    progress.begin(1, Position(1, 4))
    progress.end(stage(Until(epochs=1)), Position(2, 8), "the fit ended")
    longer = Progress()
    longer.load_state_dict(progress.state_dict())
    assert [each["ended"] for each in longer.passed] == ["1 epoch is over"]


@pytest.mark.parametrize(
    ("until", "at", "reason"),
    [
        (Until(epochs=1), Position(1, 0), "1 epoch is over"),
        (Until(epochs=2), Position(2, 0), "2 epochs are over"),
        (Until(steps=1), Position(0, 1), "1 step is over"),
        (Until(steps=10), Position(0, 12), "10 steps are over"),
        (Until(fraction=1 / 3), Position(0, 0, 0.5), "0.3333 of the fit is over"),
        (Until(), Position(99, 99, 1.0), None),
    ],
)
def test_why_a_stage_ended_is_said_in_words(until: Until, at: Position, reason: str | None):
    assert begun(Position(0, 0)).due(stage(until), at) == reason
