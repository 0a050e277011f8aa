"""Some of the random kills of `partition_killed.py`; the moments vary with the machine."""

from __future__ import annotations

import pytest

from partition_killed import run


# Files balanced, files made of themselves, tables balanced.
@pytest.mark.parametrize("seed", [7, 8, 25])
def test_a_kill_at_a_random_moment_leaves_all_or_nothing(seed: int) -> None:
    said: list[object] = []
    tally = run(seed, 4, said.append, per_scenario=4)
    assert not tally.bad, said
    assert sum(tally.found.values()) == 4
