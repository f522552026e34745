"""Compact models on the hub: what is loaded from there, or from a subfolder, and saved again loses nothing."""

import copy
import json
import shutil

import huggingface_hub.constants
import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from small_world import tokenizer
from tiny_models import random_masks, tiny
from transformers import AutoModelForSequenceClassification as Auto

from secateur.budget.space import Space
from secateur.deploy.verify import verify_folder
from secateur.run.stages.check import check_prunable
from secateur.structure.plan import Plan
from secateur.surgery import hub
from secateur.surgery.checkpoint import load, save
from secateur.surgery.compact import auto_map, hub_files
from secateur.surgery.cut import cut
from secateur.surgery.hub import local_folder
from secateur.surgery.opening import config_of_model, open_encoder, open_model, open_tokenizer
from secateur.surgery.sentence.attach import head_of
from secateur.system.errors import UserError
from secateur.tasks.checkpoint_labels import read_config

NAME, COMMIT = "someone/small", "0" * 40
FILES = {"config.json", "model.safetensors", "modeling_secateur.py", "plan.json", "SHA256SUMS"}


@pytest.fixture(scope="module")
def small():
    model = tiny("bert", dtype=torch.float32)
    space = Space(model, "ffn", "qk", "vo")
    return cut(model, Plan.of(space, random_masks(space)))


@pytest.fixture
def folder(small, tmp_path):
    save(small, tmp_path / "small")
    return tmp_path / "small"


