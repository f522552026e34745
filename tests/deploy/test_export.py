"""Export: every dtype that a format has, what is refused, and that a failure leaves what was there.

That fp32 says what the model says is law 13.
"""

import copy
import json
import shutil
import sys
from dataclasses import asdict, replace
from importlib import import_module

import pytest
import torch
from exported_models import irregular
from small_world import tokenizer, write_data, write_model
from tiny_models import inputs, random_masks, tiny
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    GPT2Config,
    GPT2LMHeadModel,
)
from typer.testing import CliRunner

from secateur.budget.space import Space
from secateur.cli import app, export_work, scored_export
from secateur.deploy import export_facts, formats, graph
from secateur.deploy.export import TOLERANCE, export, opened, within
from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.formats import read_facts
from secateur.measure.bench import measure
from secateur.run import recipe
from secateur.run.recipe_yaml import dump
from secateur.structure.fingerprints import weights_fingerprint
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.quantisation import quantise_embeddings
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.packages import installing

for package in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def small():
    """A cut classifier whose weights are as large as a trained model's, N(0, 0.1)."""
    model = tiny("bert", dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not (name.endswith("weight") and "LayerNorm" in name):
                parameter.div_(3)
    space = Space(model, "ffn", "vo")
    return cut(model, Plan.of(space, random_masks(space, 0.7)))


@pytest.fixture(scope="module")
def calibration(small):
    return [inputs(small, seed=seed) for seed in range(8)]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_word_embeddings_in_int8_are_so_in_the_file(suffix, tmp_path):
    """No tool must make fp32 values of them: the file is smaller by 3 of 4 bytes of the table, less its scales."""
    rows = 5_000
    model = tiny("bert", dtype=torch.float32, vocab_size=rows, num_hidden_layers=1)
    whole = export(model, tmp_path / f"whole{suffix}").bytes
    assert whole - export(quantise_embeddings(model), tmp_path / f"int8{suffix}").bytes > rows * (3 * 32 - 4) - 8_000


# Of the largest output: bf16 has 8 bits and int8 7 of each weight and input, over two layers.
BOUNDS = {
    ("fp16", ".onnx"): 0.01,
    ("fp16", ".xml"): 0.01,
    ("bf16", ".pt2"): 0.05,
    ("int8", ".onnx"): 0.15,
}


@pytest.mark.parametrize(("dtype", "suffix"), BOUNDS)
def test_a_smaller_dtype_is_close(small, dtype, suffix, tmp_path):
    exported = export(small, tmp_path / f"model{suffix}", dtype=dtype)
    assert 0 < exported.difference < BOUNDS[dtype, suffix] * exported.scale
    assert read_facts(exported.path) == exported.facts
    assert (exported.facts.dtype, exported.facts.calibration) == (dtype, 0)
    assert opened(str(exported.path)).dtype == dtype


@pytest.mark.parametrize(("dtype", "suffix"), BOUNDS)
def test_vectors_of_a_smaller_dtype_are_close(dtype, suffix, tmp_path):
    model = tiny("bert", "Sentence", dtype=torch.float32)
    exported = export(model, tmp_path / f"model{suffix}", dtype=dtype)
    assert exported.facts.outputs == ("sentence_embedding",)
    assert 0 < exported.difference < BOUNDS[dtype, suffix] * exported.scale


@pytest.mark.parametrize(("dtype", "suffix"), [("fp16", ".onnx"), ("int8", ".onnx")])
@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2"])
def test_a_smaller_dtype_is_close_with_positions_in_the_attention(kind, dtype, suffix, tmp_path):
    exported = export(irregular((kind, "ForSequenceClassification", 0)), tmp_path / f"model{suffix}", dtype=dtype)
    assert 0 < exported.difference < BOUNDS[dtype, suffix] * exported.scale


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_calibrated_int8_is_close_and_does_not_depend_on_the_batch(small, calibration, suffix, tmp_path):
    exported = export(small, tmp_path / f"model{suffix}", dtype="int8", calibration=calibration)
    assert 0 < exported.difference < 0.15 * exported.scale
    assert read_facts(exported.path).calibration == 24
    run = opened(exported.path)
    alone, beside = inputs(small, seed=1), inputs(small, seed=2)
    alone = {name: value[:1] for name, value in alone.items()}
    both = {name: torch.cat([value, beside[name]]) for name, value in alone.items()}
    assert abs(run(alone)[0][0] - run(both)[0][0]).max() < 1e-5


@pytest.mark.parametrize(("suffix", "calibrated"), [(".onnx", True), (".onnx", False), (".xml", True)])
def test_int8_is_written_in_silence(small, calibration, suffix, calibrated, tmp_path, capfd, caplog):
    """Tools print on the file descriptors too; and equal biases, stored once, have a note of their own."""
    equal = copy.deepcopy(small)
    with torch.no_grad():
        equal.bert.pooler.dense.bias.copy_(equal.bert.embeddings.LayerNorm.bias)
    export(equal, tmp_path / f"model{suffix}", dtype="int8", calibration=calibration if calibrated else None)
    assert capfd.readouterr() == ("", "") and caplog.messages == []


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_model_without_attention_is_calibrated_without_a_mask(calibration, suffix, tmp_path):
    model = tiny("bert", dtype=torch.float32)
    space = Space(model, "head", "ffn")
    masks = space.ones()
    for layer in range(2):
        masks[space.slices[f"{layer}.head"]] = 0.0
    exported = export(cut(model, Plan.of(space, masks)), tmp_path / f"m{suffix}", dtype="int8", calibration=calibration)
    assert exported.facts.calibration == 24


def test_int8_weights_have_a_scale_for_each_channel(small, tmp_path):
    import onnx

    path = export(small, tmp_path / "model.onnx", dtype="int8").path
    graph = onnx.load(path).graph
    sizes = {one.name: one.dims for one in graph.initializer}
    scales = [sizes[name] for name in sizes if name.endswith("weight_scale") and "embedding" not in name]
    scales += [dims for name, dims in sizes.items() if "MatMul" in name and name.endswith("_scale")]
    assert any(list(dims) and dims[0] > 1 for dims in scales)


def test_a_file_describes_itself(small, tmp_path):
    exported = export(small, tmp_path / "model.onnx", opset=20)
    facts = exported.facts
    assert (facts.format, facts.dtype, facts.opset) == ("onnx", "fp32", 20)
    assert facts.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert facts.source == weights_fingerprint(small)
    assert ExportFacts.from_json(facts.to_json(), exported.path) == facts
    assert exported.bytes == exported.path.stat().st_size
    assert json.loads(json.dumps(exported.to_dict()))["tolerance"] == TOLERANCE


def test_a_model_in_fp16_is_exported_from_its_weights(tmp_path):
    """Its own coarse sums are no difference; transformers loads a checkpoint in the dtype that it was saved in."""
    half = tiny("bert", dtype=torch.float16)
    exported = export(half, tmp_path / "model.onnx")
    assert exported.facts.dtype == "fp32" and exported.difference < TOLERANCE * exported.scale
    assert (
        exported.facts.source == weights_fingerprint(tiny("bert", dtype=torch.float16).float())
        and half.dtype == torch.float16
    )


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": [[False], {}]},
        {"format": None},
        {"opset": "20"},
        {"versions": []},
        {"calibration": {}},
        {"vocabulary": 0},
        {"vocabulary": True},
        {"positions": "40"},
        {"inputs": []},
        {"outputs": "logits"},
    ],
)
def test_facts_of_other_types_are_refused(tmp_path, change):
    facts = ExportFacts("onnx", "fp32", 20, ("input_ids",), ("logits",), "0" * 16, "BertModel", 0, {})
    path = tmp_path / "model.onnx"
    assert ExportFacts.from_json(facts.to_json(), path) == facts
    edited = json.dumps(json.loads(facts.to_json()) | change)
    with pytest.raises(UserError, match=r"holds damaged facts about itself .*: export the model again"):
        ExportFacts.from_json(edited, path)


