import re
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmodel_ext.errors import NameTemplateError
from runmodel_ext.runs.canonical import digest
from runmodel_ext.runs.template import DEFAULT_TEMPLATE, NameTemplate

FIELDS = {
    "data": "digits",
    "model": "classification-cnn",
    "changes": {"lr": 0.01, "width": 64},
    "digest": "k3j2h5a7" + "b" * 44,
    "seed": 0,
    "version": 1,
}
SETTINGS = {"model": "m.Classification", "model.lr": 0.01, "model.net.width": 64, "optimizer.lr": 0.5}
DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?", re.IGNORECASE)

texts = st.text(max_size=300) | st.sampled_from(["", "..", "a/b", "../../x", "\\", "CON", "nul.x", "\n", "x" * 999])
values = texts | st.none() | st.integers() | st.floats() | st.lists(texts, max_size=40)
fields = st.fixed_dictionaries(
    {
        "data": texts,
        "model": texts,
        "changes": texts | st.dictionaries(texts, values, max_size=20),
        "digest": st.integers().map(lambda number: digest({"n": number})),
        "seed": values,
        "version": st.integers(1, 10**30),
    }
)


def assert_safe(path: PurePosixPath) -> None:
    assert not path.is_absolute()
    for component in path.parts:
        assert re.fullmatch(r"[A-Za-z0-9+=,_][A-Za-z0-9.+=,_-]{0,119}", component), component
        assert not component.endswith(".")
        assert not DEVICES.fullmatch(component)


def test_the_default_name_reads_as_the_design_says() -> None:
    path = NameTemplate().fill(FIELDS, SETTINGS)
    assert str(path) == "digits/classification-cnn/lr=0.01,width=64-k3j2h5a7/seed=0/v1"
    assert NameTemplate().family(FIELDS, SETTINGS) == path.parent


def test_a_run_without_changes_or_seed_still_has_a_name() -> None:
    path = NameTemplate().fill({**FIELDS, "changes": {}, "seed": None}, SETTINGS)
    assert str(path) == "digits/classification-cnn/default-k3j2h5a7/seed=none/v1"


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("{data}", "digits/v1"),
        ("{digest}-{version}", "k3j2h5a7-1"),
        ("{model.lr}/{digest}/run{version}", "0.01/k3j2h5a7/run1"),
        ("{width}-{optimizer.lr}-{digest}", "64-0.5-k3j2h5a7/v1"),
        ("{net.width}/{{x}}/{digest}", "64/_x_/k3j2h5a7/v1"),
        ("my runs/caf\xe9-{seed}", "my_runs/cafe-0/v1"),
        ("con/{digest}", "_con/k3j2h5a7/v1"),
        ("{model}/{changes}", "classification-cnn/lr=0.01,width=64/v1"),
    ],
)
def test_a_template_gives_its_own_layout(template: str, path: str) -> None:
    name = NameTemplate(template)
    name.check(SETTINGS)
    assert str(name.fill(FIELDS, SETTINGS)) == path


def test_a_field_may_be_an_alias() -> None:
    name = NameTemplate("{lr}-{digest}", {"model.lr": "lr"})
    name.check(SETTINGS)
    assert str(name.fill(FIELDS, SETTINGS)) == "0.01-k3j2h5a7/v1"


