"""Faults: damaged input is refused with one sentence or gives the right result, and existing files are never lost.

A small part of `benchmarks/faults.py`, sampled by a seed.
"""

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from data_world import CASES, outcome, right
from faults_world import (
    REFUSED,
    RIGHT,
    WAYS,
    Fault,
    World,
    bare,
    damages,
    mutated,
    one_sentence,
    rewritten,
    snares,
    tensors,
    write,
)
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

import secateur as sec
from secateur.cli import app
from secateur.run import pipeline, recipe
from secateur.run.run_folder import claim
from secateur.surgery.compact import SUMS
from secateur.system.errors import UserError

AGAIN = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("hard use"))
    yield world
    world.close()


def sample(world, faults, each):
    """At most `each` of every kind."""
    by_kind = {}
    for fault in faults:
        by_kind.setdefault(fault.kind, []).append(fault)
    draw = random.Random(0)
    return [fault for kind in by_kind.values() for fault in draw.sample(kind, min(each, len(kind)))]


def assert_harmless(world, faults, ways):
    """None of the faults gives another model or a traceback, in any way."""
    bad = {}
    for fault in faults:
        copy = world.broken(fault)
        for way in ways:
            verdict, said = world.judge(way, copy)
            if verdict not in (REFUSED, RIGHT):
                bad[f"{way}: {fault.kind}, {fault.case}"] = verdict, said
        shutil.rmtree(copy)
    assert bad == {}


# Folders


def test_an_undamaged_folder_loads_in_every_way(world):
    assert {way: world.judge(way, world.folder)[0] for way in WAYS} == dict.fromkeys(WAYS, RIGHT)


def test_damaged_files_never_load_as_another_model(world):
    damaged = sample(world, [*damages(world, random.Random(0), 8), *tensors(world)], 14)
    assert_harmless(world, damaged, ("load", "auto"))


def test_damaged_files_never_load_as_another_model_without_secateur(world):
    damaged = sample(world, [*damages(world, random.Random(1), 2), *tensors(world)], 5)
    assert_harmless(world, damaged, ("trusted",))


def test_verify_reports_damaged_files_in_one_sentence(world):
    assert_harmless(world, sample(world, [*damages(world, random.Random(2), 2), *tensors(world)], 2), ("verify",))


def test_nothing_outside_the_folder_is_read_and_no_pickle_is_opened(world):
    assert_harmless(world, snares(world), ("load", "auto"))


def test_every_file_but_the_card_has_a_checksum_as_of_sha256sum(world):
    assert sorted(listed(world.folder)) == [name for name in world.names if name not in (SUMS, "README.md")]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=world.folder, check=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "plan.json", "tokenizer.json"])
def test_a_deliberate_change_is_refused_and_can_be_accepted(world, tmp_path, name):
    folder = shutil.copytree(world.folder, tmp_path / "model")
    if name == "config.json":
        rewritten(name, json.loads((folder / name).read_text()) | {"colour": 1}, folder)
    else:
        write(name, (folder / name).read_bytes() + b" " * 8 if name.endswith("json") else other(world, name), folder)
    with pytest.raises(UserError, match=f"{name} is not the file that was saved.*remove its line in {SUMS}"):
        sec.load(folder)
    kept = [line for line in (folder / SUMS).read_text().splitlines(keepends=True) if f"  {name}" not in line]
    (folder / SUMS).write_text("".join(kept))
    assert sec.load(folder)


def other(world, name):
    return (world.other / name).read_bytes()


