import os
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runmodel_ext.errors import ConfigError
from runmodel_ext.runs.names import (
    changes_component,
    data_label,
    labels,
    model_label,
    safe_component,
    spell,
    suffixes,
)

DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9\xb9\xb2\xb3])(\..*)?", re.IGNORECASE)
NASTY = [
    *(
        "",
        ".",
        "..",
        "...",
        " ",
        "../../x",
        "/etc/passwd",
        "C:\\x",
        "\\\\server\\share",
        "a/b\\c:d",
        "~",
        "~root",
    ),
    *(
        "$HOME",
        "%TEMP%",
        "-rf",
        "--help",
        ".hidden",
        "x.",
        "x. ",
        "x ",
        "a\nb",
        "a\0b",
        "\x7f",
        "it's",
        '"q"',
        "*?<>|",
    ),
    *(
        "CON",
        "con.txt",
        "Nul",
        "AUX.",
        "com1",
        "LPT9.csv",
        "COM\xb9",
        "com\u2070",
        "prn .x",
        "CON:",
        ".nul",
        "-nul",
    ),
    *(
        "\uff0e\uff0e\uff0f",
        "\u202e",
        "\u0301",
        "\ud800",
        "\U0001f600" * 99,
        "x" * 5000,
        "." * 500,
        "e\u0301" * 200,
    ),
    *(
        "x" * 119 + ".",
        "x" * 119 + "..y",
        "nul" + "." * 200,
        "\uff23\uff2f\uff2e",
        "=",
        "+",
        ",",
        "_",
        "{data}",
    ),
]
texts = st.text(max_size=200) | st.sampled_from(NASTY)
values = st.recursive(
    texts | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


def assert_safe(component: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9.+=,_-]{1,120}", component), component
    assert component[0] not in ".-"
    assert component[-1] != "."
    assert not DEVICES.fullmatch(component)
    assert PurePosixPath(component).parts == PureWindowsPath(component).parts == (component,)
    assert os.path.expandvars(os.path.expanduser(component)) == component  # noqa: PTH111


@settings(max_examples=1000, deadline=None)
@given(texts | st.text(st.sampled_from(".-_ conulCOMN1/$~\xb9\u0301"), max_size=9))
def test_any_text_becomes_one_component_that_every_system_takes(text: str) -> None:
    assert_safe(safe_component(text))


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_becomes_one_component_that_every_system_takes(text: str) -> None:
    assert_safe(safe_component(text))
    assert_safe(safe_component(spell(text)))
    assert_safe(safe_component(changes_component({text: text, "lr": [text] * 9})))


@settings(deadline=None)
@given(texts, st.integers(1, 120))
@example("con", 3)
@example("con.x", 3)
@example("..a", 2)
def test_a_component_keeps_within_any_limit(text: str, limit: int) -> None:
    component = safe_component(text, limit)
    assert 1 <= len(component) <= limit
    assert_safe(component)


@pytest.mark.parametrize("text", ["lr=0.01,width=64", "v1", "digits", "seed=0", "classification-cnn", "a+b_c.d"])
def test_text_that_is_safe_stays_as_it_is(text: str) -> None:
    assert safe_component(text) == text


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        *((0.1, "0.1"), (1e-1, "0.1"), (0.10, "0.1"), (1e-5, "1e-05"), (0.00001, "1e-05"), (1e22, "1e+22")),
        *((1, "1"), (1.0, "1.0"), (-0.0, "0.0"), (-3, "-3"), (float("nan"), "nan"), (float("-inf"), "-inf")),
        *(
            (True, "true"),
            (None, "none"),
            ("", "empty"),
            ([], "empty"),
            ([64, 32], "64+32"),
            ((0.9, 0.99), "0.9+0.99"),
        ),
        *(
            ("torch.optim.Adam", "Adam"),
            ("pkg.Outer.Inner", "Inner"),
            ("data.csv", "data.csv"),
            ("a, b=c", "a_b_c"),
        ),
        ({"class_path": "torch.nn.ReLU", "init_args": {"inplace": True}}, "ReLU"),
        ({"head": 0.1, "*": [1, 2]}, "head-0.1+_-1+2"),
        (list(range(1000)), "0+1+2+3+4+5+994more"),
    ],
)
def test_a_value_has_one_short_spelling(value: Any, spelling: str) -> None:
    assert spell(value) == spelling


def test_changes_keep_their_order_and_show_all_that_fits() -> None:
    changes = {"lr": 0.01, "network": "my.nets.CNN", "betas": (0.9, 0.99), "amsgrad": True}
    assert changes_component(changes) == "lr=0.01,network=CNN,betas=0.9+0.99,amsgrad=true"


def test_changes_that_are_too_many_are_counted() -> None:
    changes = {f"key{number}": number for number in range(100)}
    component = changes_component(changes, limit=40)
    assert component == "key0=0,key1=1,key2=2,key3=3,key4=4,+95"