def test_a_field_may_be_a_quoted_key() -> None:
    assert str(NameTemplate('{lr."a/b.*"}').fill(FIELDS, {'lr."a/b.*"': "x/y"})) == "x_y/v1"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{data}/{widht}",
            r"asks for '\{widht\}', which is neither a field nor a settings key .* Did you mean 'width'",
        ),
        (
            "{lr}",
            r"asks for '\{lr\}', which fits several settings: 'model\.lr', 'optimizer\.lr'\. Write one of",
        ),
        ("{0}", r"asks for '\{0\}', .* The fields are data, model, changes, digest, seed, version and"),
        ("{}", r"has a field without a name"),
        ("{data", r"has a brace without its partner\. Write each field as \{data\}\."),
        ("data}", r"has a brace without its partner"),
        ("{seed:03d}", r"gives '\{seed\}' a format, but a field is its name alone\. Write '\{seed\}'\."),
        ("{data!r}", r"gives '\{data\}' a format"),
        ("", r"`run\.name` '' is empty\. Leave it out for the default, '\{data\}/"),
        ("/abs/{digest}", r"must be a path below `run\.root`"),
        ("C:/{digest}", r"must be a path below `run\.root`"),
        ("~/{digest}", r"must be a path below `run\.root`"),
        ("a\\{digest}", r"must be a path below `run\.root`"),
        ("../{digest}", r"has a part '\.\.', which is no directory of its own\. Take it out\."),
        ("{data}/./x", r"has a part '\.', which is no directory"),
        ("{data}//{digest}", r"has an empty part, which is no directory"),
        ("{data}/", r"has an empty part"),
        ("v{version}/{digest}", r"has '\{version\}' before the last part, .* Move it to the last part\."),
        ("{version}{version}", r"has '\{version\}' twice in one part\. Write it once\."),
        ("{digest}{digest}/{version}", r"has '\{digest\}' twice in one part"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_in_a_sentence(template: str, message: str) -> None:
    with pytest.raises(NameTemplateError, match=message) as caught:
        NameTemplate(template).check(SETTINGS)
    assert str(caught.value).startswith(f"`run.name` '{template}' ")


def test_filling_refuses_a_key_that_is_not_there_as_well() -> None:
    with pytest.raises(NameTemplateError, match=r"Did you mean 'width'"):
        NameTemplate("{widht}").fill(FIELDS, SETTINGS)


TEMPLATES = [
    DEFAULT_TEMPLATE,
    "{data}{model}{changes}{seed}{digest}{version}",
    "{version}{digest}{x}",
    "{changes}{changes}-{digest}/{changes}",
    "{x}/{data}.{x}/-{x}",
    "long" * 60 + "{changes}-{digest}-v{version}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=100, deadline=None)
@given(fields=fields, value=values)
def test_every_name_is_a_safe_path_with_digest_and_version_whole(
    template: str, fields: dict[str, Any], value: Any
) -> None:
    path = NameTemplate(template).fill(fields, {"model.x": value})
    assert_safe(path)
    assert len(path.parts) == template.count("/") + 1 + ("{version}" not in template)
    assert str(fields["version"]) in path.name
    assert ("{digest}" not in template) or any(fields["digest"][:8] in part for part in path.parts)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("{}/.-~ $\\:xv=con\xe9") | st.characters(), max_size=12) | texts, fields)
def test_any_template_is_refused_or_gives_safe_paths(template: str, fields: dict[str, Any]) -> None:
    try:
        path = NameTemplate(template).fill(fields, {"x": "..", "v": "/"})
    except NameTemplateError:
        return
    assert_safe(path)


@pytest.mark.parametrize("template", [text for text in TEMPLATES if "{digest}" in text])
@settings(max_examples=40, deadline=None)
@given(fields=fields, value=values, version=st.integers(0, 999_999))
def test_versions_stand_side_by_side_and_are_read_back(
    template: str, fields: dict[str, Any], value: Any, version: int
) -> None:
    name = NameTemplate(template)
    known = {"x": value}
    path = name.fill({**fields, "version": version}, known)
    assert path.parent == name.family(fields, known)
    assert name.version_of(path.name, fields, known) == version


@pytest.mark.parametrize("name", ["v", "v01", "V1", "v1.trash", "w1", "notes", "", "v-1"])
def test_what_is_no_version_is_not_taken_for_one(name: str) -> None:
    assert NameTemplate().version_of(name, FIELDS, SETTINGS) is None


def test_the_rest_of_a_name_stays_while_versions_gain_figures() -> None:
    for count in range(20):
        known = {**FIELDS, "changes": {f"key{number}": "x" * 9 for number in range(count)}}
        names = [
            NameTemplate("{changes}-{digest}-v{version}").fill({**known, "version": version}, {}).name
            for version in (9, 10, 99_999)
        ]
        assert len({name.rpartition("-v")[0] for name in names}) == 1


def test_versions_of_other_runs_in_the_same_directory_are_told_apart() -> None:
    name = NameTemplate("{changes}-{digest}-v{version}")
    other = name.fill({**FIELDS, "digest": "zzzzzzzz", "version": 3}, SETTINGS).name
    assert name.version_of(other, FIELDS, SETTINGS) is None


def test_names_stay_apart_where_upper_and_lower_case_are_one() -> None:
    configs = [{"tag": tag} for tag in ("ADAM", "Adam", "adam", "aDAM")] + [{"Tag": "adam"}]
    paths = [NameTemplate().fill({**FIELDS, "changes": config, "digest": digest(config)}, {}) for config in configs]
    assert len({str(path).lower() for path in paths}) == len(configs)


def test_the_changes_shrink_before_anything_else() -> None:
    long = {f"key{number}": "x" * 30 for number in range(20)}
    component = NameTemplate("{data}-{changes}-{digest}").fill({**FIELDS, "changes": long}, {}).parts[0]
    assert re.fullmatch(r"digits-(key\d=x{22}\.\.,)+\+\d+-k3j2h5a7", component)