def into_cache(folder, cache, name=NAME):
    """Lay the files of a folder as the hub's client does: links in a snapshot, the files themselves in `blobs`."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            blob, link = home / "blobs" / "-".join(path.relative_to(folder).parts), snapshot / path.relative_to(folder)
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blob)
            link.symlink_to(blob)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, from which alone models come."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_of_the_hub_is_loaded_with_its_plan(small, folder, cache, tmp_path):
    snapshot = into_cache(folder, cache)
    for model in (load(NAME), open_model(NAME), open_encoder(NAME), Auto.from_pretrained(NAME)):
        assert model.plan == small.plan
    assert local_folder(NAME) == snapshot
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    assert verify_folder(NAME, [batch]).passed


def test_a_sentence_head_comes_from_the_hub_with_its_encoder(cache, tmp_path):
    model = tiny("bert", "Sentence", dtype=torch.float32)
    space = Space(model, "hidden")
    small = cut(model, Plan.of(space, random_masks(space)))
    save(small, tmp_path / "sentences")
    snapshot = into_cache(tmp_path / "sentences", cache)
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    for opened in (load(NAME), open_model(NAME), open_model(snapshot)):
        assert torch.equal(opened(**batch).sentence_embedding, small(**batch).sentence_embedding)


NOT_ASKED = "someone/small has no {} in the cache, and the hub cannot be asked for it"


@pytest.fixture
def nothing_said(monkeypatch):
    """Nothing was said of any model yet."""
    monkeypatch.setattr(hub_files, "INCOMPLETE", set())


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("gone", ["modules.json", "config_sentence_transformers.json"])
def test_a_file_for_which_the_hub_cannot_be_asked_is_named_once(gone, cache, tmp_path, caplog):
    save(tiny("bert", "Sentence", dtype=torch.float32), tmp_path / "sentences")
    snapshot = into_cache(tmp_path / "sentences", cache)
    assert head_of(open_model(NAME)) is not None and not caplog.messages
    (snapshot / gone).unlink()
    assert (head_of(open_model(NAME)) is None) == (gone == "modules.json")
    open_model(NAME)
    assert [message.partition(":")[0] for message in caplog.messages] == [NOT_ASKED.format(gone)]


@pytest.mark.usefixtures("nothing_said")
def test_a_file_that_the_hub_is_known_not_to_have_is_absent_without_a_word(cache, tmp_path, caplog):
    save(tiny("bert", "Model", dtype=torch.float32), tmp_path / "encoder")
    into_cache(tmp_path / "encoder", cache)
    known = cache / "models--someone--small" / ".no_exist" / COMMIT / "modules.json"
    known.parent.mkdir(parents=True)
    known.touch()
    assert head_of(open_model(NAME)) is None
    assert not caplog.messages
    known.unlink()
    assert head_of(open_model(NAME)) is None
    assert NOT_ASKED.format("modules.json") in caplog.text


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("sub", [None, "int8"])
def test_a_compact_model_says_that_its_sums_cannot_be_asked_for(sub, folder, cache, caplog):
    if sub:
        shutil.copytree(folder, folder / sub)
    snapshot = into_cache(folder, cache)
    place = {"subfolder": sub} if sub else {}
    (snapshot / (sub or "") / "README.md").write_text("a card")
    Auto.from_pretrained(NAME, **place)
    assert not caplog.messages
    (snapshot / (sub or "") / "SHA256SUMS").unlink()
    Auto.from_pretrained(NAME, **place)
    assert [message.partition(":")[0] for message in caplog.messages] == [NOT_ASKED.format("SHA256SUMS")]


@pytest.fixture
def downloaded(monkeypatch, folder, tmp_path):
    """Downloads come from `folder`; gives the place to which they go."""

    def download(name, allow_patterns=None, ignore_patterns=None):
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / "snapshot" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / "snapshot" / file)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", download)
    return tmp_path / "snapshot"


def test_files_in_folders_that_are_listed_come_from_the_hub_and_exports_do_not(small, folder, downloaded):
    words = tokenizer()
    words.chat_template = {"default": "{{ messages }}", "rag [1]": "{{ documents }}"}
    save(small, folder, tokenizer=words)
    for export in ("onnx/model.onnx", "openvino/openvino_model.xml", "2_Other/model.safetensors"):
        (folder / export).parent.mkdir()
        (folder / export).write_bytes(b"large")
    assert load(NAME).plan == small.plan
    assert [path.name for path in downloaded.iterdir() if path.is_dir()] == ["additional_chat_templates"]
    assert open_tokenizer(downloaded).chat_template == words.chat_template
    (downloaded / "additional_chat_templates" / "rag [1].jinja").write_text("{{ other }}")
    with pytest.raises(UserError, match=r"rag \[1\]\.jinja is not the file that was saved"):
        load(downloaded)


def test_damaged_sums_of_a_model_of_the_hub_are_named(folder, downloaded):
    (folder / "SHA256SUMS").write_text("no sum\n")
    with pytest.raises(UserError, match="SHA256SUMS is damaged: expected lines as sha256sum writes them"):
        load(NAME)


def test_what_was_loaded_from_the_hub_is_saved_whole(small, folder, cache, tmp_path):
    into_cache(folder, cache)
    for number, kind in enumerate((Auto, transformers.AutoModel)):
        kind.from_pretrained(NAME).save_pretrained(tmp_path / f"again-{number}")
        assert {path.name for path in (tmp_path / f"again-{number}").iterdir()} == FILES
        assert load(tmp_path / f"again-{number}").plan == small.plan


def test_a_copy_of_a_model_of_the_hub_refers_to_the_code_in_its_own_folder(small):
    """A config from the hub has the repository before the names of its classes."""
    own = small.config.auto_map
    config = copy.deepcopy(small.config)
    config.auto_map = {auto: f"{NAME}--{name}" for auto, name in own.items()}
    assert auto_map(small.stock, config) == own == auto_map(small.stock, small.config)
    assert own["AutoModelForSequenceClassification"] == "modeling_secateur.PrunedBertForSequenceClassification"
    assert {name.partition(".")[0] for name in own.values()} == {"modeling_secateur"}


@pytest.mark.parametrize("on_hub", [True, False])
def test_what_was_loaded_from_a_subfolder_is_saved_whole(small, folder, cache, tmp_path, on_hub):
    root = tmp_path / "root"
    shutil.copytree(folder, root / "inner")
    name = NAME if on_hub else root
    if on_hub:
        into_cache(root, cache)
    for model in (Auto.from_pretrained(name, subfolder="inner"), type(small).from_pretrained(name, subfolder="inner")):
        assert model.plan == small.plan
        model.save_pretrained(tmp_path / "again")
        assert load(tmp_path / "again").plan == small.plan


def test_a_subfolder_in_the_cache_is_loaded_as_a_folder(small, folder, cache, tmp_path):
    shutil.copytree(folder, tmp_path / "root" / "inner")
    snapshot = into_cache(tmp_path / "root", cache)
    for model in (load(snapshot / "inner"), Auto.from_pretrained(snapshot, subfolder="inner")):
        assert model.plan == small.plan


def test_the_files_of_a_subfolder_are_checked(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "root" / "inner")
    (tmp_path / "root" / "inner" / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the file that was saved"):
        Auto.from_pretrained(tmp_path / "root", subfolder="inner")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modeling_secateur.py", "plan.json"])
@pytest.mark.parametrize("inner", ["", "inner"])
def test_the_files_that_come_from_the_hub_are_checked(folder, cache, tmp_path, name, inner):
    """Those that are downloaded; the tokenizer's, which are listed too, are not."""
    root = tmp_path / "root"
    shutil.copytree(folder, root / inner)
    with (root / inner / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  tokenizer.json\n")
    snapshot = into_cache(root, cache)
    assert Auto.from_pretrained(NAME, subfolder=inner).plan
    blob = (snapshot / inner / name).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if name == "model.safetensors" else other(content))
    with pytest.raises(ValueError, match=rf"{name} is not the file that was saved: copy or save the model again"):
        Auto.from_pretrained(NAME, subfolder=inner)