def test_a_model_that_was_trained_further_is_saved_with_new_checksums(world, tmp_path):
    folder = shutil.copytree(world.folder, tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    model.save_pretrained(folder)
    assert torch.equal(sec.load(folder).classifier.weight, model.classifier.weight)


def test_shards_have_checksums_too(world, tmp_path):
    model = sec.load(world.folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 1 and {*shards, "model.safetensors.index.json"} < set(listed(tmp_path))
    assert world.same(sec.load(tmp_path))[0] == RIGHT
    (tmp_path / shards[0]).write_bytes((tmp_path / shards[1]).read_bytes())
    with pytest.raises(UserError, match=shards[0]):
        sec.load(tmp_path)


def listed(folder):
    return [line.split("  ")[1].split()[0] for line in (folder / SUMS).read_text().splitlines()]


def test_a_folder_without_checksums_loads(world, tmp_path):
    folder = shutil.copytree(world.folder, tmp_path / "model")
    (folder / SUMS).unlink()
    assert [world.judge(way, folder)[0] for way in WAYS] == [RIGHT] * len(WAYS)


def test_symbolic_links_as_in_the_hub_cache_are_followed(world, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1a2b"
    shutil.copytree(world.folder, blobs)
    snapshot.mkdir(parents=True)
    for name in world.names:
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert world.judge("load", snapshot)[0] == RIGHT


@pytest.mark.parametrize("name", ["with space", "modèle d'été", "模型", "a.b-c+d", "[x] (y) {z} %s $HOME"])
def test_folders_with_unusual_names_load(world, tmp_path, name):
    place = tmp_path / name / name
    sec.save(sec.load(world.folder), place)
    assert [world.judge(way, place)[0] for way in WAYS] == [RIGHT] * len(WAYS)


# JSON that was edited


def edited(world, folder, **keys):
    shutil.copytree(world.folder, folder)
    rewritten("config.json", json.loads((folder / "config.json").read_text()) | keys, folder)
    return folder


def test_labels_may_be_renamed_and_the_config_laid_out_otherwise(world, tmp_path):
    ours = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}, "_name_or_path": "ours/reviews"}
    folder = edited(world, tmp_path / "model", **ours)
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert [world.judge(way, folder)[0] for way in WAYS] == [RIGHT] * len(WAYS)
    sec.save(sec.load(folder), tmp_path / "again")
    assert sec.load(tmp_path / "again").config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize("key, value", [("problem_type", "regression"), ("layer_norm_eps", 1e-3), ("id2labels", {})])
def test_other_keys_of_a_config_may_not_be_edited_in_any_way_of_loading(world, tmp_path, key, value):
    folder = edited(world, tmp_path / "model", **{key: value})
    for way in WAYS:
        verdict, said = world.judge(way, folder)
        assert verdict == REFUSED and "config.json is not the file that was saved" in said, (way, said)


def test_a_digest_of_the_file_of_the_config_itself_is_still_checked(world, tmp_path):
    """As secateur 0.1.0 wrote it."""
    folder = shutil.copytree(world.folder, tmp_path / "model")
    lines = [line for line in (folder / SUMS).read_text().splitlines() if not line.startswith("#")]
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / SUMS).write_text("\n".join([*lines, f"{digest}  config.json"]) + "\n")
    assert world.judge("load", folder)[0] == RIGHT
    write("config.json", (folder / "config.json").read_bytes() + b"\n", folder)
    with pytest.raises(UserError, match=r"config\.json is not the file that was saved"):
        sec.load(folder)


@pytest.mark.parametrize("sums", [True, False], ids=["sums", "no sums"])
@pytest.mark.parametrize("name", ["plan.json", "config.json"])
def test_edited_json_is_refused_or_changes_nothing(world, name, sums):
    """Without sums what a config says besides `secateur` is its user's word; then it must not end in a traceback."""
    document = json.loads((world.folder / name).read_text())
    bad = []

    @AGAIN
    @given(mutated(document))
    def check(changed):
        fault = Fault(name, "", lambda folder: rewritten(name, changed, folder))
        folder = world.broken(fault if sums else Fault(name, "", lambda folder: bare(fault.apply, folder)))
        verdict, said = world.judge("load", folder)
        shutil.rmtree(folder)
        theirs = not sums and name == "config.json" and changed != document
        if verdict not in (REFUSED, RIGHT) and not (verdict == "WRONG" and theirs and same_key(changed, document)):
            bad.append((verdict, said, changed))

    check()
    assert bad == []


def same_key(changed, document):
    return isinstance(changed, dict) and changed.get("secateur") == document["secateur"]


