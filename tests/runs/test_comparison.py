import math
import sys
from pathlib import Path

import pytest

from runmodel_ext.errors import ConfigError, MissingExtraError
from runmodel_ext.runs.comparison import compare_runs
from runmodel_ext.runs.frame import to_frame, to_records
from runmodel_ext.runs.run import Run
from runmodel_ext.runs.values import MISSING
from tests.runs.factory import record_of


def run(**fields: object) -> Run:
    return Run(Path("anywhere"), record_of(**fields))


def test_only_settings_that_differ_are_compared() -> None:
    settings = [
        {"model.lr": 1},
        {"model.lr": 1.0, "model.depth": 3},
        {"model.lr": 1, "model.network.channels": [8, 8]},
    ]
    comparison = compare_runs([run(settings=one) for one in settings])
    assert comparison.settings == {
        "model.lr": [1, 1.0, 1],
        "model.network.channels": [[16, 32], [16, 32], [8, 8]],
        "model.depth": [MISSING, 3, MISSING],
    }
    assert comparison.other_settings == {}


def test_none_is_not_the_same_as_absent() -> None:
    comparison = compare_runs([run(settings={"model.seed": None}), run()])
    assert comparison.settings == {"model.seed": [None, MISSING]}


def test_all_scores_are_compared_and_the_best_is_found_in_its_direction() -> None:
    first = run(scores={"val/acc": 0.9, "val/loss": 0.3, "test/acc": 0.8})
    second = run(scores={"val/acc": 0.7, "val/loss": 0.2})
    third = run(scores={"val/acc": 0.9, "val/loss": math.nan})
    comparison = compare_runs([first, second, third])
    assert [score and score.value for score in comparison.scores["test/acc"]] == [0.8, None, None]
    assert comparison.best("val/acc") == [0, 2]
    assert comparison.best("val/loss") == [1]
    assert comparison.best("test/acc") == []
    assert comparison.best("no such score") == []


@pytest.mark.parametrize("modes", [(None, None), ("min", "max"), ("max", None)])
def test_without_one_direction_no_score_is_best(modes: tuple[str | None, str | None]) -> None:
    runs = [run(scores={"mix": {"value": value, "mode": mode}}) for value, mode in enumerate(modes)]
    assert compare_runs(runs).best("mix") == []


def test_code_and_environment_show_what_differs() -> None:
    other = record_of()
    other["code"] |= {"dirty": True, "digest": "1234", "patch": "code.patch"}
    other["environment"] |= {"torch": "2.12.0"}
    comparison = compare_runs([run(), Run(Path("b"), other), run(code=None)])
    assert comparison.code["dirty"] == [False, True, MISSING]
    assert comparison.code["commit"][2] is MISSING
    assert set(comparison.code) == {"commit", "branch", "dirty", "digest"}
    assert comparison.environment == {"torch": ["2.13.0+cpu", "2.12.0", "2.13.0+cpu"]}


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(ConfigError, match="takes two runs or more, but got 1"):
        compare_runs([run()])


def test_a_record_is_flat() -> None:
    (flat,) = to_records([run(seed=3, tags=["a"])])
    assert (flat["seed"], flat["tags"], flat["model.lr"], flat["trainer.devices"], flat["val/acc"]) == (
        3,
        ["a"],
        0.01,
        1,
        0.98,
    )


def test_a_data_frame_has_one_row_a_run() -> None:
    pytest.importorskip("pandas")
    frame = to_frame([run(seed=0), run(seed=1, settings={"model.depth": 3})])
    assert list(frame["seed"]) == [0, 1]
    assert frame["model.depth"].isna().tolist() == [True, False]


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"needs pandas, .* Run `pip install 'runmodel_ext\[frame\]'`"):
        to_frame([run()])
