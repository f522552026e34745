"""A run in several processes: one of them writes and prints, a killed run can be resumed, and errors appear once."""

import json
import re
import signal
import time
from functools import partial

import only_main_loads
import psutil
import pytest
import torch
import two_ranks
import yaml
from safetensors.torch import load_file
from small_world import recipe_values, write_data, write_model
from two_ranks import ACCELERATE, TORCHRUN, ended, launched

from secateur.run import pipeline, recipe
from secateur.run.stages import check
from secateur.surgery import checkpoint
from secateur.system import processes
from secateur.system.errors import UserError

ADAM = 1e-3
"""How far weights differ through float32 rounding after 36 steps of AdamW at 3e-4 with the small gradients of a random
model."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A recipe file for a model without dropout, because each process has its own dropout masks."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    own = {"measurement.shapes": [[1, 8]], "distillation.check_teacher": False}  # the teacher is hardly trained
    values = recipe_values(model, write_data(folder / "data.csv")) | own
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return folder / "recipe.yaml"


def start(launcher, world, folder, *more):
    return launched(launcher, "-m", "secateur", "prune", "--recipe", world, "--output", folder, *more)


def kill(run):
    """Send SIGKILL to a launcher and all its child processes."""
    tree = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    for process in tree:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(tree, timeout=30)
    run.communicate()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    """(folder, stdout, stderr) of a run in two processes that is killed while it prunes, and then resumed.

    Resumed, it is in parts, and only the main process may load models.
    """
    folder = tmp_path_factory.mktemp("two") / "run"
    run = start(TORCHRUN, world, folder)
    while not list(folder.glob("prune/checkpoint-*/secateur.safetensors")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    kill(run)
    assert not (folder / "cut").exists()
    again = launched(ACCELERATE, only_main_loads.__file__, "prune", "--recipe", world, "--output", folder)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err[-3000:]
    return folder, out, err


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    """(folder, report) of the same run in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, pipeline.run(recipe.read(world, {}), folder)


def test_a_run_in_two_processes_gives_the_results_of_a_run_in_one(one, two):
    for part in ("teacher", "model"):
        mine, theirs = (load_file(folder / part / "model.safetensors") for folder in (one[0], two[0]))
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[name], theirs[name], rtol=0, atol=ADAM) for name in mine)
    plans = [json.loads((folder / "model" / "plan.json").read_text()) for folder in (one[0], two[0])]
    assert plans[0]["groups"] == plans[1]["groups"] and plans[0]["achieved"] == plans[1]["achieved"]
    report = json.loads((two[0] / "report.json").read_text())
    assert report["scores"] == one[1].scores and report["teacher_scores"] == one[1].teacher_scores


def test_only_one_process_writes_files_and_logs(one, two):
    """Two processes write the same complete files as one, and each step once, with the rows and the loss of both."""
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in (one[0], two[0])]
    assert names[0] == names[1]
    checkpoint.load(two[0] / "model")  # against SHA256SUMS
    logs = [[line for line in lines(run / "log.jsonl") if line["stage"] == "recover"] for run in (one[0], two[0])]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        assert (mine["step"], mine["rows"]) == (theirs["step"], theirs["rows"])
        assert abs(mine.get("loss_logits", 0.0) - theirs.get("loss_logits", 0.0)) < ADAM


def test_only_one_process_prints(two):
    _, out, err = two
    assert out.count(": grain at density 0.3\n") == out.count("The model is in") == 1  # the first line and the last
    continued = re.findall(r"prune: 16 steps, continuing from step (?:4|8|12|16)\b", err)  # the kill is late or early
    assert len(continued) == 1 and err.count("recover: 20 steps") == 1
    assert "Traceback" not in err


def test_an_error_of_the_main_process_is_printed_once_and_ends_all_processes(world, two):
    status, out, err = ended(two_ranks.__file__, "prune", "--recipe", world, "--output", two[0], "--seed", "5")
    assert status != 0 and not out
    assert err.count("holds a run of another recipe (it differs in seed)") == 1


def test_a_single_process_is_the_main_process(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.count(), processes.is_main()) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as a cluster sets it without starting processes of this run
    assert (processes.count(), processes.is_main()) == (1, True)
    assert processes.on_main(lambda: 3) == processes.main_first(lambda: 3) == 3


def test_a_call_within_the_work_of_the_main_process_is_its_alone(monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(processes, "_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda *args, **kwargs: calls.append("broadcast"))
    monkeypatch.setattr(torch.distributed, "barrier", lambda **kwargs: None)
    assert processes.on_main(lambda: processes.on_main(lambda: 1) + processes.main_first(lambda: 2)) == 3
    assert calls == ["broadcast"]
    with pytest.raises(UserError, match="wrong"):
        processes.on_main(partial(_fail, UserError("wrong")))
    assert processes.on_main(lambda: 4) == 4 and len(calls) == 3


def _fail(error):
    raise error


def test_values_of_whole_models_are_where_these_are(monkeypatch):
    monkeypatch.setattr(processes, "on_main", lambda work: ("of the main process", work()))
    assert processes.where_whole(lambda: 1) == 1
    monkeypatch.setattr(processes, "in_parts", lambda: True)
    assert processes.where_whole(lambda: 1) == ("of the main process", 1)


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("3", False)])
def test_the_rank_decides_which_process_is_the_main_one_and_reports_errors_first(monkeypatch, rank, main):
    """By the environment variables of torchrun and accelerate."""
    for name, value in {"LOCAL_RANK": "0", "RANK": rank, "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    processes.let_main_report()
    assert (processes.count(), processes.is_main()) == (4, main)
    assert slept == ([] if main else [processes.GRACE])


@pytest.mark.parametrize(("variable", "name"), processes.SHARDING.items())
def test_a_launcher_that_shards_is_refused_before_the_folder_is_touched(monkeypatch, world, tmp_path, variable, name):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=f"^{name} splits the model .* start with torchrun.*FSDP of version 2"):
        pipeline.run(recipe.read(world, {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method.refit": True}, "method.refit"),
        ({"target.units": ["ffn/4x4"], "target.density": 0.8}, "tiles cannot be trained in parts"),
    ],
)
def test_what_needs_whole_models_is_refused_in_parts(monkeypatch, world, tmp_path, options, what):
    monkeypatch.setattr(check, "sharding_of", lambda args: object())
    monkeypatch.setattr(processes, "in_parts", lambda: True)
    with pytest.raises(UserError, match=f"^{what}.*start with torchrun"):
        pipeline.run(recipe.read(world, options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_size_that_the_processes_do_not_divide_is_refused(monkeypatch, world, tmp_path):
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "on_main", lambda work: work())  # there is no second process to wait for
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3 processes"):
        pipeline.run(recipe.read(world, {}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
