"""Which checkpoints of a folder stay; law 8 tests what is in them."""

import pytest
import tiny_training

from secateur.system.errors import UserError
from secateur.training.checkpoints import STATE, checkpoints, remove_old


@pytest.mark.parametrize(
    ("limit", "left"),
    [(None, [1, 2, 3, 4]), (0, [1, 2, 3, 4]), (1, [1, 4]), (2, [1, 3, 4])],
)
def test_the_oldest_checkpoints_are_removed_but_the_best(tmp_path, limit, left):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old(tmp_path / "checkpoint-4", limit, str(tmp_path / "checkpoint-1"))
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]


def test_a_training_is_resumed_from_the_last_complete_checkpoint(tmp_path):
    """The writing of the last one was interrupted."""
    which = ("bert", "ForSequenceClassification")
    whole = tiny_training.trainer(which, "magnitude", tmp_path, every=2)
    whole.train()
    last = checkpoints(tmp_path)[-1]
    (last / STATE).unlink()
    resumed = tiny_training.trainer(which, "magnitude", tmp_path, every=2)
    begun: list[int] = []
    step_begin = resumed.loss.step
    resumed.loss.step = lambda *args, **kwargs: begun.append(resumed.state.global_step) or step_begin(*args, **kwargs)
    with pytest.raises(UserError, match=f"{last.name} is no complete checkpoint.*{STATE}"):
        resumed.train(str(last))
    resumed.train(resume_from_checkpoint=True)
    assert begun[0] == 4
    assert tiny_training.losses(resumed) == tiny_training.losses(whole)


def test_without_a_complete_checkpoint_nothing_is_resumed(tmp_path):
    trainer = tiny_training.trainer(("bert", "ForSequenceClassification"), "magnitude", tmp_path, save="no")
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(UserError, match="has no complete checkpoint: train without"):
        trainer.train(resume_from_checkpoint=True)
