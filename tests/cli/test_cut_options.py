"""What the options of a cut ask for: a plan says all, and units are removed only where an option says so."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_world import write_world
from typer.testing import CliRunner

from secateur.cli import app, cut_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier, its data, texts with six of its eight words, and a plan of half of it."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    (folder / "texts.txt").write_text("a fine film\n\na dull film and a good film\n", encoding="utf-8")
    assert secateur("cut", folder / "classifier", "--density", 0.5, "--output", folder / "half").exit_code == 0
    return folder


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def refused(result, *parts):
    return result.exit_code == 2 and all(part in result.stderr for part in parts)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--density", 0.2), "--density"),
        (("--units", "ffn", "--method", "random"), "--units and --method"),
        (("--option", "seed=4"), "--option"),
        (("--embedding-rank", 4), "--embedding-rank"),
        (("--keep", 3), "--keep"),
        (("--speedup", 3), "--speedup"),
        (("--size", "1kB"), "--size"),
        (("--round-to", 8), "--round-to"),
    ],
)
def test_what_a_plan_says_is_refused_beside_it(world, tmp_path, words, named):
    result = secateur(
        "cut", tmp_path / "no model", "--plan", world / "half/plan.json", *words, "--output", tmp_path / "a"
    )
    assert refused(result, f"leave {named} out, or cut without a plan")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--min-count", 2), "--min-count says which pieces of the texts of --vocabulary are kept: give these"),
        (("--calibration-rows", 64), "say what is done with the rows of --data: give it, or drop them"),
        (("--no-refit",), "say what is done with the rows of --data: give it, or drop them"),
        (
            ("--embedding-svd", "plain"),
            "--embedding-svd says how word embeddings are factorised, and they are not: give",
        ),
    ],
)
def test_an_option_is_refused_without_the_one_that_it_belongs_to(world, tmp_path, words, message):
    assert refused(secateur("cut", tmp_path / "no model", *words, "--output", tmp_path / "a"), message)


@pytest.mark.parametrize(
    "words",
    [("--layers", 1), ("--layer-rule", "spread"), ("--output-dim", "teacher"), ("--keep-score", 0.9)],
)
def test_a_cut_has_no_options_of_a_training(tmp_path, words):
    result = secateur("cut", tmp_path / "no model", *words, "--output", tmp_path / "a")
    assert refused(result, f"No such option: {words[0]}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--density", "0.4,0.2"), "a cut has one density: ask for one"),
        (("--density", 0.4, "--keep", 2), "--density and --keep exclude each other"),
        (("--shape", "1x8"), "say how a latency or a speedup is measured"),
        (("--uniform", "--keep", 2), "--uniform goes with a density"),
    ],
)
def test_a_target_of_no_cut_is_refused_before_the_model_is_opened(tmp_path, words, message):
    result = secateur("cut", tmp_path / "no model", *words, "--output", tmp_path / "a")
    assert refused(result, message)


@pytest.mark.parametrize(
    "words",
    [
        ("--text", "nonsense"),
        ("--rows", 2),
        ("--task", "tokens"),
        ("--max-length", 3),
        ("--metric", "f1"),
        ("--task-option", "a=1"),
        ("--eval", "pairs.csv"),
    ],
)
def test_an_option_of_data_is_refused_where_there_is_none(world, tmp_path, words):
    message = f"no data is given that {words[0]} could be of: name it by --data, or leave {words[0]} out"
    assert refused(secateur("cut", tmp_path / "no model", *words, "--output", tmp_path / "a"), message)
    if words[0] != "--rows":  # of the data of a run, all are used
        assert refused(secateur("verify", world / "half", *words), message)
        assert refused(secateur("export", world / "half", *words, "--output", tmp_path / "a.onnx"), message)
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.onnx").exists()


def test_a_random_cut_is_another_by_another_seed(world, tmp_path):
    def kept(name, *seed):
        words = ("--method", "random", *seed, "--output", tmp_path / name)
        assert secateur("cut", world / "classifier", *words).exit_code == 0
        return json.loads((tmp_path / name / "plan.json").read_text())["groups"]

    assert kept("1", "--seed", 1) == kept("again", "--seed", 1) != kept("2", "--seed", 2)


def test_what_a_plan_does_not_say_is_taken_beside_it(world, tmp_path):
    words = (
        "--data",
        world / "data.csv",
        "--max-length",
        24,
        "--seed",
        1,
        "--embedding-svd",
        "plain",
        "--store",
        "bf16",
    )
    plan = ("--plan", world / "half/plan.json", "--vocabulary", world / "texts.txt")
    result = secateur("cut", world / "classifier", *plan, *words, "--output", tmp_path / "small", "--json")
    assert result.exit_code == 0, result.output
    found, half = json.loads(result.stdout), json.loads((world / "half/plan.json").read_text())
    assert found["vocabulary"]["kept"] == 10
    assert found["parameters"]["prunable"]["density"] == half["achieved"]["prunable"]


@pytest.mark.parametrize(
    "words",
    [(), ("--seed", 1), ("--data",), ("--data", "--no-refit", "--store", "bf16")],
)
def test_a_vocabulary_removes_units_only_where_an_option_says_so(world, tmp_path, words):
    data = ("--data", world / "data.csv", "--max-length", 24)
    given = [part for word in words for part in (data if word == "--data" else (word,))]
    cut = ("cut", world / "classifier", "--vocabulary", world / "texts.txt", *given)
    result = secateur(*cut, "--output", tmp_path / "small", "--json")
    assert result.exit_code == 0, result.output
    found, config = json.loads(result.stdout), json.loads((tmp_path / "small/config.json").read_text())
    assert "secateur" not in config and config["vocab_size"] == found["vocabulary"]["kept"] == 10
    assert ("scores" in found) == ("--data" in words)
    if words[-1:] == ("--data",):
        again = json.loads(secateur("eval", tmp_path / "small", *data, "--json").stdout)
        assert again["scores"]["accuracy"] == found["scores"]["after"]
    again = secateur("cut", tmp_path / "small", *cut[2:], "--output", tmp_path / "none")
    assert ("--store" in words) == (again.exit_code == 0) and ("--store" in words or refused(again, "nothing to cut"))


def test_a_vocabulary_of_a_compact_model_is_cut_with_data_beside_it(world, tmp_path):
    data = ("--data", world / "data.csv", "--max-length", 24)
    cut = ("cut", world / "half", "--vocabulary", world / "texts.txt", *data, "--output", tmp_path / "small", "--json")
    result = secateur(*cut)
    assert result.exit_code == 0, result.output
    half, found = json.loads((world / "half/plan.json").read_text()), json.loads(result.stdout)
    assert found["parameters"]["prunable"]["density"] == half["achieved"]["prunable"] and "scores" in found


@pytest.mark.parametrize("kept", [("--vocabulary", "texts.txt"), ("--embedding-rank", 4), ("--store", "bf16")])
def test_a_method_without_an_amount_is_refused_where_all_units_are_kept(world, tmp_path, kept):
    kept = [world / word if word == "texts.txt" else word for word in kept]
    result = secateur("cut", tmp_path / "no model", *kept, "--method", "random", "--output", tmp_path / "small")
    assert refused(result, "--method random chooses units, and nothing says how many", "add --density")


@pytest.mark.parametrize("rank", [(), ("--embedding-rank", 4)])
def test_a_plan_with_a_vocabulary_is_taken_by_the_model_whose_vocabulary_was_cut(world, tmp_path, rank):
    data = ("--data", world / "data.csv", "--max-length", 24)
    texts = ("--vocabulary", world / "texts.txt")
    for name, words in (("narrow", texts), ("both", (*texts, *rank, *data, "--density", 0.5))):
        assert secateur("cut", world / "classifier", *words, "--output", tmp_path / name).exit_code == 0
    plan, found = ("--plan", tmp_path / "both/plan.json"), {}
    for model in (world / "classifier", tmp_path / "narrow"):
        result = secateur("cut", model, *plan, *data, "--output", tmp_path / model.name / "small", "--json")
        assert result.exit_code == 0, result.output
        found[model.name] = json.loads(result.stdout)["scores"]["after"]
    folders = (tmp_path / "both", tmp_path / "classifier/small", tmp_path / "narrow/small")
    assert found["narrow"] == found["classifier"]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1


def test_rows_in_fp32_of_a_model_that_has_them_in_int8_are_refused(world, tmp_path):
    stored = ("--embedding-rows", "int8", "--output", tmp_path / "int8")
    assert secateur("cut", world / "classifier", *stored).exit_code == 0
    result = secateur("cut", tmp_path / "int8", "--embedding-rows", "fp32", "--output", tmp_path / "fp32")
    assert refused(result, "are in int8, and what they were before is lost: leave --embedding-rows out")
    assert not (tmp_path / "fp32").exists()
    again = secateur("cut", tmp_path / "int8", "--store", "bf16", "--output", tmp_path / "bf16")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("compact", [True, False])
def test_weights_in_16_bits_stay_so_where_no_unit_is_pruned(world, tmp_path, compact):
    pruned = ("--density", 0.5) if compact else ()
    assert (
        secateur("cut", world / "classifier", *pruned, "--store", "bf16", "--output", tmp_path / "half").exit_code == 0
    )
    sizes = {"half": (tmp_path / "half/model.safetensors").stat().st_size}
    cuts = {"fewer": ("--vocabulary", world / "texts.txt"), "int8": ("--embedding-rows", "int8")}
    cuts["fp32"] = (*cuts["fewer"], "--store", "fp32")
    for name, words in cuts.items():
        result = secateur("cut", tmp_path / "half", *words, "--output", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
        if name != "int8":
            facts, rows = json.loads(result.stdout)["vocabulary"], 2 * 16
            stored = load_file(tmp_path / "half/model.safetensors").values()
            assert facts["bytes_before"] == sum(tensor.nbytes for tensor in stored)
            expected = facts["bytes_before"] - 2 * rows
            assert facts["bytes_after"] == (expected if name == "fewer" else 2 * expected)
    assert sizes["fewer"] < sizes["half"] < sizes["fp32"]
    types = {name: tensor.dtype for name, tensor in load_file(tmp_path / "int8/model.safetensors").items()}
    assert torch.int8 in types.values() and types["classifier.weight"] == torch.bfloat16


def test_the_score_before_is_that_of_the_weights_before_they_are_rounded(world, tmp_path, monkeypatch):
    weights, seen = load_file(world / "classifier/model.safetensors"), []
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())
    monkeypatch.setattr(
        cut_rows,
        "scores",
        lambda model, task, *_: (
            seen.append({k: v.clone() for k, v in model.state_dict().items()}) or {task.metric: 0.5}
        ),
    )
    data = ("--data", world / "data.csv", "--max-length", 24)
    result = secateur("cut", world / "classifier", *data, "--store", "bf16", "--output", tmp_path / "small")
    assert result.exit_code == 0, result.output
    before, after = seen
    assert all(torch.equal(before[name], weights[name]) for name in weights)
    assert all(torch.equal(after[name], weights[name].bfloat16().float()) for name in weights)
