"""Exported folders, and what is published with one, say in every program what the model says.

Servers run in an environment with neither secateur nor torch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_models import LONGEST, TEXTS, embedding_model, own_tokenizer, reranker, vectors_of
from recorded_hub import RecordedHub
from transformers import AutoTokenizer

from secateur.deploy.hub_layout import FILES, export_folder
from secateur.deploy.publish import publish
from secateur.surgery.checkpoint import load, save

PYTHON = Path(sys.prefix, "serving", "bin", "python")
SCRIPT = Path(__file__).with_name("serve.py")

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason=f"{PYTHON} is not there: run make setup")


@pytest.fixture(scope="module")
def embedder():
    return embedding_model()


@pytest.fixture(scope="module")
def folder(embedder, tmp_path_factory):
    return export_folder(embedder, tmp_path_factory.mktemp("served") / "model", tokenizer=own_tokenizer()).path


def downloaded(model, export, folder, saved=save):
    """The files that publishing a model with an export of it puts into a repository."""
    saved(model, folder / "model", tokenizer=own_tokenizer(), card="# A model\n")
    hub = RecordedHub()
    publish(folder / "model", "our/model", api=hub, onnx=export)
    return hub.download(folder / "downloaded")


@pytest.fixture(scope="module")
def published(embedder, folder, tmp_path_factory):
    return downloaded(embedder, folder, tmp_path_factory.mktemp("published"))


def saved_by_the_library(model, folder, *, tokenizer, card):
    """As a `CrossEncoder`, whose files at the top name the kind of its only module."""
    library = pytest.importorskip("sentence_transformers")
    save(model, folder.parent / "plain", tokenizer=tokenizer)
    library.CrossEncoder(str(folder.parent / "plain")).save_pretrained(str(folder))
    (folder / "README.md").write_text(card)


def served(name, folder, file, size, texts):
    """The vectors of texts, `(texts, size)`, by a server in its own environment."""
    command = [PYTHON, "-I", SCRIPT, name, folder, file, size]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), input=json.dumps(texts), env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["absent"] == ["secateur", "torch", "transformers"]
    return torch.tensor(answer["vectors"])


@pytest.mark.parametrize("place", ["folder", "published"])
@pytest.mark.parametrize("server", ["fastembed", "onnxruntime"])
def test_the_vectors_of_a_folder_are_those_of_the_model(server, place, embedder, request):
    """Of texts of all lengths in one batch, cut off where the model's are, and lower-cased as its are."""
    vectors = served(server, request.getfixturevalue(place), FILES["fp32"], 6, TEXTS)
    torch.testing.assert_close(vectors, vectors_of(embedder, own_tokenizer(), TEXTS), rtol=1e-4, atol=1e-5)


def test_sentence_transformers_reads_the_same_vectors_from_what_is_published(published, embedder):
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(published), device="cpu", trust_remote_code=True)
    found = model.encode(TEXTS, prompt="", convert_to_tensor=True)
    torch.testing.assert_close(found, vectors_of(embedder, own_tokenizer(), TEXTS), rtol=1e-5, atol=1e-6)
    assert model.max_seq_length == LONGEST


def test_transformers_reads_the_same_vectors_from_what_is_published(published, embedder):
    """The tokenizer's own truncation and padding are not those of a call that asks for neither."""
    words, expected = AutoTokenizer.from_pretrained(published), vectors_of(embedder, own_tokenizer(), TEXTS)
    found = vectors_of(load(published), words, TEXTS, lower=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert [len(ids) for ids in words(["good film", "bad " * 20])["input_ids"]] == [4, 22]


def test_the_file_in_int8_runs_there_too(folder, embedder):
    vectors = served("fastembed", folder, FILES["int8"], 6, TEXTS)
    expected = vectors_of(embedder, own_tokenizer(), TEXTS)
    assert (vectors * expected).sum(dim=1).min() > 0.8 and not torch.allclose(vectors, expected, atol=1e-4)


@pytest.mark.parametrize("published_as", [None, save, saved_by_the_library])
def test_a_reranker_scores_pairs_there(published_as, tmp_path):
    model, words = reranker(), own_tokenizer()
    folder = export_folder(model, tmp_path / "served", tokenizer=words, dtypes=("fp32",)).path
    folder = downloaded(model, folder, tmp_path, published_as) if published_as else folder
    query, *passages = ("a good film", "a fine film", "a bad and dull book")
    pairs = words([query] * 2, passages, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**pairs).logits
    scores = served("reranker", folder, FILES["fp32"], 1, [query, *passages])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    if published_as:
        library = pytest.importorskip("sentence_transformers")
        scorer = library.CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
        found = scorer.predict([[query, passage] for passage in passages], convert_to_tensor=True)
        torch.testing.assert_close(found, expected[:, 0], rtol=1e-4, atol=1e-4)