def other(content):
    """Text with other spaces, and another number in JSON."""
    return content.replace(b": 1", b":  2", 1) + b"\n"


def test_labels_of_a_model_of_the_hub_may_be_renamed(folder, cache):
    snapshot = into_cache(folder, cache)
    blob = (snapshot / "config.json").resolve()
    blob.write_text(json.dumps(json.loads(blob.read_text()) | {"id2label": {"0": "bad", "1": "good"}}))
    assert Auto.from_pretrained(NAME).config.id2label == {0: "bad", 1: "good"}


def test_a_model_of_the_hub_without_a_plan_is_loaded_with_a_warning(folder, cache, caplog):
    (folder / "plan.json").unlink()
    into_cache(folder, cache)
    assert Auto.from_pretrained(NAME).plan is None
    assert "has no plan.json" in caplog.text


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(cache, tmp_path):
    with pytest.raises(UserError, match="is not a folder, and not a model on the hub or in its cache") as refusal:
        load("someone/nothing")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="is not a folder: give the path"):
        load(str(tmp_path / "no" / "such" / "place"))


@pytest.mark.parametrize("takes", [open_model, open_encoder, check_prunable, config_of_model])
def test_a_family_that_is_not_supported_is_refused_before_its_weights_are_downloaded(takes, cache, tmp_path):
    transformers.GPT2Config().save_pretrained(tmp_path / "gpt2")  # and no weights
    into_cache(tmp_path / "gpt2", cache)
    for name in (NAME, str(tmp_path / "gpt2")):
        with pytest.raises(UserError, match=f"{name}'? is of the architecture 'gpt2': supported are bart, "):
            takes(name)


@pytest.fixture
def foreign(cache, tmp_path, monkeypatch):
    """A name in the cache of a model whose architecture, tokenizer and code are its own; the code must not run."""
    folder, own = tmp_path / "foreign", {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "new", "auto_map": own}))
    words = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.Words", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    into_cache(folder, cache)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    yield NAME
    assert not asked


TAKES = [open_model, open_encoder, check_prunable, config_of_model, read_config, open_tokenizer]


@pytest.mark.parametrize("takes", TAKES)
def test_code_of_a_repository_is_neither_run_nor_asked_about(takes, foreign, tmp_path):
    refused = "has no tokenizer that loads" if takes is open_tokenizer else "'? is of the architecture 'new'"
    for name in (foreign, str(tmp_path / "foreign")):
        with pytest.raises(UserError, match=f"{name}.*{refused}"):
            takes(name)


def test_all_files_are_there_before_a_model_is_uploaded(small, monkeypatch, tmp_path):
    uploaded = []

    def upload(self, working_dir, repo_id, *args, **kwargs):
        uploaded.append((repo_id, {path.name: path.read_bytes() for path in tmp_path.glob("model/*")}))

    class Hub:
        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": f"someone/{repo_id}"})

    class Card:
        def save(self, path):
            pass

    monkeypatch.setattr(transformers.modeling_utils, "hf_api", Hub)
    monkeypatch.setattr(transformers.modeling_utils, "create_and_tag_model_card", lambda *args, **kwargs: Card())
    monkeypatch.setattr(transformers.PreTrainedModel, "_upload_modified_files", upload)
    small.save_pretrained(tmp_path / "model", push_to_hub=True)
    ((repo, files),) = uploaded
    assert repo == "someone/model" and set(files) == FILES
    assert files == {path.name: path.read_bytes() for path in tmp_path.glob("model/*")}
    assert load(tmp_path / "model").plan == small.plan