@pytest.mark.parametrize("suffix", formats.FORMATS)
def test_an_exported_file_names_the_version_of_its_facts(small, tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    facts = export(small, path).facts
    assert {*tmp_path.iterdir()} == {*formats.files_of(path)}, "nothing else is written"
    assert json.loads(facts.to_json())["version"] == 2 and read_facts(path) == facts
    assert (facts.vocabulary, facts.positions) == (50, 40)
    unknown = {"vocabulary": None, "positions": None}
    of_0_1_0 = {name: one for name, one in asdict(facts).items() if name not in ("image", *unknown)}
    with monkeypatch.context() as older:
        older.setattr(ExportFacts, "to_json", lambda self: json.dumps(of_0_1_0))
        export(small, path)
    assert read_facts(path) == replace(facts, **unknown)
    with monkeypatch.context() as later:
        later.setattr(export_facts, "FORMAT", FileFormat(99))
        export(small, path)
    with pytest.raises(
        UserError, match=rf"model{suffix} has version 99, and this secateur reads 1 to 2: update secateur"
    ):
        opened(path)


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
OTHERS = {
    "choices": lambda: BertForMultipleChoice(BertConfig(vocab_size=50, **SMALL)),
    "sounds": lambda: ASTForAudioClassification(ASTConfig(num_mel_bins=16, max_length=32, **SMALL)),
    "a cut decoder": lambda: cut(model := tiny("llama", "ForCausalLM"), Plan.of_all_units(model)),
    "causal": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4)),
    "writes": lambda: tiny("t5", dtype=torch.float32),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_model_that_does_not_read_rows_of_tokens_is_refused(kind, suffix, tmp_path):
    """In one sentence that says what can be exported, before anything is written."""
    model = OTHERS[kind]()
    said = {"writes": "an encoder-decoder .* is exported as two files"}
    named = said.get(kind, f"expected a text encoder .* got {type(model).__name__}")
    with pytest.raises(UserError, match=named) as refusal:
        export(model, tmp_path / f"model{suffix}")
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", [BertForMaskedLM, BertForNextSentencePrediction])
def test_a_head_that_cannot_be_pruned_can_be_exported(head, tmp_path):
    assert export(head(BertConfig(vocab_size=50, **SMALL)), tmp_path / "model.onnx").difference < TOLERANCE


