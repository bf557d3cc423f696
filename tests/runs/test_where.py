from pathlib import Path

import pytest

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.run import Run
from runmodel_ext.runs.where import FIELDS, field_names, parse_condition, value_of
from tests.runs.factory import record_of


def run(**fields: object) -> Run:
    return Run(Path("anywhere"), record_of(**fields))


def holds(text: str, **fields: object) -> bool:
    return parse_condition(text).matches(run(**fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "finished"),
        ("seed", 0),
        ("epoch", 10),
        ("step", 230),
        ("commit", "0f3c5d1e9a7b2c4d6e8f0a1b2c3d4e5f60718293"),
        ("parent", None),
        ("monitor", "val/acc"),
        ("val/acc", 0.98),
        ("model.lr", 0.01),
        ("lr", 0.01),
        ("network.width", 32),
        ("num_workers", 0),
        ("trainer.devices", 1),
        ("idth", None),
        ("no such field", None),
    ],
)
def test_a_field_is_found_by_name_score_key_or_end_of_a_key(field: str, value: object) -> None:
    assert value_of(run(), field) == value


def test_settings_come_before_what_was_left_out_of_them() -> None:
    assert value_of(run(settings={"model.devices": 7}), "devices") == 7


def test_an_end_that_several_settings_share_is_refused_with_their_keys() -> None:
    with pytest.raises(
        ConfigError, match=r"'lr' fits several settings of '.*': 'model.lr', 'optimizer.lr'\. Write the whole"
    ):
        value_of(run(settings={"optimizer.lr": 1.0}), "lr")


@pytest.mark.parametrize(
    "text",
    [
        "model.lr=0.01",
        "model.lr == 1e-2",
        "lr<0.1",
        "lr <= 0.01",
        "lr>=1e-2",
        "lr!=0.1",
        "val/acc>0.9",
        "max_epochs=10.0",
        "pin_memory=false",
        "trainer.gradient_clip_val=none",
        "network.channels=[16, 32]",
        "network=CNN",
        "network=runmodel_ext.networks.CNN",
        "network~NN$",
        "name~lr|defaults",
        "status=finished",
        "status='finished'",
        "tags=baseline",
        "tags!=best",
        "tags~^base",
        "created>2026-11",
        "created<2027",
        "commit=0f3c5d1e",
        "notes='two words'",
        "model.dropout_of_another_model!=0.5",
    ],
)
def test_a_condition_holds(text: str) -> None:
    assert holds(text, tags=["baseline", "cnn"], notes="two words")


@pytest.mark.parametrize(
    "text",
    [
        "model.lr=0.1",
        "model.lr='0.01'",
        "lr<0.01",
        "lr=true",
        "pin_memory=0",
        "network=NN",
        "network=cnn",
        "network~^NN",
        "tags=base",
        "tags!=baseline",
        "status=running",
        "created<2026-11",
        "commit=0f3",
        "parent~x",
        "precision<99",
        "no.such.key=1",
        "no.such.key<1",
        "no.such.key=none",
        "model.class_weights<1",
    ],
)
def test_a_condition_does_not_hold(text: str) -> None:
    assert not holds(text, tags=["baseline", "cnn"])


def test_nan_equals_nan_and_is_in_no_order() -> None:
    scores = {"val/acc": float("nan")}
    assert holds("val/acc=nan", scores=scores)
    assert not holds("val/acc<1", scores=scores)
    assert not holds("val/acc>0", scores=scores)


def test_a_number_looks_like_text_where_the_field_is_text() -> None:
    assert holds("notes=007", notes="007")
    assert not holds("notes=7", notes="007")
    assert holds("digest=1234567", digest="1234567abc")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model.lr",
            r"'model\.lr' has no operator \(=, !=, <, <=, >, >= or ~\)\. Write it like 'model\.lr<0\.01'",
        ),
        ("", r"The condition '' has no operator"),
        ("=3", r"The condition '=3' has no field before its operator\. Write it like"),
        ("lr=>3", r"The condition 'lr=>3' has no operator '=>'; there are =, !=, <, <=, >, >= and ~\."),
        ("lr=!3", r"The condition 'lr=!3' has no operator '=!'"),
        ("lr<", r"The condition 'lr<' has nothing after its '<'\."),
        (
            "name~(",
            r"The condition 'name~\(' has no valid regular expression after its '~' \(.*\)\. Put a backslash",
        ),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused_with_an_example(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_condition(text)


def test_an_order_of_a_number_and_a_word_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'lr<small' asks for an order, but 'lr' is 0\.01 and 'small' is no number\."
    ):
        holds("lr<small")


def test_all_fields_of_some_runs_are_listed_once() -> None:
    names = field_names([run(), run(settings={"model.depth": 3}, scores={"test/acc": 0.9})])
    assert names[: len(FIELDS)] == list(FIELDS)
    assert {"val/acc", "test/acc", "model.lr", "model.depth", "trainer.devices"} <= set(names)
    assert len(names) == len(set(names))
