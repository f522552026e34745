"""Which checkpoints of a folder stay; law 8 tests what is in them."""

import pytest

from secateur.training.checkpoints import checkpoints, remove_old


@pytest.mark.parametrize(
    ("limit", "left"),
    [(None, [1, 2, 3, 4]), (0, [1, 2, 3, 4]), (1, [1, 4]), (2, [1, 3, 4])],
)
def test_the_oldest_checkpoints_are_removed_but_the_best(tmp_path, limit, left):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old(tmp_path / "checkpoint-4", limit, str(tmp_path / "checkpoint-1"))
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]
