import datetime
import enum
import itertools
import math
import os
import pathlib
import random
import subprocess
import sys
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.canonical import SHOWN, canonical_json, digest


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


def equal(left: Any, right: Any) -> bool:
    """The oracle: what "the same configuration" means, without any text."""
    if left is right:
        return True
    left, right = spelled_out(left), spelled_out(right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        pairs, others = list(left.items()), list(right.items())
        return len(pairs) == len(others) and all(any(equal(p, other) for other in others) for p in pairs)
    if isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset)):
        return all(any(equal(a, b) for b in right) for a in left) and all(any(equal(a, b) for a in left) for b in right)
    return type(left) is type(right) and bool(left == right or (left != left and right != right))


def spelled_out(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    return value.as_posix() if isinstance(value, pathlib.PurePath) else value


LOOK_ALIKES: list[Any] = [
    *(0, 0.0, -0.0, False, "0", "0.0", 1, 1.0, True, "1", "true", "1.0", None, "null", ""),
    *(2, -1, 10**20, 1e20, 0.1, math.nextafter(0.1, 1), "0.1", math.nan, "nan", math.inf, "inf"),
    *("$", "$float", '{"$float":"1.0"}', {"$float": "1.0"}, {"$$float": "1.0"}, {"$set": [1]}, {1}, {1, 2}),
    *({"$key:1": 2}, {"$$key:1": 2}, {1: 2}, {"1": 2}, {True: 2}, {1.0: 2}, {None: 2}, {"null": 2}),
    *({"$bytes": "31"}, b"1", b"", {"$microseconds": 1}, datetime.timedelta(microseconds=1)),
    *("\ud83d\ude00", "\U0001f600", {"$surrogates": "eda0bdedb880"}, "\xe9", "e\u0301", frozenset("ab")),
    *({}, [], (), set(), [1], [1.0], (1,), [[1]], {"key": 1}, [{"key": 1}], [["key", 1]]),
    *(Colour.RED, "RED", Colour.BLUE, "blue", Level.LOW, pathlib.PurePosixPath("a/b"), "a/b"),
]

plain_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
surrogates = st.text(st.characters(categories=["Cs"]), max_size=3)
leaves = plain_leaves | surrogates | st.sampled_from(LOOK_ALIKES) | st.timedeltas() | st.binary(max_size=4)
names = st.text(max_size=6) | st.sampled_from(["lr", "$float", "$set", "$$float", "$key:1", "a.b"])
sets = st.sets(st.integers() | st.floats(allow_nan=False) | st.text(max_size=4), max_size=4)
values = st.recursive(
    leaves | sets | sets.map(frozenset),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
configs = st.dictionaries(names, values, max_size=5)


def respelled(value: Any, rng: random.Random) -> Any:
    """The same configuration, written otherwise."""
    if isinstance(value, dict):
        entries = [(name, respelled(item, rng)) for name, item in value.items()]
        rng.shuffle(entries)
        return rng.choice([dict, OrderedDict, lambda items: MappingProxyType(dict(items))])(entries)
    if isinstance(value, (list, tuple)):
        return rng.choice([list, tuple])(respelled(item, rng) for item in value)
    if isinstance(value, (set, frozenset)):
        items = list(value)
        rng.shuffle(items)
        return rng.choice([set, frozenset])(items)
    if isinstance(value, float) and value == 0:
        return rng.choice([0.0, -0.0])
    if isinstance(value, (enum.Enum, pathlib.PurePath)):
        return rng.choice([value, spelled_out(value)])
    return rng.choice([value, Text(value)]) if isinstance(value, str) else value


@settings(max_examples=300, deadline=None)
@given(configs, st.integers(0, 2**32))
def test_equal_configurations_in_any_spelling_share_the_digest(config: dict[str, Any], seed: int) -> None:
    assert digest(respelled(config, random.Random(seed))) == digest(config)


@settings(max_examples=300, deadline=None)
@given(configs, configs)
def test_two_configurations_share_the_digest_exactly_where_they_are_equal(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) is equal(one, other)


@settings(max_examples=300, deadline=None)
@given(values, values)
def test_two_values_share_the_digest_exactly_where_they_are_equal(one: Any, other: Any) -> None:
    assert (digest({"key": one}) == digest({"key": other})) is equal(one, other)


@pytest.mark.parametrize("form", ["alone", "in a list", "below"])
def test_look_alikes_share_the_digest_exactly_where_they_are_equal(form: str) -> None:
    digests = [
        digest({"a": {"alone": value, "in a list": [value, 0], "below": {"b": value}}[form]}) for value in LOOK_ALIKES
    ]
    for (one, first), (other, second) in itertools.combinations(zip(LOOK_ALIKES, digests, strict=True), 2):
        assert (first == second) is equal(one, other), (one, other)


def grown(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 2 or (depth and kind < 0.5):
        return rng.choice(LOOK_ALIKES) if kind < 0.35 else rng.choice((rng.random(), rng.getrandbits(20)))
    if depth and kind < 0.6:
        return [grown(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice("abcdefgh"): grown(rng, depth + 1) for _ in range(rng.randrange(1, 5))}


def mutated(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """A copy in which one place differs (or is written otherwise)."""
    if isinstance(value, dict) and value and (not depth or rng.random() < 0.9):
        name = rng.choice(list(value))
        if rng.random() < 0.05:
            return {key if key != name else "renamed": item for key, item in value.items()}
        return {**value, name: mutated(rng, value[name], depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(rng, value[place], depth + 1), *value[place + 1 :]]
    if isinstance(value, float) and math.isfinite(value) and rng.random() < 0.5:
        return math.nextafter(value, math.inf)
    return grown(rng, depth + 2)


def test_of_100_000_pairs_that_differ_in_one_place_none_shares_the_digest() -> None:
    rng = random.Random(20261123)
    differing = same = 0
    seen: dict[str, Any] = {}
    while differing < 100_000:
        config = grown(rng)
        identity = digest(config)
        for _ in range(20):
            changed = mutated(rng, config)
            other = digest(changed)
            assert (identity == other) is equal(config, changed), (config, changed)
            assert equal(seen.setdefault(other, changed), changed)
            same, differing = same + (identity == other), differing + (identity != other)
            config, identity = changed, other
    assert same > 1000  # the walk also meets other spellings of the same configuration


@pytest.mark.slow
def test_a_million_distinct_configurations_have_a_million_digests() -> None:
    kinds = (int, float, str, lambda number: [number], lambda number: {"width": number})
    digests = {
        digest({"lr": kind(number)})[:26]  # 130 of the 256 bits tell them apart already
        for number in range(200_000)
        for kind in kinds
    }
    assert len(digests) == 1_000_000


def test_the_canonical_text_of_a_configuration_never_changes() -> None:
    config = {
        "model": {
            "class_path": "m.Net",
            "init_args": {"lr": 1e-3, "width": 64, "act": Colour.RED, "s": {"b", "a"}},
        },
        "data": {"root": pathlib.PureWindowsPath("data\\x"), "$odd": (True, None), 3: b"\x00"},
        "trainer": {"max_time": datetime.timedelta(hours=1), "limit": math.inf},
    }
    assert canonical_json(config) == (
        '{"data":{"$$odd":[true,null],"$key:3":{"$bytes":"00"},"root":"data/x"},'
        '"model":{"class_path":"m.Net","init_args":{"act":"RED","lr":{"$float":"0.001"},'
        '"s":{"$set":["a","b"]},"width":64}},'
        '"trainer":{"limit":{"$float":"inf"},"max_time":{"$microseconds":3600000000}}}'
    )
    assert digest(config) == "kdwiy4ciepzpkhahlp3h24aecpzskxeaexwurbfm27ynnky6jq6q"


def test_a_digest_is_52_signs_that_no_file_system_confuses() -> None:
    for number in range(1000):
        assert set(digest({"n": number})) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert len(digest({})) == 52
    assert SHOWN == 8


@pytest.mark.parametrize("hash_seed", ["0", "1", "12345"])
def test_the_digest_is_the_same_in_every_process(hash_seed: str) -> None:
    code = "from runmodel_ext.runs.canonical import digest; print(digest({'s': set('abcdefgh')}))"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"s": set("abcdefgh")})


def test_numbers_of_numpy_count_as_the_numbers_that_they_are() -> None:
    np = pytest.importorskip("numpy")
    assert digest({"lr": np.float64(0.1), "n": np.int32(3)}) == digest({"lr": 0.1, "n": 3})
    with pytest.raises(ConfigError, match=r"`w\[1\]` holds a value of type 'numpy.ndarray'"):
        digest({"w": [0, np.zeros(2)]})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model": {"init_args": {"act": len}}},
            r"`model\.init_args\.act` .* 'builtins\.builtin_function_or_method'",
        ),
        (
            {"model": [{"a": object()}]},
            r"`model\[0\]\.a` holds a value of type 'builtins\.object', which cannot",
        ),
        ({"data": {object(): 1}}, r"`data\.object` holds a value of type 'builtins\.object'"),
        ({"data": {"s": {1j}}}, r"`data\.s` holds a value of type 'builtins\.complex'"),
        ({"data": {"RED": 1, Colour.RED: 2}}, r"`data\.Colour` is there twice, .* Keep one of them\."),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_key_and_type(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        digest(config)
    assert "0x" not in str(caught.value)


def test_an_unnamed_mix_of_flags_is_never_taken_for_nothing() -> None:
    config = {"rights": Rights.READ | Rights.WRITE}
    if sys.version_info >= (3, 11):
        assert canonical_json(config) == '{"rights":"READ|WRITE"}'
    else:
        with pytest.raises(ConfigError, match="`rights` holds a value of type"):
            canonical_json(config)


def test_a_configuration_that_contains_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["model"] = {"parent": config}
    with pytest.raises(ConfigError, match="nested too deeply, or contains itself"):
        digest(config)
