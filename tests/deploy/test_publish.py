"""Publishing: one commit of exactly the files that load again elsewhere, or nothing; and the header of the card."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_models import classifier, embedding_model, own_tokenizer, reranker
from huggingface_hub import ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled
from recorded_hub import RecordedHub, refusal
from safetensors.torch import load_file, save_file
from small_world import WORDS, config, tokenizer, write_model
from tiny_models import random_masks, tiny
from transformers import BertForQuestionAnswering, BertForTokenClassification
from typer.testing import CliRunner

from secateur.budget.space import Space
from secateur.cli import app
from secateur.deploy import publish as publishing
from secateur.deploy.card_metadata import with_keys
from secateur.deploy.hub_layout import export_folder
from secateur.deploy.machine_paths import paths_in
from secateur.deploy.publish import publish
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.compact.integrity import listed_files
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import head_of
from secateur.system.errors import UserError

NAME = "org/small-bert"
CARD = """\
# A model

- base model: `my-bert`, licence unknown
- data: `reviews`, 3 rows

`load('path/to/this/folder')`
"""
COMPACT = {
    ".gitattributes", "README.md", "SHA256SUMS", "config.json", "model.safetensors", "modeling_secateur.py",
    "plan.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip
HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small():
    return classifier()


@pytest.fixture
def run(small, tmp_path):
    """The folder of a finished run, as far as it is published, with files beside and in the model that are not."""
    save(small, tmp_path / "run" / "model", tokenizer=tokenizer(), card=CARD)
    (tmp_path / "run" / "report.json").write_text("{}")
    for name in (".secret", "training_args.bin"):
        (tmp_path / "run" / "model" / name).write_bytes(b"x")
    return tmp_path / "run"


def header_of(hub, branch="main"):
    return ModelCard(hub.files[branch]["README.md"].decode()).data.to_dict()


# What is published


def test_one_commit_has_exactly_the_files(run):
    hub = RecordedHub()
    done = publish(run, NAME, api=hub, message="the first")
    assert hub.calls == ["model_info", "create_repo", "create_commit"] and hub.message == "the first"
    assert set(hub.files["main"]) == COMPACT and not hub.private
    assert dict(done.files) == {name: len(hub.files["main"][name]) for name in COMPACT - {".gitattributes"}}
    assert done.left_out == (".secret", "training_args.bin") and done.address == "hub/org/small-bert/commit/1"
    assert {kind for kind, _ in hub.operations} == {"Add"}


def test_what_was_uploaded_loads_with_secateur_and_without(run, small, tmp_path):
    hub = RecordedHub()
    publish(run, NAME, api=hub)
    folder = hub.download(tmp_path / "downloaded")
    batch = dict(own_tokenizer()(["a fine film"], return_tensors="pt"))
    with torch.no_grad():
        logits = small(**batch).logits
        assert torch.equal(load(folder)(**batch).logits, logits)
    known = {f"state.{name}": value.clone() for name, value in small.state_dict().items()}
    known |= {f"input.{name}": value for name, value in batch.items()} | {"logits": logits}
    save_file(known, tmp_path / "known.safetensors")
    command = [sys.executable, HERE / "trusted_elsewhere.py", tmp_path / "known.safetensors"]
    asked = f"{json.dumps(str(folder))}\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0] == "right"


def test_an_embedding_model_keeps_its_modules(tmp_path):
    model, hub = embedding_model(), RecordedHub()
    save(model, tmp_path / "model", tokenizer=own_tokenizer(), card=CARD)
    publish(tmp_path / "model", NAME, api=hub)
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"} <= set(hub.files["main"])
    again = load(hub.download(tmp_path / "downloaded"))
    batch = own_tokenizer()(["a fine film"], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again(**batch).sentence_embedding, model(**batch).sentence_embedding)
    assert head_of(again).settings == head_of(model).settings


def test_the_files_of_sentence_transformers_are_checked_too(tmp_path):
    save(embedding_model(), tmp_path / "model", tokenizer=own_tokenizer(), card=CARD)
    pooling = tmp_path / "model" / "1_Pooling" / "config.json"
    for path in (pooling, tmp_path / "model" / "2_Dense" / "model.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        for use in (load, lambda folder: publish(folder, NAME, dry_run=True)):
            with pytest.raises(UserError, match=f"{path.parent.name}/{path.name} is not the file that was saved"):
                use(tmp_path / "model")
        path.write_bytes(content)
    assert publish(tmp_path / "model", NAME, dry_run=True).files


def test_weights_in_a_pickle_alone_are_refused(tmp_path):
    folder = Path(write_model(tmp_path / "model", ["bad", "good"]))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "README.md").write_text(CARD)
    (folder / "2_Dense").mkdir()
    save_file({"weight": torch.ones(1)}, folder / "2_Dense" / "model.safetensors")  # which are not the encoder's
    with pytest.raises(UserError, match="has its weights in a pickle, which is not published"):
        publish(folder, NAME, dry_run=True)


NUMBERED = """\
---
model-index:
- name: x
  results:
  - task:
      type: text-classification
    dataset:
      name: sst2
      type: unknown
    metrics:
    - type: accuracy
      value: 0.5
