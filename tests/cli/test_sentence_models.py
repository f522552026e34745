"""Commands on models of sentence-transformers: their pooling, their activation, and what they are compared with."""

import json

import pytest
import torch
from small_world import write_data, write_model
from transformers import AutoConfig
from typer.testing import CliRunner

from secateur import load
from secateur.cli import app
from secateur.surgery.opening import open_model
from secateur.surgery.sentence.attach import head_of

WORDS = ["fine", "bad", "good", "dull", "film", "book"]


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def values_of(*words):
    done = secateur(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A bare encoder, texts, and pairs of texts with a score."""
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "encoder")
    texts = [f"a {one} {two} and {three}" for one in WORDS for two in WORDS for three in WORDS]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    rows = [f"a {one},{two} and a,{len(one) + number}" for number, one in enumerate(WORDS) for two in WORDS]
    (folder / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]), encoding="utf-8")
    return folder


@pytest.fixture
def options(world):
    return ("--task", "embedding", "--data", world / "texts.txt", "--eval", world / "pairs.csv", "--max-length", 32)


def test_a_bare_encoder_is_scored_exported_and_cut_with_the_pooling_that_is_named(world, options, tmp_path):
    mean, cls = (
        values_of("eval", world / "encoder", *options, "--pooling", pooling)["scores"] for pooling in ("mean", "cls")
    )
    assert mean != cls
    exported = values_of("export", world / "encoder", *options, "--pooling", "mean", "--output", tmp_path / "m.onnx")
    assert exported["scores"]["source"] == mean == pytest.approx(exported["scores"]["exported"], abs=1e-4)
    cut = ("cut", world / "encoder", *options, "--density", 0.9)
    before = values_of(*cut, "--pooling", "mean", "--output", tmp_path / "cut")["scores"]["before"]
    assert before == mean["spearman"] and head_of(load(tmp_path / "cut")).poolings == ("mean",)
    assert (tmp_path / "cut" / "1_Pooling" / "config.json").is_file()
    again = values_of("eval", tmp_path / "cut", *options)["scores"]
    assert again == values_of("eval", tmp_path / "cut", *options, "--pooling", "mean")["scores"]
    for command in ("eval", "verify"):
        shown = secateur(command, tmp_path / "cut", *options)
        assert f"evaluation rows of {world / 'pairs.csv'}" in " ".join(shown.stdout.split())
    shown = secateur("verify", world / "encoder", "--exported", tmp_path / "m.onnx", *options, "--pooling", "mean")
    assert " ".join(shown.stdout.split()).count(f"evaluation rows of {world / 'pairs.csv'}") == 2
    refused = secateur("eval", tmp_path / "cut", *options, "--pooling", "cls")
    assert refused.exit_code == 2 and "has a pooling of its own, mean: leave out --pooling" in refused.stderr


@pytest.mark.parametrize("command", ["export", "cut", "eval", "sensitivity"])
def test_a_bare_encoder_without_a_pooling_is_refused_before_anything_is_written(world, options, tmp_path, command):
    output = {"export": ("--output", tmp_path / "m.onnx"), "cut": ("--output", tmp_path / "cut")}.get(command, ())
    done = secateur(command, world / "encoder", *options, *output)
    assert done.exit_code == 2 and "name a pooling by --pooling" in done.stderr and not list(tmp_path.iterdir())


def test_texts_alone_are_compared_with_the_model_that_is_cut_or_exported(world, options, tmp_path):
    texts, pooling = options[:4], ("--pooling", "mean", "--max-length", 32)
    cut = values_of("cut", world / "encoder", *texts, *pooling, "--density", 0.1, "--output", tmp_path / "cut")
    assert cut["scores"]["before"] == 1.0 > cut["scores"]["after"] > 0.0
    exported = values_of("export", tmp_path / "cut", *texts, "--output", tmp_path / "m.onnx")
    assert exported["scores"]["source"]["neighbours"] == exported["scores"]["exported"]["neighbours"] == 1.0
    alone = secateur("eval", tmp_path / "cut", *texts)
    assert alone.exit_code == 2 and "name it by --task-option reference=MODEL" in alone.stderr


def test_a_sensitivity_needs_labels_for_gradients_alone(world, options):
    own = ("sensitivity", world / "encoder", "--pooling", "mean", "--units", "ffn", "--densities", 0.5, "--rows", 16)
    found = values_of(*own, *options, "--by", "magnitude")
    assert found["metric"] == "neighbours" and found["dense"] == 1.0  # of training rows, with the model itself
    refused = secateur(*own, *options)
    assert refused.exit_code == 2 and "by gradient needs a loss of labels" in refused.stderr


def test_a_prediction_refuses_what_it_does_not_read(world, tmp_path):
    folder = write_model(tmp_path / "classifier", ["bad", "good"])
    for words, message in (
        (("--task-option", "nonsense=1"), "a prediction of the task 'classification' has no option 'nonsense'"),
        (("--task", "questions", "--task-option", "nothing=maybe"), "nothing is 'maybe': give true or false"),
        (("--max-length", 64), "--max-length is 64: give at most 32, which the model takes"),
    ):
        done = secateur("predict", folder, "a fine film", *words)
        assert done.exit_code == 2 and message in done.stderr
    assert values_of("predict", folder, " ".join(["film"] * 50))[0]["label"] in ("bad", "good")


def test_a_cross_encoder_keeps_its_activation_however_it_is_cut(tmp_path):
    from sentence_transformers import CrossEncoder

    identity = "torch.nn.modules.linear.Identity"
    write_model(tmp_path / "plain", ["relevant"])
    CrossEncoder(str(tmp_path / "plain"), activation_fn=torch.nn.Identity()).save_pretrained(str(tmp_path / "ce"))
    assert open_model(tmp_path / "ce").config.sentence_transformers == {"activation_fn": identity}
    (tmp_path / "texts.txt").write_text("a fine film", encoding="utf-8")
    values_of("cut", tmp_path / "ce", "--density", 0.9, "--output", tmp_path / "units")
    values_of("cut", tmp_path / "ce", "--vocabulary", tmp_path / "texts.txt", "--output", tmp_path / "pieces")
    for name in ("units", "pieces"):
        assert AutoConfig.from_pretrained(tmp_path / name).sentence_transformers == {"activation_fn": identity}
    pair, cut = [("a fine", "film")], str(tmp_path / "pieces")
    dense = CrossEncoder(str(tmp_path / "ce")).predict(pair)
    assert CrossEncoder(cut, trust_remote_code=True).predict(pair) == pytest.approx(dense, abs=1e-5)


def test_a_cross_encoder_with_a_default_prompt_is_not_scored_without_it(tmp_path):
    folder = tmp_path / "ce"
    write_model(folder, ["relevant"])
    settings = {"model_type": "CrossEncoder", "prompts": {"x": "find: "}, "default_prompt_name": "x"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    data = write_data(tmp_path / "data.csv", label=lambda number: number % 2)
    done = secateur("eval", folder, "--task", "reranking", "--data", data, "--text", "text,text", "--max-length", 32)
    assert done.exit_code == 2 and "puts the prompt 'x' before its texts" in done.stderr, done.output
