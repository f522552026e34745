"""Every file that a run writes names its version; a file of a later version is refused before the run continues."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_world import recipe_values, write_data, write_model
from transformers import TrainerCallback

from secateur.report.report import Report
from secateur.run import pipeline, recipe
from secateur.run.finished_runs import read
from secateur.surgery.checkpoint import load
from secateur.system.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
OF_TRANSFORMERS = {"tokenizer.json", "tokenizer_config.json", "trainer_state.json", "generation_config.json"}
WITHOUT_VERSION = {".md", ".html", ".py", ".bin", ".pt", ".pth", ""}
"""Pages, code and files of Trainer; without a suffix: digests, the lock, the arrays that `about.json` describes."""
OWN_NUMBERS = {
    "plan.json": [2],
    "report.json": [2],
    "recipe.yaml": [2],
    "config.json": [5],
    "secateur.safetensors": [2],
}
"""File -> its version, where that is not 1."""
OF_EVERY_VERSION = (
    "recipe.yaml",
    "versions.json",
    "seconds.json",
    "memory.json",
    "cut_at.json",
    "verified.json",
    "log.jsonl",
    "pruned.jsonl",
    "cache/*/about.json",
    "cut/plan.json",
    "terms.safetensors",
    "moments/model.safetensors",
    "recover/*/secateur.safetensors",
)
"""Files of an interrupted run that it reads when it goes on."""


class Interrupt(TrainerCallback):
    """Interrupts a stage after its first checkpoint."""

    def __init__(self, stage):
        self.stage = stage

    def on_save(self, args, state, control, **kwargs):
        if Path(args.output_dir).name == self.stage:
            raise KeyboardInterrupt


def is_stock(path):
    """Whether a file is one that transformers writes for a model, a tokenizer or Trainer."""
    of_model = path.name == "model.safetensors" and (path.parent / "config.json").is_file()
    of_dense = path.name == "config.json" and not (path.parent / "plan.json").is_file()
    return path.name in OF_TRANSFORMERS or of_model or of_dense


def versions_of(path):
    """The versions that a file names: one, or one for each line of a log."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return [int((file.metadata() or {"version": 0})["version"])]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return [yaml.safe_load(text).get("version")]
    values = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
    if path.name == "config.json":
        values = [one["secateur"] for one in values]
    return [one.get("version") for one in values]


def assert_every_file_names_its_version(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    own = [path for path in files if path.suffix not in WITHOUT_VERSION and not is_stock(path)]
    for path in own:
        named, expected = versions_of(path), OWN_NUMBERS.get(path.name, [1])
        assert named == expected * len(named), path.relative_to(folder)
    return {path.name for path in own}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    values = recipe_values(write_model(folder / "model"), write_data(folder / "data.csv"))
    return values | {"training.select": 8, "training.evaluations": 2}


@pytest.fixture(scope="module")
def interrupted(values, tmp_path_factory):
    """Stage -> the folder of a run that was interrupted in it."""
    folders = {}
    for stage in ("prune", "recover"):
        folders[stage] = tmp_path_factory.mktemp(stage) / "run"
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe.make(values), folders[stage], [Interrupt(stage)])
    return folders


def test_every_file_of_an_interrupted_run_names_its_version(interrupted):
    names = {name for folder in interrupted.values() for name in assert_every_file_names_its_version(folder)}
    assert {"secateur.safetensors", "terms.safetensors", "best.safetensors", "about.json", "cut_at.json"} <= names


def test_every_file_of_a_finished_run_names_its_version(interrupted, values, tmp_path):
    folder = shutil.copytree(interrupted["recover"], tmp_path / "run")
    pipeline.run(recipe.make(values), folder)
    names = assert_every_file_names_its_version(folder)
    assert {"recipe.yaml", "report.json", "seconds.json", "memory.json", "verified.json", "versions.json"} <= names
    assert {"log.jsonl", "pruned.jsonl", "plan.json", "config.json"} <= names


@pytest.mark.parametrize(("key", "what"), [("data", "the data"), ("model", "the weights of the model")])
def test_an_interrupted_run_does_not_go_on_with_other_data_or_weights(interrupted, values, tmp_path, key, what):
    folder = shutil.copytree(interrupted["recover"], tmp_path / "run")
    begun = json.loads((folder / "fingerprint.json").read_text())
    (folder / "fingerprint.json").write_text(json.dumps(begun | {key: "0123456789ab"}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"^{what} changed since the run in .* began: restore what it began with"):
        pipeline.run(recipe.make(values), folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "fingerprint.json").unlink()  # as of an older version
    report = pipeline.run(recipe.make(values), folder)
    written = json.loads((folder / "fingerprint.json").read_text())
    assert (written["data"], written) == (report.data, begun)


def made_later(path):
    """Gives a file the version 99."""
    if path.suffix == ".safetensors":
        save_file(load_file(path), path, {"version": "99"})
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"version": 99}))
    elif path.suffix == ".jsonl":
        path.write_text(path.read_text() + json.dumps({"version": 99}) + "\n")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))


@pytest.mark.parametrize(
    ("origin", "name"), [*product(("this version", "0.1.0"), OF_EVERY_VERSION), ("this version", "fingerprint.json")]
)
def test_a_file_of_a_later_version_stops_a_run_that_would_continue(
    interrupted, values, tmp_path, monkeypatch, origin, name
):
    if origin == "0.1.0":
        shutil.copytree(FIXTURES, tmp_path / "world")
        monkeypatch.chdir(tmp_path / "world")
        folder, values = Path("interrupted-recover"), recipe_values("model", "rows.csv")
    else:
        folder = shutil.copytree(interrupted["recover"], tmp_path / "run")
    (path,) = folder.glob(name)
    made_later(path)
    if name == "cut/plan.json":
        (path.parent / "SHA256SUMS").unlink()
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=r"has version 99, and this secateur reads 1 to \d: update secateur$"
    ) as refusal:
        pipeline.run(recipe.make(values), folder)
    assert path.name in str(refusal.value) and "\n" not in str(refusal.value)
    assert path.read_bytes() == before


def test_a_finished_run_of_a_later_version_is_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "finished", tmp_path / "run")
    made_later(folder / "report.json")
    for use in (Report.load, lambda place: read([place])):
        with pytest.raises(UserError, match=r"report\.json has version 99, .*: update secateur$"):
            use(folder)


def test_a_compact_folder_of_a_later_version_is_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "finished" / "model", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["secateur"]["version"] = 99
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json cannot be read: .* has version 99, .*: update secateur$"):
        load(folder)
