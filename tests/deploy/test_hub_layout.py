"""The folder that servers take: the names, outputs and keys that they read, one length, and what is refused.

text-embeddings-inference reads (its `router/src/lib.rs` and `backends/ort/src/lib.rs`, by a strict parser that takes no
`null`): the keys of `TEI_CONFIG`, `TEI_POOLING` and `TEI_LENGTH`, and `id2label` and `label2id` of a classifier.
"""

import json
import re
import sys
from pathlib import Path

import onnx
import pytest
import torch
from hub_models import LONGEST, classifier, embedding_model, own_tokenizer, reranker
from recorded_hub import RecordedHub
from small_world import tokenizer, write_data, write_model
from tiny_models import ENCODERS, names_of, random_masks, tiny
from tokenizers import Tokenizer
from transformers import AutoConfig, PythonBackend
from typer.testing import CliRunner

from secateur.budget.space import Space
from secateur.cli import app
from secateur.deploy import hub_layout, server_tokenizer
from secateur.deploy.export import export
from secateur.deploy.formats import read_facts
from secateur.deploy.hub_layout import FILES, export_folder
from secateur.deploy.publish import publish
from secateur.deploy.served_model import described_model, folder_of
from secateur.deploy.server_config import server_config
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import head_of
from secateur.surgery.sentence.folder import read_head
from secateur.system.errors import UserError

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package)

