import datetime
import enum
import json
import pathlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.flat import flatten, plain, split_key


class Colour(enum.Enum):
    RED = 1


def spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def test_a_class_and_its_arguments_become_a_key_and_keys_below_it() -> None:
    config = {
        "model": spec("m.Classification", network=spec("m.CNN", width=32), lr=0.01),
        "data": {"class_path": "m.Digits", "init_args": {"size": 8}, "dict_kwargs": {"extra": True}},
        "trainer": {"max_epochs": 3},
    }
    assert flatten(config) == {
        "model": "m.Classification",
        "model.network": "m.CNN",
        "model.network.width": 32,
        "model.lr": 0.01,
        "data": "m.Digits",
        "data.size": 8,
        "data.extra": True,
        "trainer.max_epochs": 3,
    }


def test_classes_in_a_list_stand_under_their_names_and_are_counted() -> None:
    callbacks = [spec("a.EarlyStopping", patience=3), spec("a.Timer"), spec("b.EarlyStopping", patience=5)]
    assert flatten({"trainer": {"callbacks": callbacks}}) == {
        "trainer.callbacks.EarlyStopping": "a.EarlyStopping",
        "trainer.callbacks.EarlyStopping.patience": 3,
        "trainer.callbacks.Timer": "a.Timer",
        "trainer.callbacks.EarlyStopping#2": "b.EarlyStopping",
        "trainer.callbacks.EarlyStopping#2.patience": 5,
    }


def test_other_lists_and_empty_containers_are_values() -> None:
    config = {
        "a": [],
        "b": {},
        "c": [1, spec("m.X")],
        "d": [{"epoch": 0}, {"epoch": 2}],
        "e": {"class_path": 3},
    }
    assert flatten(config) == {
        "a": [],
        "b": {},
        "c": [1, {"class_path": "m.X", "init_args": {}}],
        "d": [{"epoch": 0}, {"epoch": 2}],
        "e.class_path": 3,
    }


def test_keys_with_signs_that_have_a_meaning_are_quoted() -> None:
    config = {"lr": {"head.*": 1, "a#2": 2, "": 3, 'say "x"': 4, "a": {"b": 5}, "a.b": 6, "plain-key_1": 7}}
    assert flatten(config) == {
        'lr."head.*"': 1,
        'lr."a#2"': 2,
        'lr.""': 3,
        r'lr."say \"x\""': 4,
        "lr.a.b": 5,
        'lr."a.b"': 6,
        "lr.plain-key_1": 7,
    }


def test_two_keys_that_read_alike_both_stay() -> None:
    both = {"class_path": "m.X", "init_args": {"a": 1}, "dict_kwargs": {"a": 2}}
    assert flatten({"w": {1: "x", "1": "y"}, "m": both}) == {
        "w.1": "x",
        "w.1#2": "y",
        "m": "m.X",
        "m.a": 1,
        "m.a#2": 2,
    }


def test_values_are_plain_json() -> None:
    config = {
        "t": (1, (2.5,)),
        "e": Colour.RED,
        "p": pathlib.PurePosixPath("a/b"),
        "s": {"b", "a"},
        "d": datetime.timedelta(minutes=5),
        "b": b"\x01",
        "l": [{Colour.RED: None, 1: True, "1": False}],
    }
    flat = flatten(config)
    assert flat == {
        "t": [1, [2.5]],
        "e": "RED",
        "p": "a/b",
        "s": ["a", "b"],
        "d": "0:05:00",
        "b": "01",
        "l": [{"RED": None, "1": True, "1#2": False}],
    }
    assert json.loads(json.dumps(flat)) == flat


def test_numbers_of_numpy_become_plain_ones() -> None:
    np = pytest.importorskip("numpy")
    value = plain([np.float64(0.5), np.float32(0.5), np.int64(3)])
    assert [type(item) for item in value] == [float, float, int]


def test_a_value_that_is_no_setting_is_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r"`model\.act` holds a value of type 'builtins\.builtin_function"):
        flatten({"model": spec("m.X", act=len)})


keys = st.text(max_size=5) | st.text(st.sampled_from('."#\\a \n\xe9'), max_size=5)
trees = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(keys.filter(lambda key: key != "class_path"), inner, min_size=1, max_size=4),
    max_leaves=15,
)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_no_two_leaves_share_a_flat_key_and_none_is_lost(config: dict[str, Any]) -> None:
    rebuilt: dict[str, Any] = {}
    for key, value in flatten(config).items():
        *above, last = [json.loads(part) if part.startswith('"') else part for part in split_key(key)]
        place = rebuilt
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    assert rebuilt == config
