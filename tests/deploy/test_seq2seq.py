"""Encoder-decoders in other runtimes: the folder, the command, what is refused, and a loop in NumPy alone."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from seq2seq_world import SIZES, write_splits
from tiny_models import edge_cases, inputs, tiny
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from typer.testing import CliRunner

from secateur.budget.space import Space
from secateur.cli import app, export_work
from secateur.deploy.seq2seq import agreement, folder
from secateur.deploy.seq2seq.folder import export_seq2seq, file_of, open_seq2seq
from secateur.deploy.seq2seq.graphs import CacheLayout, DecoderGraph, EncoderGraph
from secateur.measure import evaluation
from secateur.measure.export_times import generation_times
from secateur.run.new_model import new_model
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.system import devices
from secateur.system.errors import UserError
from secateur.tasks.generation import generate
from secateur.tasks.sequences import UNTRAINED
from secateur.tasks.translation import Translation

onnx, _, _ = map(pytest.importorskip, ("onnx", "onnxruntime", "openvino"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cut model of digits into words with its tokenizer, its data, and the folder that the command makes of it."""
    root = tmp_path_factory.mktemp("world")
    (root / "data").mkdir()
    task = Translation.from_data(write_splits(root / "data"))
    new_model(task, root / "dense", architecture="marian", **SIZES)
    dense = AutoModelForSeq2SeqLM.from_pretrained(root / "dense").eval()
    delattr(dense.config, UNTRAINED)  # as a training does
    space = Space(dense, "ffn", "head")
    kept = torch.ones(len(space))
    kept[::3] = 0
    save(cut(dense, Plan.of(space, kept)), root / "small")
    AutoTokenizer.from_pretrained(root / "dense").save_pretrained(root / "small")
    return root


def secateur(*words):
    return CliRunner().invoke(app.app, list(map(str, words)))


