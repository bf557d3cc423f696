"""A fit that is stopped and goes on ends with the same bits as the fit that was not."""

from pathlib import Path

import pytest

from tests.finetuning.kinds import KINDS, Seen, misses, staged


@pytest.mark.parametrize("name", KINDS)
def test_a_fit_goes_on_from_any_moment_to_the_same_bits(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    seen = Seen()
    whole = kind.fit(seen)
    own = staged(whole)
    assert own is not None
    assert [passed["stage"] for passed in own.history] == [stage.name for stage in own.stages]
    moments = seen.chosen(12)
    assert {("batch", n + shift) for n in seen.transitions for shift in (-1, 0, 1)} <= set(moments)
    assert misses(kind, whole, tmp_path, moments) == {}