TEI_CONFIG = {
    "architectures": list, "model_type": str, "max_position_embeddings": int, "pad_token_id": int, "hidden_size": int,
    "num_hidden_layers": int,
}  # fmt: skip
TEI_POOLING = {"pooling_mode_cls_token": bool, "pooling_mode_mean_tokens": bool, "pooling_mode_lasttoken": bool}
TEI_LENGTH = {"max_seq_length": int}


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def ports(values):
    """Name -> type and number of dimensions."""
    tensors = {value.name: value.type.tensor_type for value in values}
    return {name: (tensor.elem_type, len(tensor.shape.dim)) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def embedder():
    return embedding_model()


@pytest.fixture(scope="module")
def embeddings(embedder, tmp_path_factory):
    return export_folder(embedder, tmp_path_factory.mktemp("hub") / "embeddings", tokenizer=own_tokenizer())


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return export_folder(classifier(), tmp_path_factory.mktemp("hub") / "classes", tokenizer=tokenizer())


@pytest.mark.parametrize(("kind", "output"), [("embeddings", "sentence_embedding"), ("classes", "logits")])
@pytest.mark.parametrize("dtype", FILES)
def test_a_file_has_the_inputs_and_the_output_that_servers_name(kind, output, dtype, request):
    folder = request.getfixturevalue(kind).path
    graph = onnx.load(folder / FILES[dtype]).graph
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert ports(graph.input) == dict.fromkeys(names, (onnx.TensorProto.INT64, 2))
    assert ports(graph.output) == {output: (onnx.TensorProto.FLOAT, 2)}
    assert read_facts(folder / FILES[dtype]).dtype == dtype


@pytest.mark.parametrize("kind", ["embeddings", "classes"])
def test_text_embeddings_inference_finds_its_keys(kind, request):
    folder = request.getfixturevalue(kind).path
    config = read(folder, "config.json")
    wanted = [(config, TEI_CONFIG), (read(folder, "sentence_bert_config.json"), TEI_LENGTH)]
    if kind == "embeddings":
        wanted.append((read(folder, "1_Pooling/config.json"), TEI_POOLING))
    for values, keys in wanted:
        assert {name: type(values.get(name)) for name in keys} == keys
    assert None not in config.values() and not {"auto_map", "secateur"} & set(config)
    assert [name.endswith("Classification") for name in config["architectures"]] == [kind == "classes"]
    assert not [path for path in folder.rglob("*") if path.suffix in (".py", ".safetensors", ".bin")]


def test_text_embeddings_inference_finds_its_keys_in_what_is_published_too(embedder, embeddings, tmp_path):
    save(embedder, tmp_path / "model", tokenizer=own_tokenizer(), card="# A model\n")
    hub = RecordedHub()
    publish(tmp_path / "model", "our/model", api=hub, onnx=embeddings.path)
    folder = hub.download(tmp_path / "downloaded")
    places = {"config.json": TEI_CONFIG, "sentence_bert_config.json": TEI_LENGTH, "1_Pooling/config.json": TEI_POOLING}
    for name, keys in places.items():
        assert {key: type(read(folder, name).get(key)) for key in keys} == keys
    assert not any(name.endswith("Classification") for name in read(folder, "config.json")["architectures"])


def test_a_classifier_names_its_labels_both_ways(classes):
    config = read(classes.path, "config.json")
    assert (config["id2label"], config["label2id"]) == ({"0": "bad", "1": "good"}, {"bad": 0, "good": 1})
    assert not (classes.path / "modules.json").exists()


def test_only_a_classifier_names_labels(embeddings):
    assert not {"id2label", "label2id"} & set(read(embeddings.path, "config.json"))


def test_the_config_states_what_is_left_of_a_cut_model(embedder, embeddings):
    """Its width and its layers; what differs between the layers is left out, and named."""
    config = read(embeddings.path, "config.json")
    width = embedder.get_input_embeddings().weight.shape[1]
    assert config["hidden_size"] == width < embedder.config.hidden_size
    assert config["num_hidden_layers"] == 2 and config["architectures"] == ["BertModel"]
    assert embeddings.unstated == ("num_attention_heads", "intermediate_size")
    assert not set(embeddings.unstated) & set(config)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_family_states_its_sizes_under_the_names_that_servers_know(kind, tmp_path):
    model = tiny(kind, "Sentence")
    written = export_folder(model, tmp_path / "hub", tokenizer=tokenizer(), dtypes=("fp32",))
    config = read(written.path, "config.json")
    assert {name: type(config.get(name)) for name in TEI_CONFIG} == TEI_CONFIG
    sizes = {name: config[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    assert sizes == {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    assert type(model.config)(**config).hidden_size == 32 and written.unstated == ()


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_model_without_its_first_layer_is_described_by_a_config_that_transformers_reads(kind, tmp_path):
    model = tiny(kind, "Sentence", **dict.fromkeys(names_of(kind, "num_hidden_layers"), 4))
    space = Space(model, "layer")
    small = cut(model, Plan.of(space, torch.tensor([0.0, 1.0, 1.0, 1.0])))
    written = export_folder(small, tmp_path / "hub", tokenizer=tokenizer(), dtypes=("fp32",))
    config = AutoConfig.from_pretrained(written.path)
    assert config.num_hidden_layers == 3 and written.unstated == ()
    if kind == "modernbert":  # every third layer attends to all tokens
        assert config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert head_of(described_model(written.path)) is not None


def test_a_config_that_transformers_does_not_read_is_refused_before_anything_is_traced(tmp_path, monkeypatch):
    model = tiny("modernbert", "Sentence")
    monkeypatch.setattr(hub_layout, "export", None)
    model.config.layer_types = model.config.layer_types[:1]
    with pytest.raises(UserError, match=r"transformers does not read the config of this model \(.*\): export a file"):
        export_folder(model, tmp_path / "hub", tokenizer=tokenizer())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shape", "width"), [(0, None), (1, 24)])
def test_embeddings_of_a_width_of_their_own_keep_it(shape, width):
    """ELECTRA's lie on the residual stream in some models, and are narrower in others."""
    model = tiny("electra", "ForSequenceClassification", shape)
    space = Space(model, "hidden")
    config, _ = server_config(cut(model, Plan.of(space, random_masks(space, 0.7))))
    assert config["embedding_size"] == (width or config["hidden_size"]) < 32


def test_the_modules_are_those_that_the_file_computes(embedder, embeddings):
    """The Dense is in the file and in no module, so that nothing maps the vectors twice; prompts are kept."""
    served, own = read_head(embeddings.path), head_of(embedder)
    assert (served.poolings, len(served.dense), served.normalise) == (("mean",), 0, True)
    assert served.size == own.size == 6 and served.settings == own.settings


def test_every_server_finds_the_same_longest_text(embeddings):
    """Of the model's 32 positions, the tokenizer's 32, 4, 5 and 31 tokens, and the 9 of the model for embeddings."""
    folder = embeddings.path
    config, pieces = read(folder, "tokenizer_config.json"), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert {embeddings.max_length, config["model_max_length"], config["max_length"]} == {LONGEST}
    assert read(folder, "sentence_bert_config.json")["max_seq_length"] == LONGEST
    long, short = pieces.encode_batch(["good film and bad film and bad film and", "Good"])
    assert len(long.ids) == len(short.ids) == LONGEST and short.attention_mask == [1] * 3 + [0] * (LONGEST - 3)
    assert len(pieces.encode_batch(["good"])[0].ids) == 3
    assert read(folder, "special_tokens_map.json")["pad_token"] == "[PAD]"


def test_positions_that_a_family_does_not_use_are_no_length(tmp_path):
    """RoBERTa and MPNet count positions from the number of the padding token."""
    model = tiny("mpnet", "ForSequenceClassification")
    written = export_folder(model, tmp_path / "hub", tokenizer=tokenizer(10**30), dtypes=("fp32",))
    assert written.max_length == model.config.max_position_embeddings - model.config.pad_token_id - 1


def test_the_tokenizer_and_the_model_are_left_as_they_were(embedder):
    words = own_tokenizer()
    before = words.backend_tokenizer.to_str()
    hub_layout.check_tokenizer(words)
    assert hub_layout.length_limit(embedder, words, 9) == 9
    assert words.model_max_length == 32 and words.backend_tokenizer.to_str() == before


# Pages about other programs, whose blocks are not run here

PAGES = Path(__file__).parents[2] / "docs" / "deploy"
SUFFIXES = {"fp32": "", "q8": "_quantized"}
"""Of the names of files, by the `dtype` of transformers.js: `DEFAULT_DTYPE_SUFFIX_MAPPING` in its source."""
TYPES = {"TYPE_INT64": onnx.TensorProto.INT64, "TYPE_FP32": onnx.TensorProto.FLOAT}
"""Types of Triton's configs."""


def block(page, language):
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


def test_the_config_for_triton_names_the_inputs_and_the_output(embeddings):
    """Its dims are without the batch."""
    graph = onnx.load(embeddings.path / FILES["fp32"]).graph
    halves = block("triton.md", "pbtxt").split("output [")
    for half, values in zip(halves, (graph.input, graph.output), strict=True):
        found = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ (.+?) \]', half)
        assert {name: (TYPES[kind], len(dims.split(",")) + 1) for name, kind, dims in found} == ports(values)


def test_the_javascript_names_files_and_an_output_that_are_there(embeddings):
    code = block("transformers-js.md", "js")
    dtypes = re.findall(r'dtype: "(\w+)"', code)
    assert {f"onnx/model{SUFFIXES[dtype]}.onnx" for dtype in dtypes} == set(FILES.values())
    outputs = re.findall(r"const \{ (\w+) \} = await model\(", code)
    assert tuple(outputs) == read_facts(embeddings.path / FILES["fp32"]).outputs


def test_the_page_about_text_embeddings_inference_names_its_keys():
    text = (PAGES / "text-embeddings-inference.md").read_text(encoding="utf-8")
    cells = (line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `"))
    rows = {file.strip(" `"): set(re.findall(r"`(\w+)`", keys)) for file, keys in cells}
    assert rows["config.json"] == {*TEI_CONFIG, "id2label", "label2id"}
    assert rows["1_Pooling/config.json"] == set(TEI_POOLING) and rows["sentence_bert_config.json"] == set(TEI_LENGTH)


# What is refused, and what is left behind


REFUSED = {
    "an encoder-decoder": (lambda: tiny("t5"), tokenizer, {}, "an encoder-decoder .* is exported as two files"),
    "a dtype": (reranker, tokenizer, {"dtypes": ("fp32", "bf16")}, "fp32, int8 for the layout hub, got fp32, bf16"),
    "no dtype": (reranker, tokenizer, {"dtypes": ()}, "got none"),
    "no calibration": (reranker, tokenizer, {"calibration": []}, "at least one batch"),
    "calibration without int8": (
        reranker,
        tokenizer,
        {"dtypes": ("fp32",), "calibration": [{}]},
        "for int8 alone, got 1 batches for fp32",
    ),
    "a tokenizer without padding": (reranker, lambda: unpadded(), {}, "has no pad_token"),
    "a tokenizer in Python": (reranker, lambda: InPython(), {}, "a InPython writes none"),
}


class InPython(PythonBackend):
    """A tokenizer that is no file."""

    def __init__(self):
        super().__init__(pad_token="[PAD]")

    def get_vocab(self):
        return {}


def unpadded():
    words = tokenizer()
    words.pad_token = None
    return words


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_before_any_work(case, tmp_path, monkeypatch):
    model, words, options, message = REFUSED[case]
    monkeypatch.setattr(hub_layout, "atomic_folder", None)
    with pytest.raises(UserError, match=message) as refusal:
        export_folder(model(), tmp_path / "hub", tokenizer=words(), **options)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


def test_a_model_of_relative_positions_is_served_at_the_length_of_its_pre_training_if_none_is_stated():
    model = tiny("deberta-v2", "ForSequenceClassification")
    assert hub_layout.length_limit(model, tokenizer(10**30)) == model.config.max_position_embeddings
    assert hub_layout.length_limit(model, tokenizer(1024)) == 1024


def test_a_length_that_nobody_states_is_refused(monkeypatch):
    model = tiny("bert", "ForSequenceClassification")
    model.config.max_position_embeddings = 0
    monkeypatch.setattr(server_tokenizer, "positions", lambda model: None)
    with pytest.raises(UserError, match=r"set tokenizer\.model_max_length"):
        hub_layout.length_limit(model, tokenizer(10**30))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_refused_before_a_model_is_opened(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    done = secateur("export", tmp_path / "nothing", "--output", tmp_path / "hub", "--layout", "hub")
    assert done.exit_code == 2 and f"{package} is not installed" in done.stderr


def test_a_folder_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """The second file differs from the model, after the first one and the tokenizer were written."""

    def differs(model, path, *, dtype, **options):
        if dtype == "int8":
            raise UserError("would differ")
        return export(model, path, dtype=dtype, **options)

    monkeypatch.setattr(hub_layout, "export", differs)
    with pytest.raises(UserError, match="would differ"):
        export_folder(reranker(), tmp_path / "hub", tokenizer=tokenizer())
    assert not list(tmp_path.iterdir())


# The command


def secateur(*words):
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "dense", ["bad", "good"])
    write_data(folder / "data.csv")
    assert secateur("cut", folder / "dense", "--density", 0.7, "--output", folder / "small").exit_code == 0
    return folder


def test_the_command_calibrates_scores_and_writes_both_files(world, tmp_path):
    words = ("--layout", "hub", "--data", world / "data.csv", "--max-length", 24, "--rows", 20)
    done = secateur("export", world / "small", "--output", tmp_path / "hub", *words, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    files = {file["facts"]["dtype"]: file for file in values["files"]}
    assert {dtype: file["path"] for dtype, file in files.items()} == {
        dtype: str(tmp_path / "hub" / name) for dtype, name in FILES.items()
    }
    assert [files[dtype]["facts"]["calibration"] for dtype in FILES] == [0, 20]
    assert files["fp32"]["scores"]["exported"] == files["fp32"]["scores"]["source"]
    assert files["int8"]["scores"]["rows"] == files["fp32"]["scores"]["rows"] > 0
    assert values["max_length"] == 32
    for dtype, file in files.items():
        done = secateur("eval", file["path"], "--data", world / "data.csv", "--max-length", 24, "--json")
        scored = json.loads(done.stdout)
        assert scored["scores"] == file["scores"]["exported"] and scored["rows"] == file["scores"]["rows"], dtype


def test_files_of_a_folder_are_measured_and_verified(world, tmp_path):
    folder = tmp_path / "hub"
    done = secateur("export", world / "small", "--output", folder, "--layout", "hub")
    assert done.exit_code == 0, done.output
    for part in (*(name.removeprefix("onnx/") for name in FILES.values()), "up to 32 tokens", str(folder)):
        assert part in done.stdout
    assert "leaves out intermediate_size" in done.stdout and "intermediate_size" not in read(folder, "config.json")
    file = folder / FILES["fp32"]
    shape = ("--runtime", "onnxruntime", "--shape", "1x4", "--repeats", 1, "--no-memory", "--json")
    done = secateur("bench", file, "--against", world / "dense", *shape)
    assert done.exit_code == 0, done.output
    assert ("model.onnx", "onnxruntime") in {(row["model"], row["runtime"]) for row in json.loads(done.stdout)}
    done = secateur("verify", world / "small", "--exported", file, "--data", world / "data.csv", "--max-length", 24)
    assert done.exit_code == 0 and "the same model" in done.stdout, done.output


def test_a_file_elsewhere_is_not_scored_alone(world, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    done = secateur("eval", file, "--data", world / "data.csv")
    assert done.exit_code == 2 and "secateur verify --exported" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", ["distilbert", "electra"])
def test_a_folder_describes_a_model_that_tasks_can_ask(kind, tmp_path):
    """Its class, labels and head, also of a width that no number of heads divides."""
    for head in ("ForSequenceClassification", "Sentence"):
        model = tiny(kind, head, num_labels=3) if head != "Sentence" else tiny(kind, head)
        space = Space(model, "hidden", "head")
        small = cut(model, Plan.of(space, random_masks(space, 0.7)))
        folder = export_folder(small, tmp_path / head, tokenizer=tokenizer(), dtypes=("fp32",)).path
        found = described_model(folder)
        assert type(found) is type(model) and found.config.num_labels == model.config.num_labels
        assert found.config.hidden_size < 32 and (head_of(found) is None) == (head_of(small) is None)
        assert folder_of(folder / FILES["fp32"]) == folder


@pytest.mark.parametrize("dtype", FILES)
def test_one_dtype_is_one_file(dtype, world, tmp_path):
    folder = tmp_path / "hub"
    assert secateur("export", world / "dense", "-o", folder, "--layout", "hub", "--dtype", dtype).exit_code == 0
    assert [path.name for path in (folder / "onnx").iterdir()] == [FILES[dtype].removeprefix("onnx/")]


def test_the_command_refuses_in_one_sentence(world, tmp_path):
    occupied = tmp_path / "there"
    occupied.mkdir()
    (occupied / "mine").touch()
    cases = [(("--output", occupied), "not empty"), (("--output", tmp_path / "hub", "--dtype", "fp16"), "got fp16")]
    for words, message in cases:
        done = secateur("export", world / "dense", "--layout", "hub", *words)
        assert (done.exit_code, done.stdout) == (2, "") and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