@pytest.fixture(scope="module")
def exported(world):
    """What the command says of a folder in fp32 and int8 for both runtimes, scored."""
    words = ("--task", "translation", "--data", world / "data", "--task-option", "max_new_tokens=6", "--max-length", 30)
    runtimes = ("--runtime", "onnxruntime", "--runtime", "openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_work, "generation_times", partial(generation_times, repeats=1))
        done = secateur("export", world / "small", "--output", world / "served", *runtimes, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_writes_each_file_and_scores_it(world, exported):
    served = world / "served"
    names = {str(path.relative_to(served)) for path in served.rglob("*") if path.is_file()}
    onnx = {f"onnx/{part}_model{end}.onnx" for part in ("encoder", "decoder") for end in ("", "_quantized")}
    xml = {f"openvino/{part}_model{end}.xml" for part in ("encoder", "decoder") for end in ("", "_quantized")}
    assert onnx | xml | {name.replace(".xml", ".bin") for name in xml} < names
    assert {"config.json", "generation_config.json", "tokenizer.json"} < names
    assert [(one["runtime"], one["dtype"]) for one in exported["files"]] == [
        ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8"),
    ]  # fmt: skip
    for one in exported["files"]:
        assert one["scores"]["rows"] == 7 and one["scores"]["metric"] == "bleu"
        if one["dtype"] == "fp32":
            assert one["scores"]["exported"] == one["scores"]["source"]
            assert one["agreement"]["equal"] == one["agreement"]["texts"] > 0
    assert {(one["runtime"], one["beams"]) for one in exported["latency"]} == {
        (runtime, beams) for runtime in ("pytorch", "onnxruntime", "openvino") for beams in (1, 5)
    }


def test_the_folder_says_nothing_that_is_untrue_of_the_cut_model(world, exported):
    values = json.loads((world / "served" / "config.json").read_text())
    assert "secateur" not in values and "auto_map" not in values and "_name_or_path" not in values
    assert values["is_encoder_decoder"] and values["model_type"] == "marian" and "architectures" not in values
    assert not {"encoder_ffn_dim", "decoder_ffn_dim", "encoder_attention_heads"} & set(values)  # they differ by layer


def test_texts_are_those_of_the_model(world, exported):
    small = load(world / "small")
    tokenizer = AutoTokenizer.from_pretrained(world / "served")
    texts = ["1 2 3", "4", "0 0 1 2 4"]
    for runtime in ("onnxruntime", "openvino"):
        served = open_seq2seq(world / "served", runtime)
        for beams in (1, 3):
            words = {"beams": beams, "max_new_tokens": 9, "max_length": 30}
            assert generate(served, tokenizer, texts, **words) == generate(small, tokenizer, texts, **words)


def test_beginnings_of_texts_are_read_and_a_mask_of_them_is_refused(world, exported):
    """As docs/deploy/encoder-decoders.md says."""
    small, served = load(world / "small"), open_seq2seq(world / "served")
    ids, begun = torch.tensor([[5, 6, 7, 3], [8, 6, 9, 3]]), torch.tensor([[2, 5, 6], [2, 7, 8]])
    given = {"decoder_input_ids": begun, "num_beams": 2, "max_new_tokens": 5}
    assert torch.equal(served.generate(ids, **given), small.generate(ids, **given))
    with pytest.raises(ValueError, match="'decoder_attention_mask'"):
        served.generate(ids, decoder_attention_mask=torch.ones_like(begun), **given)


def test_a_loop_in_numpy_writes_what_generate_writes(world, exported):
    """The protocol of the two files, as docs/deploy/encoder-decoders.md gives it."""
    import onnxruntime

    files = (world / "served" / "onnx" / f"{part}_model.onnx" for part in ("encoder", "decoder"))
    encoder, decoder = map(onnxruntime.InferenceSession, files)
    config = json.loads((world / "served/config.json").read_text())
    ids = np.array([[5, 6, 7, config["eos_token_id"]]])
    found = encoder.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    held = dict(zip([port.name for port in encoder.get_outputs()], found, strict=True))
    takes = {port.name for port in decoder.get_inputs()}
    written = [config["decoder_start_token_id"]]
    for _ in range(6):
        step = {"decoder_input_ids": np.array([written[-1:]]), "encoder_attention_mask": np.ones_like(ids), **held}
        logits, *present = decoder.run(None, {name: value for name, value in step.items() if name in takes})
        names = [port.name.replace("present", "past") for port in decoder.get_outputs()[1:]]
        held |= dict(zip(names, present, strict=True))
        logits[0, -1, config["pad_token_id"]] = -np.inf
        written.append(int(logits[0, -1].argmax()))
    expected = load(world / "small").generate(
        torch.tensor(ids), num_beams=1, do_sample=False, min_new_tokens=6, max_new_tokens=6, forced_eos_token_id=None
    )
    eos = config["eos_token_id"]
    assert written == expected[0].tolist() or eos in written


def test_verify_compares_a_folder_with_its_model_and_refuses_that_of_another(world, exported, tmp_path):
    one = shutil.copytree(world / "served", tmp_path / "one", ignore=shutil.ignore_patterns("openvino", "*_quantized*"))
    done = secateur("verify", world / "small", "--exported", one)
    assert done.exit_code == 0 and "20 of 20" in done.stdout, done.output
    done = secateur("verify", world / "small", "--exported", one, "--dtype", "fp32")
    assert done.exit_code != 0 and "give --exported with a file, or leave it out" in done.output
    done = secateur("verify", world / "dense", "--exported", world / "served")
    assert done.exit_code != 0 and "was made from other weights" in done.output
    done = secateur("verify", world / "small", "--exported", world / "data")
    assert done.exit_code != 0 and "expected a folder of secateur export with an encoder-decoder" in done.output


def test_files_are_scored_on_the_cpu_beside_an_accelerator(world, exported, monkeypatch):
    """Their model is scored on the accelerator."""
    asked, real = [], evaluation.TrainingArguments

    def recorded(*args, use_cpu, **kwargs):
        asked.append(use_cpu)
        return real(*args, use_cpu=True, **kwargs)

    monkeypatch.setattr(devices, "accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(evaluation, "TrainingArguments", recorded)
    task = Translation.from_data(str(world / "data"), max_new_tokens=6)
    opened, tokenizer = (
        open_seq2seq(world / "served", "onnxruntime", "fp32"),
        AutoTokenizer.from_pretrained(world / "small"),
    )
    found = evaluation.scores_beside_export(load(world / "small"), opened, task, tokenizer, 30)
    assert found["exported"] == found["source"] == exported["files"][0]["scores"]["source"]
    assert asked == [True, False]


def test_what_cannot_be_written_is_refused_before_anything_is(world, tmp_path):
    out, small = tmp_path / "out", world / "small"
    for words, said in (
        (("--dtype", "bf16"), "expected a dtype of fp32, fp16, int8 for an encoder-decoder, got bf16"),
        (("--runtime", "pytorch"), "expected a runtime of onnxruntime, openvino for an encoder-decoder, got pytorch"),
        (("--opset", "3"), "expected an opset from 17 to 20"),
    ):
        done = secateur("export", small, "--output", out, *words)
        assert done.exit_code != 0 and said in " ".join(done.output.split()), done.output
    done = secateur("export", small, "--output", tmp_path / "model.onnx")
    assert done.exit_code != 0 and "as two files in a folder" in " ".join(done.output.split())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    assert secateur("export", small, "--output", tmp_path / "taken").exit_code != 0
    with pytest.raises(UserError, match="expected an encoder-decoder with a head that writes texts, got BertModel"):
        export_seq2seq(tiny("bert", "Model"), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_an_opset_is_for_onnx_alone(tmp_path):
    with pytest.raises(UserError, match="expected an opset for ONNX alone, got 18 for openvino"):
        export_seq2seq(tiny("marian", dtype=torch.float32), tmp_path / "out", runtimes=["openvino"], opset=18)


def test_a_tokenizer_that_is_not_one_file_is_named(tmp_path, caplog):
    """Such as that of a published Marian, which needs sentencepiece."""

    class InPython:
        def save_pretrained(self, folder):
            for name in ("vocab.json", "source.spm", "target.spm"):
                (folder / name).write_text("")

    with caplog.at_level("WARNING", "secateur"):
        export_seq2seq(tiny("marian", dtype=torch.float32), tmp_path / "out", tokenizer=InPython())
    assert "a InPython writes no tokenizer.json" in caplog.text
    assert "(source.spm, target.spm, vocab.json)" in caplog.text


def test_a_decoder_without_its_first_layer_counts_its_tokens(tmp_path):
    model = tiny("marian", dtype=torch.float32)
    space = Space(model, "layer")
    kept = [group.name not in ("decoder.0.layer", "encoder.1.layer") for group in space.groups]
    (found,) = export_seq2seq(cut(model, Plan.of(space, torch.tensor(kept).float())), tmp_path / "out").files
    assert found.agreement.equal == found.agreement.texts


def test_a_decoder_without_layers_is_refused(tmp_path):
    with pytest.raises(UserError, match="a decoder without layers"):
        export_seq2seq(tiny("marian", dtype=torch.float32, decoder_layers=0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_texts_are_compared_one_by_one_whatever_else_their_batch_writes():
    class Writer:
        def __init__(self, *texts):
            self.texts, self.config = torch.tensor(texts), SimpleNamespace(pad_token_id=0)

        def generate(self, **_):
            return self.texts

    short, long = Writer([1, 2, 0], [1, 3, 4]), Writer([1, 2, 0, 0], [1, 3, 4, 5])
    assert agreement._equal(short, long, {}, 1) == agreement._equal(long, short, {}, 1) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2},
        {"prompt_lookup_num_tokens": 3},
        {"return_dict_in_generate": True},
        {"temperature": 0.7},
        {"length_penalty": 2.0},
        {"stop_strings": ["a"]},
    ],
    ids=lambda options: list(options)[-1],
)
def test_any_option_of_generation_is_kept_and_none_changes_the_comparison(options, tmp_path):
    model = tiny("marian", dtype=torch.float32)
    model.generation_config.update(**options)
    (found,) = export_seq2seq(model, tmp_path / "out").files
    assert found.agreement.equal == found.agreement.texts == 20
    generation = open_seq2seq(tmp_path / "out").generation_config
    assert {name: getattr(generation, name) for name in options} == options
    exported, _ = folder.verify_seq2seq(model, tmp_path / "out", "onnxruntime", "fp32")
    assert {name: getattr(exported.generation_config, name) for name in options} == options


@pytest.mark.parametrize("option", [{"num_return_sequences": 2}, {"early_stopping": "soon"}])
def test_options_that_generate_refuses_are_refused_before_any_work(option, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "inference_copy", lambda *_: pytest.fail("the model was copied"))
    model, ((name, value),) = tiny("marian", dtype=torch.float32), option.items()
    setattr(model.generation_config, name, value)
    with pytest.raises(UserError, match=f"generation config of the model is invalid .*`{name}`.*: change it in gen"):
        export_seq2seq(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_files_that_differ_from_their_model_leave_nothing_behind(tmp_path, monkeypatch):
    compared = folder.agreement
    monkeypatch.setattr(folder, "agreement", lambda *both: agreement.Agreement(**vars(compared(*both)) | {"equal": 3}))
    with pytest.raises(UserError, match="write 3 of 20 texts as it does: nothing was written"):
        export_seq2seq(tiny("marian", dtype=torch.float32), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_int8_files_hold_weights_in_8_bits(tmp_path):
    export_seq2seq(tiny("t5", dtype=torch.float32), tmp_path / "out", dtypes=("int8",))
    for part in ("encoder", "decoder"):
        file = onnx.load(file_of(tmp_path / "out", part, "onnxruntime", "int8"))
        matrices = [tensor for tensor in file.graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 8]
        assert matrices and {tensor.data_type for tensor in matrices} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def test_a_tied_table_is_in_a_file_once(tmp_path):
    """It is looked up in the decoder, and multiplied after it."""
    model = tiny("marian", dtype=torch.float32)
    export_seq2seq(model, tmp_path / "out")
    file = onnx.load(file_of(tmp_path / "out", "decoder", "onnxruntime", "fp32"))
    table = sorted(model.get_input_embeddings().weight.shape)
    assert sum(sorted(tensor.dims) == table for tensor in file.graph.initializer) == 1


def test_the_steps_of_a_graph_are_one_forward_of_the_model():
    """However long the steps are."""
    model, plan, _ = edge_cases("t5")
    small = cut(model, plan).eval()
    layout, batch = CacheLayout.of(small), inputs(small)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    target = batch["decoder_input_ids"]
    encoder, decoder = (graph(small, layout) for graph in (EncoderGraph, DecoderGraph))
    with torch.no_grad():
        expected = small(**source, decoder_input_ids=target).logits.float()
        own = 2 * len(layout.own)
        first = encoder(**source)
        for steps in ([1] * target.shape[1], [target.shape[1]], [2, target.shape[1] - 2]):
            past, logits = first[:own], []
            for step in target.split(steps, dim=1):
                said, *past = decoder(step, source["attention_mask"], *past, *first[own:])
                logits.append(said)
            torch.testing.assert_close(torch.cat(logits, dim=1), expected, rtol=0, atol=1e-5)