def test_choices_cannot_be_measured():
    with pytest.raises(UserError, match="got BertForMultipleChoice, which reads several choices a row"):
        measure(OTHERS["choices"](), batch=1, tokens=4)


def test_an_openvino_file_has_its_weights_in_a_second_file(small, tmp_path):
    exported = export(small, tmp_path / "new" / "model.xml")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.bin", "model.xml"]
    assert exported.bytes == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())


def test_the_exported_model_is_unchanged(small, tmp_path):
    small.train()
    before = weights_fingerprint(small)
    export(small, tmp_path / "model.onnx", dtype="fp16")
    assert all(module.training for module in small.modules())
    assert weights_fingerprint(small) == before
    small.eval()


# What is refused, and what is left behind

WRONG = {
    "suffix": ({"path": "model.tflite"}, r"\.onnx .ONNX., .* got 'model\.tflite'"),
    "dtype": ({"dtype": "bf16"}, "fp32, fp16, int8 for ONNX, got 'bf16'"),
    "bf16 in an IR": ({"path": "model.xml", "dtype": "bf16"}, "for OpenVINO IR"),
    "int8 in PyTorch": ({"path": "model.pt2", "dtype": "int8"}, "fp32, bf16, fp16 for torch.export"),
    "opset": ({"opset": 11}, "17 to 20"),
    "opset of an IR": ({"path": "model.xml", "opset": 17}, "for .onnx alone"),
    "no calibration": ({"path": "model.xml", "dtype": "int8"}, "give calibration batches"),
    "empty calibration": ({"dtype": "int8", "calibration": []}, "0 batches"),
    "calibration of fp32": ({"calibration": [{}]}, "1 batches for fp32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_failed_write_is_refused_and_leaves_nothing(small, case, tmp_path):
    given, message = WRONG[case]
    options = {"path": "model.onnx", **given}
    path = tmp_path / options.pop("path")
    with pytest.raises(UserError, match=message):
        export(small, path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".xml", "nncf")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    small, calibration, suffix, package, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    extra = {".onnx": "onnx", ".xml": "openvino"}[suffix]
    with pytest.raises(UserError, match=f"{package} is not installed: run {installing(extra)}$"):
        export(small, tmp_path / f"model{suffix}", dtype="int8", calibration=calibration)


def test_an_export_that_differs_is_refused_and_the_old_file_stays(small, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    export(small, path)
    before = path.read_bytes()

    class Unscaled(graph.Graph):
        def forward(self, *arrays):
            return tuple(value * 1.001 for value in super().forward(*arrays))

    monkeypatch.setattr(graph, "Graph", Unscaled)
    with pytest.raises(UserError, match=r"would differ from its model by .* nothing was written"):
        export(small, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_fp32_is_judged_by_its_difference():
    assert within(1e-5, 1.0, "fp32") and not within(2e-4, 1.0, "fp32") and within(2e-4, 4.0, "fp32")
    assert within(0.5, 1.0, "int8") and not within(float("nan"), 1.0, "int8")


def test_a_folder_in_the_place_of_the_file_is_refused(small, tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        export(small, tmp_path / "model.onnx")


def test_foreign_and_damaged_files_are_refused(small, tmp_path):
    import onnx

    path = export(small, tmp_path / "model.onnx").path
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "damaged.onnx").write_bytes(path.read_bytes()[:999])
    (tmp_path / "damaged.pt2").write_bytes(b"no archive")
    for name, message in {
        "foreign.onnx": "was not written by secateur export",
        "damaged.onnx": "cannot be read",
        "damaged.pt2": "cannot be read",
        "absent.onnx": "does not exist",
    }.items():
        with pytest.raises(UserError, match=message):
            opened(tmp_path / name)


# The command


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a classifier, its cut, and data."""
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "dense", ["bad", "good"])
    write_data(folder / "data.csv")
    assert secateur("cut", folder / "dense", "--output", folder / "small").exit_code == 0
    return folder


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


def answer(*words):
    done = secateur(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_calibrates_on_training_rows_and_scores_both(world, tmp_path):
    data = ("--data", world / "data.csv", "--max-length", 24)
    file = tmp_path / "model.onnx"
    exported = answer("export", world / "small", "--output", file, "--dtype", "int8", "--rows", 20, *data)
    assert (exported["facts"]["calibration"], exported["facts"]["dtype"]) == (20, "int8")
    scored = answer("eval", world / "small", *data)
    assert exported["scores"]["source"] == scored["scores"]
    assert exported["scores"]["rows"] == scored["rows"] and exported["scores"]["batch"] == 32
    verified = answer("verify", world / "small", "--exported", file, *data)
    assert verified["scores"] == exported["scores"]
    assert verified["passed"] and verified["dtype"] == "int8" and verified["compact_loaded"] is None
    shown = secateur("verify", world / "small", "--exported", file, *data).stdout
    assert "of which only the score tells" in shown and "32 to a batch" in shown


def test_the_command_never_calibrates_on_validation_rows(world, tmp_path, monkeypatch):
    asked, batches_of = [], scored_export.batches_of
    monkeypatch.setattr(
        export_work, "batches_of", lambda data, split, *rest: asked.append(split) or batches_of(data, split, *rest)
    )
    monkeypatch.setattr(export_work, "scores", lambda *rest: {})
    words = ("--dtype", "int8", "--data", world / "data.csv", "--max-length", 24)
    done = secateur("export", world / "small", "--output", tmp_path / "model.onnx", *words)
    assert done.exit_code == 0 and asked == ["train"]
    done = secateur("export", world / "small", "--output", tmp_path / "ranges.onnx", *words, "--rows", 0)
    assert done.exit_code == 0 and asked == ["train"]
    assert read_facts(tmp_path / "ranges.onnx").calibration == 0


def test_rows_that_are_asked_for_calibrate_or_are_refused(world, tmp_path):
    shutil.copytree(world / "small", tmp_path / "run" / "model")
    values = {"model": str(world / "dense"), "data.source": str(world / "data.csv"), "data.max_length": 24}
    (tmp_path / "run" / "recipe.yaml").write_text(dump(recipe.make(values).to_dict()), encoding="utf-8")
    words = ("export", tmp_path / "run", "--dtype", "int8")
    own = answer(*words, "--output", tmp_path / "own.onnx", "--rows", 16)
    assert own["facts"]["calibration"] == 16 and "scores" in own
    assert answer(*words, "--output", tmp_path / "each.onnx")["facts"]["calibration"] == 0
    for changed, message in (
        (("export", world / "small", "--dtype", "int8", "--rows", 16), "no data can be read here: name it by --data"),
        (("export", tmp_path / "run", "--rows", 16), "for the ranges of int8, and the dtype is fp32: leave it out"),
    ):
        done = secateur(*changed, "--output", tmp_path / "refused.onnx")
        assert done.exit_code == 2 and message in done.stderr and not (tmp_path / "refused.onnx").exists()


def test_the_weights_of_another_file_are_not_replaced(world, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"precious")
    done = secateur("export", world / "small", "--output", tmp_path / "model.xml")
    assert done.exit_code == 2 and "model.bin is there already" in done.stderr
    assert (tmp_path / "model.bin").read_bytes() == b"precious" and not (tmp_path / "model.xml").exists()


@pytest.mark.parametrize("name", ["dense", "small"])
def test_the_command_exports_and_verifies(world, name, tmp_path):
    file = tmp_path / "model.onnx"
    done = secateur("export", world / name, "--output", file)
    assert done.exit_code == 0, done.output
    for part in ("largest difference", "fp32", "17", str(file)):
        assert part in done.stdout
    done = secateur("verify", world / name, "--exported", file)
    assert done.exit_code == 0 and "the same model" in done.stdout


def test_verify_reports_an_export_that_differs(world, tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    assert secateur("export", world / "small", "--output", file).exit_code == 0
    monkeypatch.setattr(
        sys.modules["secateur.deploy.export"], "TOLERANCE", -1.0
    )  # `secateur.deploy.export` is the function
    done = secateur("verify", world / "small", "--exported", file)
    assert done.exit_code == 1 and "NOT the same model" in done.stdout


def test_the_command_refuses_in_one_sentence_and_leaves_nothing(world, tmp_path):
    occupied = tmp_path / "there.onnx"
    occupied.write_text("mine")
    new = tmp_path / "model"
    data = ("--data", world / "data.csv")
    write_model(world / "colours", ["red", "blue"])
    cases = [
        (("export", world / "small", "--output", occupied), "is there already"),
        (("export", world / "small", "--output", f"{new}.txt"), "rename it"),
        (("export", world / "small", "--output", f"{new}.xml", "--dtype", "int8"), "name data by --data"),
        (("export", world / "colours", "--output", f"{new}.onnx", *data), "red, blue"),
        (("verify", world / "small", "--exported", f"{new}.onnx"), "does not exist"),
        (("verify", world / "small", "--dtype", "bf16"), "--exported"),
        (("verify", world / "small", "--exported", occupied, "--dense", world / "dense"), "leave --dense out"),
    ]
    for words, message in cases:
        done = secateur(*words)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [occupied] and occupied.read_text() == "mine"


def test_verify_refuses_a_file_of_other_weights(world, tmp_path):
    file = tmp_path / "model.onnx"
    assert secateur("export", world / "dense", "--output", file).exit_code == 0
    done = secateur("verify", world / "small", "--exported", file)
    assert done.exit_code == 2 and "made from other weights" in done.stderr


def test_secateur_export_is_the_function():
    """The name, until an old module of that name is imported, which can be called in its place."""
    assert import_module("secateur").__getattr__("export") is export


TOKENIZERS = {
    "without token types": ("bert", ["input_ids", "attention_mask"]),
    "with token types that the model does not read": ("distilbert", ["input_ids", "token_type_ids", "attention_mask"]),
}


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("case", TOKENIZERS)
def test_the_inputs_of_a_file_are_those_of_the_tokenizer(case, suffix, tmp_path):
    kind, names = TOKENIZERS[case]
    model = tiny(kind, dtype=torch.float32)
    exported = export(model, tmp_path / f"model{suffix}", inputs=names)
    assert set(exported.facts.inputs) == set(names)
    batch = {name: torch.ones(2, 5, dtype=torch.long) for name in names}
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(torch.tensor(opened(exported.path)(batch)[0]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_file_runs_on_what_the_tokenizer_of_its_folder_gives(case, tmp_path):
    import onnxruntime

    kind, names = TOKENIZERS[case]
    tiny(kind, dtype=torch.float32).save_pretrained(tmp_path / "model")
    words = tokenizer()
    words.model_input_names = names
    words.save_pretrained(tmp_path / "model")
    done = CliRunner().invoke(app.app, ["export", str(tmp_path / "model"), "--output", str(tmp_path / "model.onnx")])
    assert done.exit_code == 0, done.output
    encoded = dict(words("a fine film", return_tensors="np"))
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, encoded)
