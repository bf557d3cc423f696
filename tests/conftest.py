"""What the tests share."""

from collections.abc import Iterator

import pytest

from tests.warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Commands in processes of their own that start at once."""
    with Warm() as server:
        yield server