def test_an_edited_key_is_refused_by_automodel_too(world, tmp_path):
    """Another softmax scale fits the shapes of the weights."""
    folder = shutil.copytree(world.folder, tmp_path / "model")
    data = json.loads((folder / "config.json").read_text())
    next(iter(data["secateur"]["attention"].values()))["scale"] = 1.0
    rewritten("config.json", data, folder)
    for way in WAYS:
        verdict, said = world.judge(way, folder)
        assert verdict == REFUSED and "config.json is not the file that was saved" in said


# Disks


@contextmanager
def small_files(size):
    """Files end at a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("size", [0, 100, 5_000, 30_000])
def test_a_full_disk_leaves_the_old_files(world, tmp_path, size):
    folder = shutil.copytree(world.folder, tmp_path / "model")
    with small_files(size), pytest.raises(UserError, match="nothing was written; free space") as refusal:
        sec.save(sec.load(world.other), folder)
    assert one_sentence(str(refusal.value)) and content(folder) == content(world.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_read_only_folder_is_refused(world, tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)  # the tests may run as root, who may write anywhere
    with pytest.raises(UserError, match="choose a folder that can be written"):
        sec.save(sec.load(world.folder), tmp_path / "model")
    assert not list(tmp_path.iterdir())


# Runs that are killed

KILLED = """
import json, os, signal, sys
from secateur.run import pipeline, recipe
from secateur.system import files
move = files.replace_folder
def killed(partial, folder):
    if folder.name == "cut":
        os.kill(os.getpid(), signal.SIGKILL)
    move(partial, folder)
files.replace_folder = killed
pipeline.run(recipe.make(json.loads(sys.argv[1])), sys.argv[2])
"""


def test_a_run_killed_while_it_saves_can_be_resumed(tmp_path):
    values = recipe_values(write_model(tmp_path / "classifier", ["bad", "good"]), write_data(tmp_path / "data.csv"))
    values |= {"training.epochs": 1, "training.evaluations": 0, "distillation.check_teacher": False}
    arguments = [sys.executable, "-c", KILLED, json.dumps(values), str(tmp_path / "killed")]
    done = subprocess.run(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((tmp_path / "killed").glob(".cut.*")) and not (tmp_path / "killed" / "cut").exists()
    for name in ("killed", "whole"):
        pipeline.run(recipe.make(values), tmp_path / name)
    killed, whole = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert killed.keys() == whole.keys() and all(torch.equal(killed[name], whole[name]) for name in whole)
    assert not list((tmp_path / "killed").glob(".*"))


def test_a_run_killed_at_its_first_write_can_be_resumed(tmp_path):
    values = recipe_values(write_model(tmp_path / "classifier", ["bad", "good"]), write_data(tmp_path / "data.csv"))
    (tmp_path / "run").mkdir()
    for name in ("versions.json", "recipe.yaml.partial", "recipe.partial"):  # the last of version 0.1.0
        (tmp_path / "run" / name).write_text("{")
    claim(tmp_path / "run", recipe.make(values))
    assert (tmp_path / "run" / "recipe.yaml").read_text() == recipe.make(values).to_yaml()


# Data


@pytest.mark.parametrize("name", CASES)
def test_data_is_read_correctly_or_refused(tmp_path, name):
    case = CASES[name]
    if not case.said:
        assert right(case, outcome(case, tmp_path))
        return
    with pytest.raises(UserError) as refusal:
        outcome(case, tmp_path)
    text = str(refusal.value)
    assert one_sentence(text) and len(text) < 600 and re.search(case.said, text), text


# Training that breaks


def test_a_run_that_fails_names_the_cause_and_saves_no_model(tmp_path):
    model, data = write_model(tmp_path / "encoder"), write_data(tmp_path / "data.csv")
    values = recipe_values(model, data) | {"training.teacher_learning_rate": 1e30}
    (tmp_path / "recipe.yaml").write_text(recipe.make(values).to_yaml())
    words = ("prune", "--recipe", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    assert re.search(r"error: .* is not finite at step \d+ of \d+ .*learning rate", done.stderr.splitlines()[-1])
    assert not {"teacher", "cut", "model"} & {path.name for path in (tmp_path / "run").iterdir()}
