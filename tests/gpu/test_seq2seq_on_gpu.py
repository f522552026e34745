"""An encoder-decoder in other runtimes beside a GPU, on which its model is scored and its files are not."""

import json
from functools import partial

import pytest
from seq2seq_world import SIZES, write_splits
from typer.testing import CliRunner

from secateur.cli import app, export_work
from secateur.measure.export_times import generation_times
from secateur.run.new_model import new_model
from secateur.tasks.sequences import UNTRAINED
from secateur.tasks.translation import Translation

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_files_are_scored_beside_their_model_by_export_and_verify(device, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    task = Translation.from_data(write_splits(tmp_path / "data"))
    new_model(task, tmp_path / "model", architecture="marian", **SIZES)
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    del values[UNTRAINED]  # as a training does
    config.write_text(json.dumps(values))
    monkeypatch.setattr(export_work, "generation_times", partial(generation_times, repeats=1))
    data = (
        "--task",
        "translation",
        "--data",
        tmp_path / "data",
        "--task-option",
        "max_new_tokens=6",
        "--max-length",
        30,
    )
    for words in (("export", tmp_path / "model", "-o", tmp_path / "served"),
                  ("verify", tmp_path / "model", "--exported", tmp_path / "served")):  # fmt: skip
        done = CliRunner().invoke(app.app, list(map(str, (*words, *data, "--json"))))
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        for one in found["files"] if isinstance(found, dict) else found:
            assert one["scores"]["rows"] == 7
            if one["dtype"] == "fp32":
                assert one["scores"]["exported"] == pytest.approx(one["scores"]["source"], abs=1e-3)
