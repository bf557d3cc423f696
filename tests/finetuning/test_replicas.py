"""Two ranks hold the same bits after every stage, send what trains and nothing else, and decide alike."""

from typing import Any

import pytest

from tests.finetuning.ranks import STAGES, run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found: they begin with other weights, and see other data."""
    return run_ranks("tests.finetuning.ranks:all_jobs", tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def fits(found: dict[str, Any]) -> dict[str, Any]:
    """Each of ``STAGES``."""
    return found["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_the_ranks_never_differ_by_a_bit(name: str, fits: dict[str, Any]) -> None:
    rows = fits[name]["stages"]
    assert [row["stage"] for row in rows] == [stage.name for stage in STAGES[name]]
    assert [row["within"] for row in rows] == [0.0] * len(rows)  # after no batch of the stage
    assert [(row["parameters"], row["buffers"]) for row in rows] == [(0.0, 0.0)] * len(rows)


@pytest.mark.parametrize("name", STAGES)
def test_a_step_sends_the_gradients_of_what_trains(name: str, fits: dict[str, Any]) -> None:
    for row in fits[name]["stages"]:
        assert row["bytes"] == [4 * row["trained"]], row["stage"]


@pytest.mark.parametrize("name", STAGES)
def test_the_ranks_pass_through_the_same_stages(name: str, fits: dict[str, Any]) -> None:
    first, second = fits[name]["ranks"]
    assert first["history"] == second["history"]
    assert first["loss"] != second["loss"]  # although they have not seen the same


def test_what_the_first_rank_has_seen_decides(fits: dict[str, Any]) -> None:
    history = fits["ranks that disagree"]["ranks"][1]["history"]
    assert [passed["ended"] for passed in history] == [
        "3 epochs are over",  # where the second alone saw what would have ended the stage
        "'val/rank' came to 0, which reaches 0.5",
        "the fit ended",
    ]


def test_two_ranks_go_on_to_the_same_bits(found: dict[str, Any]) -> None:
    resumed = found["resumed"]
    assert len(resumed) == 10
    assert {moment: ranks for moment, ranks in resumed.items() if ranks != [[], []]} == {}
