"""The whole command in several processes: one writes, the others wait; killed, it goes on; refused, it says so once."""

import json
import signal
import time

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from two_ranks import ACCELERATE, TORCHRUN, launched

from secateur.run import pipeline, recipe
from secateur.surgery import checkpoint
from secateur.system import processes
from secateur.system.errors import UserError

ADAM = 1e-3
"""What float32's noise becomes in 36 steps of AdamW at 3e-4, where the gradients of a random model are near 0."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recipe's file, of a model without dropout: its noise is each process's own."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    values = recipe_values(model, write_data(folder / "data.csv")) | {"measurement.shapes": [[1, 8]]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def start(launcher, world, folder, *more):
    return launched(launcher, "-m", "secateur", "prune", "--recipe", world, "--output", folder, *more)


def kill(run):
    """SIGKILL to a launcher and all that it has started."""
    family = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    for one in family:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)
    run.communicate()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    """(folder, stdout, stderr) of a run of two processes that is killed while it prunes, and goes on."""
    folder = tmp_path_factory.mktemp("two") / "run"
    run = start(TORCHRUN, world, folder)
    while not list(folder.glob("prune/checkpoint-*/secateur.safetensors")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    kill(run)
    assert not (folder / "cut").exists()
    again = start(ACCELERATE, world, folder)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err[-3000:]
    return folder, out, err


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    """(folder, report) of the same command in this process alone."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, pipeline.run(recipe.read(world, {}), folder)


def test_two_processes_end_as_one(one, two):
    for part in ("teacher", "model"):
        mine, theirs = (load_file(folder / part / "model.safetensors") for folder in (one[0], two[0]))
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], rtol=0, atol=ADAM) for name in mine)
    plans = [json.loads((folder / "model" / "plan.json").read_text()) for folder in (one[0], two[0])]
    assert plans[0]["groups"] == plans[1]["groups"] and plans[0]["achieved"] == plans[1]["achieved"]
    report = json.loads((two[0] / "report.json").read_text())
    assert report["scores"] == one[1].scores and report["teacher_scores"] == one[1].teacher_scores


def test_one_process_writes(one, two):
    """The same files, whole; every step told once since the run went on, with the rows and the loss of both."""
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one[0], two[0])]
    assert names[0] == names[1]
    checkpoint.load(two[0] / "model")  # against SHA256SUMS
    told = [[line for line in lines(run / "log.jsonl") if line["stage"] == "recover"] for run in (one[0], two[0])]
    for mine, theirs in zip(*told, strict=True):
        assert mine.keys() == theirs.keys()
        assert (mine["step"], mine["rows"]) == (theirs["step"], theirs["rows"])
        assert abs(mine.get("loss_logits", 0.0) - theirs.get("loss_logits", 0.0)) < ADAM


def test_one_process_speaks(two):
    _, out, err = two
    assert out.count("The model is in") == 1 and out.count("accuracy") == 2
    assert err.count("prune: 16 steps, continuing from step 4") == 1 and err.count("recover: 20 steps") == 1
    assert "Traceback" not in err


def test_a_refusal_is_told_once_and_ends_all(world, two):
    """Of the folder only the main process can tell."""
    run = start(TORCHRUN, world, two[0], "--seed", "5")
    out, err = run.communicate(timeout=120)
    assert run.returncode != 0 and not out
    assert err.count("holds a run of another recipe (it differs in seed)") == 1


# What a process knows of the others


def test_alone_is_main(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.count(), processes.is_main()) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of a cluster that starts no processes of ours
    assert (processes.count(), processes.is_main()) == (1, True)
    assert processes.on_main(lambda: 3) == processes.main_first(lambda: 3) == 3


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("3", False)])
def test_ranks(monkeypatch, rank, main):
    """As torchrun and accelerate tell them; the main process speaks at once, the others leave it time."""
    for name, value in {"LOCAL_RANK": "0", "RANK": rank, "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    processes.let_main_speak()
    assert (processes.count(), processes.is_main()) == (4, main)
    assert slept == [] if main else [processes.GRACE]


@pytest.mark.parametrize(("variable", "name"), processes.SHARDING.items())
def test_a_launcher_that_shards_is_refused_before_the_folder_is_touched(monkeypatch, world, tmp_path, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=f"^{name} leaves a part .* start with torchrun.*DDP"):
        pipeline.run(recipe.read(world, {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_must_be_shared_evenly(monkeypatch, world, tmp_path):
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3 processes"):
        pipeline.run(recipe.read(world, {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