def test_a_long_value_is_cut_before_any_change_is_left_out() -> None:
    component = changes_component({"lr": 0.01, "path": "x" * 200, "width": 64})
    assert component == f"lr=0.01,path={'x' * 22}..,width=64"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(texts, values, max_size=12), st.integers(1, 120))
def test_changes_fit_any_limit_in_safe_signs(changes: dict[str, Any], limit: int) -> None:
    component = changes_component(changes, limit)
    assert 1 <= len(component) <= limit
    assert re.fullmatch(r"[A-Za-z0-9.+=,_-]+", component)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(texts, texts, min_size=1, max_size=12), st.integers(3, 120))
def test_every_change_is_shown_or_counted(changes: dict[str, Any], limit: int) -> None:
    component = changes_component(changes, limit)
    left_out = re.search(r"(?:^|,)\+(\d+)$", component)
    assert component.count("=") + int(left_out[1] if left_out else 0) == len(changes)


def test_a_very_long_list_is_spelled_at_once() -> None:
    assert changes_component({"sizes": list(range(100_000))}) == "sizes=0+1+2+3+4+5+99994more"


def test_a_label_is_the_shortest_suffix_that_no_other_key_shares() -> None:
    keys = ["model.lr", "model.head.lr", "model.head.width", "trainer.max_epochs", "lr", 'lrs."head.*"']
    assert labels(keys, keys, {}) == {
        "model.lr": "model.lr",
        "model.head.lr": "head.lr",
        "model.head.width": "width",
        "trainer.max_epochs": "max_epochs",
        "lr": "lr",
        'lrs."head.*"': '"head.*"',
    }


def test_a_label_looks_at_all_keys_not_only_at_the_chosen_ones() -> None:
    assert labels(["model.lr", "optimizer.lr"], ["model.lr"], {}) == {"model.lr": "model.lr"}


keys = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, max_size=20)


@settings(max_examples=300, deadline=None)
@given(keys)
def test_every_label_means_one_key(keys: list[str]) -> None:
    found = labels(keys, keys, {})
    assert list(found) == keys
    assert len(set(found.values())) == len(keys)
    for key, label in found.items():
        owners = [other for other in keys if label in suffixes(other)]
        assert owners == [key] or label == key


def test_an_alias_takes_the_place_of_a_label() -> None:
    keys = ["model.lr", "optimizer.lr", "model.width"]
    assert labels(keys, keys, {"model.lr": "lr", "model.width": "w"}) == {
        "model.lr": "lr",
        "optimizer.lr": "optimizer.lr",
        "model.width": "w",
    }


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        (
            {"model.rl": "x"},
            r"alias 'x' is for `model\.rl`, which is not a key here\. Did you mean 'model\.lr'",
        ),
        (
            {"model.lr": "width"},
            r"alias 'width' of `model\.lr` already means `model\.width`\. Choose another",
        ),
        ({"model.lr": "w", "model.width": "w"}, r"alias 'w' of `model\.width` already means `model\.lr`"),
        ({"model.lr": "a/b"}, r"alias 'a/b' of `model\.lr` cannot stand in a name\. Write it with letters"),
        ({"model.lr": ""}, r"alias '' of `model\.lr` cannot stand in a name"),
    ],
)
def test_an_alias_that_misleads_is_refused(aliases: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labels(["model.lr", "model.width"], ["model.lr"], aliases)


@pytest.mark.parametrize(
    ("class_path", "label"),
    [
        ("runmodel_ext.data.Digits", "digits"),
        ("my.MNISTDataModule", "mnist"),
        ("my.CIFAR10Data", "cifar10"),
        ("my.LightningDataModule", "data-module"),
        ("ImageFolders", "image-folders"),
        ("my.Data", "data"),
        ("my.\u5b66", "data"),
        (None, "no-data"),
    ],
)
def test_the_data_are_named_by_their_class(class_path: str | None, label: str) -> None:
    assert data_label(class_path) == label


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"model": "m.ClassificationModule", "model.network": "n.CNN"}, "classification-cnn"),
        ({"model": "m.ClassificationModule", "model.network": "resnet18"}, "classification-resnet18"),
        ({"model": "m.RegressionModule", "model.network": None}, "regression"),
        ({"model": "LitAutoEncoder"}, "auto-encoder"),
        ({"model": "m.LittleModel"}, "little"),
        ({"model": "m.LightningResNet"}, "res-net"),
        ({"model": "m.MyLightningModule"}, "my"),
        ({"model": "m.Module"}, "module"),
        ({"model": "m.LightningModule"}, "module"),
        ({}, "model"),
    ],
)
def test_the_model_is_named_by_its_class_and_its_network(settings: dict[str, Any], label: str) -> None:
    assert model_label(settings) == label


@settings(deadline=None)
@given(st.none() | texts, texts)
def test_data_and_model_labels_are_safe_whatever_the_class_is_called(one: str | None, other: str) -> None:
    for label in (data_label(one), model_label({"model": one, "model.network": other})):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,120}", label)
