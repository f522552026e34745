"""What Trainer reports to gets density, terms and scores under names that explain themselves."""

import pytest
from small_world import recipe_values, write_data, write_model

from secateur.run import pipeline, recipe
from secateur.system.errors import UserError


@pytest.fixture
def values(tmp_path):
    model = write_model(tmp_path / "model", ["bad", "good"])
    return recipe_values(model, write_data(tmp_path / "data.csv")) | {"training.epochs": 1, "training.evaluations": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_keeps_every_stage_of_a_finished_run(values, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pipeline.run(recipe.make(values | {"training.report_to": ["tensorboard"]}), tmp_path / "run")
    tags = {}
    for stage in ("prune", "recover"):
        seen = EventAccumulator(str(tmp_path / "run" / "tensorboard" / stage)).Reload()
        tags[stage] = set(seen.Tags()["scalars"])
    shared = {"train/loss", "train/loss_logits", "train/loss_hidden", "train/progress", "eval/accuracy"}
    assert shared <= tags["prune"] and shared <= tags["recover"]
    assert "train/density" in tags["prune"] - tags["recover"]


@pytest.mark.parametrize(
    ("name", "message"), [("abacus", "abacus is not supported"), ("comet_ml", "pip install comet-ml")]
)
def test_a_missing_tracker_is_refused_before_the_folder_is_touched(values, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        pipeline.run(recipe.make(values | {"training.report_to": [name]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
