"""What a user declares: the same in Python and in YAML."""

import json

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext import Stage, Until
from runmodel_ext.finetuning import Best, Plateau, Reaches, Warmup, described, problems_of_stages

NAMES = st.text("abc/._*[]:é \"'#", min_size=1, max_size=6).filter(str.strip)
RATES = st.floats(1e-9, 10, allow_nan=False)
MODES = st.sampled_from(["min", "max"])
SELECTORS = st.one_of(NAMES, st.lists(NAMES, max_size=3))
TABLES = st.dictionaries(NAMES, RATES, min_size=1, max_size=3)


def optional(*choices: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.none(), *choices)


PLATEAUS = st.builds(Plateau, NAMES, st.integers(1, 9), st.floats(0, 1), MODES)
UNTILS = st.builds(
    Until, optional(st.integers(1, 99)), optional(st.integers(1, 999)), optional(st.floats(0.01, 1)),
    optional(PLATEAUS), optional(st.builds(Reaches, NAMES, st.floats(-9, 9), MODES)),
)  # fmt: skip
STAGES = st.builds(
    Stage, NAMES, SELECTORS, optional(RATES, TABLES), optional(UNTILS), SELECTORS, optional(RATES, TABLES),
    optional(st.floats(0.01, 1)), optional(st.builds(Warmup, st.integers(1, 99), st.floats(0, 0.99))), st.none(),
    st.sampled_from(["epoch", "step"]), st.sampled_from(["keep", "reset"]),
    st.one_of(st.booleans(), st.builds(Best, NAMES, MODES)), SELECTORS, SELECTORS, optional(st.integers(0, 3), NAMES),
)  # fmt: skip


@settings(deadline=None)
@given(STAGES)
def test_a_stage_that_is_described_and_built_again_is_the_same(stage: Stage):
    assert Stage(**described(stage)) == stage


@settings(deadline=None)
@given(st.lists(STAGES, max_size=3))
def test_stages_go_through_yaml_and_json_unchanged(stages: list[Stage]):
    plain = [described(stage) for stage in stages]
    for again in (yaml.safe_load(yaml.safe_dump(plain, sort_keys=False)), json.loads(json.dumps(plain))):
        assert [Stage(**each) for each in again] == stages
        tables = [list(each["lr"].items()) for each in again if isinstance(each.get("lr"), dict)]
        assert tables == [list(each.lr.items()) for each in stages if isinstance(each.lr, dict)]  # whose order counts


@settings(deadline=None)
@given(STAGES)
def test_a_description_leaves_out_what_is_at_its_default(stage: Stage):
    plain = described(stage)
    assert list(plain)[:2] == ["name", "train"] or not stage.train
    assert described(Stage(stage.name, "head")) == {"name": stage.name, "train": "head"}
    for name in set(plain) - {"name", "train"}:
        assert getattr(stage, name) != getattr(Stage("one", "*"), name)


@settings(deadline=None)
@given(STAGES)
def test_problems_are_sentences_that_name_the_stage(stage: Stage):
    for problem in problems_of_stages([stage]):
        assert problem.startswith(f"Stage '{stage.name}': ")
        assert problem.endswith(".")


@settings(deadline=None)
@given(st.integers(1, 50), st.floats(0, 0.999), st.integers(0, 80))
def test_a_warm_up_rises_to_the_whole_rate_and_stays_there(steps: int, start: float, step: int):
    warmup = Warmup(steps, start)
    assert start < warmup.factor(step) <= 1.0
    assert warmup.factor(step) <= warmup.factor(step + 1)
    assert (warmup.factor(step) == 1.0) == (step + 1 >= steps)


def test_one_selector_and_a_list_of_one_are_the_same():
    assert Stage("one", train="head") == Stage("one", train=["head"])
    assert Stage("one", train="head", exclude=()) == Stage("one", train="head")


def test_what_a_stage_watches_follows_from_its_conditions_and_its_best():
    until = Until(plateau=Plateau("val/loss"), reaches=Reaches("val/accuracy", 0.9, "max"))
    assert Stage("one", train="*", until=until).monitors == {"val/loss": "min", "val/accuracy": "max"}
    assert Stage("one", train="*", until=until).best is None
    assert Stage("one", train="*", until=until, restore_best=True).best == Best("val/loss", "min")
    stage = Stage("one", train="*", until=until, restore_best=Best("f1", "max"))
    assert stage.monitors == {"val/loss": "min", "val/accuracy": "max", "f1": "max"}