---

`sst2`, fine-tuned for `sst2` and pruned

- base model: `sst2`, licence unknown
- data: `sst2`, 3 rows
"""


@pytest.mark.parametrize("stated", [("org/bert", "glue/sst2"), ("org/bert", None), (None, "glue/sst2")], ids=str)
def test_a_model_and_its_data_may_have_one_name(run, stated):
    (run / "model" / "README.md").write_text(NUMBERED)
    (run / "model" / "SHA256SUMS").unlink()
    hub = RecordedHub()
    publish(run, NAME, base_model=stated[0], dataset=stated[1], api=hub)
    text = hub.files["main"]["README.md"].decode()
    model, data = (name or "sst2" for name in stated)
    for line in (f"`{model}`, fine-tuned for `{data}` and", f"- base model: `{model}`, lic", f"- data: `{data}`, 3"):
        assert line in text
    (result,) = ModelCard(text).data.eval_results
    assert (result.dataset_name, result.dataset_type) == (data, "unknown" if stated[1] is None else data)


@pytest.mark.parametrize("empty", ["license:", "license: ~", "license:  # to do", "license: null"])
@pytest.mark.parametrize("header", ["{}\ntags:\n- a", "tags:\n- a\n{}"], ids=["first", "last"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"], ids=["unix", "windows"])
def test_a_key_without_a_value_is_replaced(empty, header, line_break):
    card = f"---\n{header.format(empty)}\n---\n# A\n".replace("\n", line_break)
    wanted = "---\ntags:\n- a\nlicense: mit\n---\n# A\n".replace("\n", line_break)
    assert with_keys(card, {"license": "mit"}) == wanted


def test_sums_that_list_the_card_are_those_of_the_changed_card(run, tmp_path):
    with (run / "model" / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  README.md\n")
    with pytest.raises(UserError, match=r"README\.md is not the file that was saved"):
        publish(run, NAME, dry_run=True)
    subprocess.run(["sha256sum README.md config.json model.safetensors > SHA256SUMS"], shell=True, cwd=run / "model")
    hub = RecordedHub()
    publish(run, NAME, api=hub)
    load(hub.download(tmp_path / "downloaded"))


def test_onnx_files_of_the_same_model_are_added(run, small, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    export_folder(small, tmp_path / "own", tokenizer=tokenizer(), dtypes=("fp32",))
    export_folder(reranker(), tmp_path / "other", tokenizer=tokenizer(), dtypes=("fp32",))
    hub = RecordedHub()
    publish(run, NAME, api=hub, onnx=tmp_path / "own")
    beside = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"}
    assert set(hub.files["main"]) == {*COMPACT, *beside, "onnx/model.onnx"}
    assert all(hub.files["main"][name] == (tmp_path / "own" / name).read_bytes() for name in beside)
    folder = hub.download(tmp_path / "downloaded")
    load(folder)
    sums = {listed.name: listed for listed in listed_files(folder)}
    assert beside < sums.keys() and all(listed.is_right(folder) for listed in sums.values())
    assert "onnx/model.onnx" not in sums
    shutil.rmtree(folder / "onnx")
    load(folder)
    (folder / "sentence_bert_config.json").write_text("{}")
    with pytest.raises((ValueError, UserError), match=r"sentence_bert_config\.json is not the file that was saved"):
        load(folder)
    with pytest.raises(UserError, match="made from other weights"):
        publish(run, NAME, api=RecordedHub(), onnx=tmp_path / "other")
    with pytest.raises(UserError, match=r"run has no tokenizer\.json: give a folder that secateur export --layout hub"):
        publish(run, NAME, api=RecordedHub(), onnx=run)
    (tmp_path / "own" / "special_tokens_map.json").unlink()
    with pytest.raises(UserError, match=r"own has no special_tokens_map\.json: give a folder"):
        publish(run, NAME, api=RecordedHub(), onnx=tmp_path / "own")


def test_an_export_with_another_tokenizer_is_refused(run, small, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    export_folder(small, tmp_path / "own", tokenizer=tokenizer(32, sorted(WORDS)), dtypes=("fp32",))
    with pytest.raises(UserError, match=r"own has another tokenizer than .*: export the model again"):
        publish(run, NAME, api=RecordedHub(), onnx=tmp_path / "own")


# The repository


def test_a_repository_with_the_same_files_is_replaced(run):
    hub = RecordedHub({"README.md": b"old", "config.json": b"old"})
    publish(run, NAME, api=hub)
    assert hub.calls == ["model_info", "create_commit"]
    assert set(hub.files["main"]) == COMPACT and hub.files["main"]["config.json"] != b"old"


def test_other_files_are_refused_or_deleted_in_the_same_commit(run):
    shards = {f"model-0000{n}-of-00009.safetensors": b"" for n in range(7)}
    hub = RecordedHub(shards)
    with pytest.raises(UserError, match=r"model-00004-of-00009.safetensors and 2 more: with --replace"):
        publish(run, NAME, api=hub)
    assert hub.calls == ["model_info"]
    done = publish(run, NAME, api=hub, replace=True)
    assert hub.calls == ["model_info", "model_info", "create_commit"]
    assert set(done.deleted) == set(shards) and set(hub.files["main"]) == COMPACT


def test_a_branch_is_made_and_its_card_does_not_show_the_name_of_another(run):
    hub = RecordedHub({"README.md": b"old"})
    publish(run, NAME, api=hub, revision="v2")
    assert hub.calls == ["model_info", "model_info", "create_branch", "create_commit"]
    assert hub.files["main"]["README.md"] == b"old" and set(hub.files["v2"]) == COMPACT
    assert b"load('path/to/this/folder')" in hub.files["v2"]["README.md"]


def test_private_is_of_a_new_repository_alone(run):
    hub = RecordedHub()
    publish(run, NAME, api=hub, private=True)
    assert hub.private
    hub = RecordedHub({}, private=False)
    with pytest.raises(UserError, match="there and public"):
        publish(run, NAME, api=hub, private=True)
    assert hub.calls == ["model_info"]


FAILURES = {
    "no rights": ("create_repo", refusal(403, "You don't have the rights.\nAsk."), "rights. Ask)", "a token that may"),
    "another type": (
        "create_repo",
        refusal(409, "You already created this dataset repo"),
        "dataset repo",
        "another name",
    ),
    "the card": ("create_commit", refusal(400, "Invalid metadata: license"), "Invalid metadata: license", "correct"),
    "a race": ("create_commit", refusal(412, "A commit has happened since"), "since)", "publish again"),
    "no network": ("model_info", ConnectionError("cannot be reached"), "cannot be reached", "check the network"),
    "offline": ("model_info", OfflineModeIsEnabled("long"), "HF_HUB_OFFLINE is set", "unset it"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_sentence_and_nothing_is_there(case, run, monkeypatch):
    call, error, reason, advice = FAILURES[case]
    hub = RecordedHub(**{call: error})
    monkeypatch.setattr(publishing, "HfApi", lambda: hub)
    done = CliRunner().invoke(app.app, ["publish", str(run), NAME])
    assert (done.exit_code, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
    assert f"{NAME} was not published" in done.stderr and reason in done.stderr and advice in done.stderr
    assert hub.calls[-1] == call and (hub.files is None or list(hub.files["main"]) == [".gitattributes"])
    assert ("it was made and is empty" in done.stderr) == (hub.files is not None)


# What is refused before the hub is asked


def damage(folder):
    with (folder / "plan.json").open("a") as file:
        file.write(" ")


def without_card(folder):
    (folder / "README.md").unlink()


def replaced(old, new, name="README.md"):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


REFUSED = {
    "no owner": ({"name": "small-bert"}, None, "in the form ORG/NAME, got 'small-bert'"),
    "a path": ({"name": "a/b/c"}, None, "in the form ORG/NAME"),
    "no such folder": ({"folder": "nothing"}, None, "is not a folder"),
    "no card": ({}, without_card, r"has no README\.md"),
    "a changed file": ({}, damage, r"plan\.json is not the file that was saved"),
    "a path in the card": ({}, replaced("my-bert", "/home/me/bert"), "line 3, has a path of this machine"),
    "a card without a header": ({}, replaced("# A", "---\n- a\n---\n# A"), "header of .*cannot be read"),
    "wrong numbers": ({}, replaced("# A", "---\nmodel-index:\n- a: 1\n---\n# A"), "header of .*cannot be read"),
    "a local source": ({}, replaced("# A", "---\nbase_model: ./my bert\n---\n# A"), r"base_model './my bert'"),
    "another licence": (
        {"license": "mit"}, replaced("# A", "---\nlicense: other\n---\n# A"), "license 'other', and 'mit' was given",
    ),
    "no hub name": ({"base_model": "/models/bert"}, None, "--base-model expects a name on the hub"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_ask_nobody(case, run):
    given, change, message = REFUSED[case]
    if change:
        change(run / "model")
    hub = RecordedHub()
    with pytest.raises(UserError, match=message) as refused:
        publish(**{"folder": run, "name": NAME, "api": hub} | given)
    assert "\n" not in str(refused.value) and hub.calls == []


def test_a_token_is_needed_and_not_for_a_dry_run(run, monkeypatch):
    monkeypatch.setattr(publishing, "get_token", lambda: None)
    hub = RecordedHub(token=None)
    with pytest.raises(UserError, match=r"hf auth login, or set HF_TOKEN"):
        publish(run, NAME, api=hub)
    done = publish(run, NAME, api=hub, dry_run=True)
    assert hub.calls == [] and done.address is None and set(done.files) == COMPACT - {".gitattributes"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("`/home/me/models`, and", ["/home/me/models"]),
        ("file:///Users/me/x", ["/Users/me/x"]),
        (r'"C:\\Users\\me"', [r"C:\\Users\\me"]),
        ("see https://host/home/me/x and a/home/me/x", []),
        ("#!/usr/bin/env python", []),
        ("/no/such/place, and/or", []),
    ],
)
def test_paths_of_this_machine_are_found(line, found):
    assert [path for _, path in paths_in("README.md", line)] == found


def test_a_folder_that_is_here_is_a_path_of_this_machine(tmp_path):
    (place,) = paths_in("plan.json", f'\n{{"model": "{tmp_path}/new"}}')
    assert place == (2, f"{tmp_path}/new")
    assert not list(paths_in("vocab.txt", str(tmp_path))) and not list(paths_in("model.safetensors", str(tmp_path)))


# The header of the card


def test_the_card_of_a_user_is_kept_and_completed(run):
    own = "---\r\nlicense: mit\r\ntags:\r\n- mine\r\n---\r\n# Mine\r\n"
    (run / "model" / "README.md").write_bytes(own.encode())
    hub = RecordedHub()
    done = publish(run, NAME, api=hub, base_model="org/bert")
    text = hub.files["main"]["README.md"].decode()
    begin, _, end = own.rpartition("\r\n---")
    assert text.startswith(begin) and text.endswith(end) and "\n" not in text.replace("\r\n", "")
    assert header_of(hub) == {
        "license": "mit",
        "tags": ["mine"],
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "base_model": "org/bert",
        "base_model_relation": "finetune",
    }
    assert done.missing == ("datasets",)
    (run / "model" / "README.md").write_bytes(hub.files["main"]["README.md"])
    publish(run, NAME, api=hub)
    assert hub.files["main"]["README.md"].decode() == text, "a complete card is not touched"


def test_names_on_the_hub_take_the_place_of_those_here(run):
    hub = RecordedHub()
    publish(run, NAME, api=hub, base_model="org/bert", dataset="org/data", license="mit")
    text = hub.files["main"]["README.md"].decode()
    assert "base model: `org/bert`" in text and "data: `org/data`" in text and f"load('{NAME}')" in text
    header = header_of(hub)
    assert (header["base_model"], header["datasets"], header["license"]) == ("org/bert", ["org/data"], "mit")
    assert (run / "model" / "README.md").read_text() == CARD


def test_paths_that_a_card_of_an_older_version_has_are_replaced_everywhere(run):
    replaced("my-bert", "/home/me/bert")(run / "model")
    with (run / "model" / "README.md").open("a") as file:
        file.write("/home/me/bert, and /home/me/bert-2")
    with pytest.raises(UserError, match="/home/me/bert-2"):
        publish(run, NAME, api=RecordedHub(), base_model="org/bert")
    replaced("/home/me/bert-2", "another")(run / "model")
    hub = RecordedHub()
    publish(run, NAME, api=hub, base_model="org/bert")
    assert hub.files["main"]["README.md"].decode().endswith("org/bert, and another")


def t5():
    model = tiny("t5")
    space = Space(model, "ffn")
    return cut(model, Plan.of(space, random_masks(space, 0.7)))


def cross_encoder():
    model = reranker()
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    return model


KINDS = {
    "a classifier": (classifier, "transformers", "text-classification"),
    "a tagger": (lambda: BertForTokenClassification(config()), "transformers", "token-classification"),
    "questions": (lambda: BertForQuestionAnswering(config()), "transformers", "question-answering"),
    "an encoder": (lambda: tiny("bert", "Model"), "transformers", "feature-extraction"),
    "embeddings": (embedding_model, "sentence-transformers", "sentence-similarity"),
    "a cross-encoder": (cross_encoder, "sentence-transformers", "text-ranking"),
    "one output": (reranker, "transformers", "text-classification"),
    "a writer of texts": (t5, "transformers", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_is_told_the_library_and_the_task(kind, tmp_path):
    make, library, task = KINDS[kind]
    save(make(), tmp_path / "model", card="# A model\n")
    done = publish(tmp_path / "model", NAME, dry_run=True)
    assert (done.header["library_name"], done.header.get("pipeline_tag")) == (library, task)
    assert ("pipeline_tag" in done.missing) == (task is None)
    assert ("secateur" in done.header.get("tags", ())) == (kind in ("a classifier", "embeddings", "a writer of texts"))


def test_the_command_lists_files_and_what_the_card_lacks(run, monkeypatch):
    monkeypatch.setattr(publishing, "HfApi", None)  # not even a client
    words = ["publish", str(run), NAME, "--license", "mit", "--dry-run"]
    done = CliRunner().invoke(app.app, words)
    assert done.exit_code == 0, done.output
    for part in (*COMPACT - {".gitattributes"}, "training_args.bin", "base_model, base_model_relation, datasets"):
        assert part in done.stdout
    assert "Nothing was uploaded" in done.stdout
    values = json.loads(CliRunner().invoke(app.app, [*words, "--json"]).stdout)
    assert values["address"] is None and values["header"]["license"] == "mit"
    assert yaml.safe_load(yaml.safe_dump(values["header"])) == values["header"]
