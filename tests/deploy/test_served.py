"""Exported folders in other programs, in an environment with neither secateur nor torch, say what the model says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_models import TEXTS, embedding_model, own_tokenizer, reranker, vectors_of

from secateur.deploy.hub_layout import FILES, export_folder

PYTHON = Path(sys.prefix, "serving", "bin", "python")
SCRIPT = Path(__file__).with_name("serve.py")

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason=f"{PYTHON} is not there: run make setup")


@pytest.fixture(scope="module")
def embedder():
    return embedding_model()


@pytest.fixture(scope="module")
def folder(embedder, tmp_path_factory):
    return export_folder(embedder, tmp_path_factory.mktemp("served") / "model", tokenizer=own_tokenizer()).path


def served(name, folder, file, size, texts):
    """The vectors of texts, `(texts, size)`, by a server in its own environment."""
    command = [PYTHON, "-I", SCRIPT, name, folder, file, size]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), input=json.dumps(texts), env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["absent"] == ["secateur", "torch", "transformers"]
    return torch.tensor(answer["vectors"])


@pytest.mark.parametrize("server", ["fastembed", "onnxruntime"])
def test_the_vectors_of_a_folder_are_those_of_the_model(server, folder, embedder):
    """Of texts of all lengths in one batch, cut off where the model's are, and lower-cased as its are."""
    vectors = served(server, folder, FILES["fp32"], 6, TEXTS)
    torch.testing.assert_close(vectors, vectors_of(embedder, own_tokenizer(), TEXTS), rtol=1e-4, atol=1e-5)


def test_the_file_in_int8_runs_there_too(folder, embedder):
    vectors = served("fastembed", folder, FILES["int8"], 6, TEXTS)
    expected = vectors_of(embedder, own_tokenizer(), TEXTS)
    assert (vectors * expected).sum(dim=1).min() > 0.8 and not torch.allclose(vectors, expected, atol=1e-4)


def test_a_reranker_scores_pairs_there(tmp_path):
    model, words = reranker(), own_tokenizer()
    folder = export_folder(model, tmp_path / "model", tokenizer=words, dtypes=("fp32",)).path
    query, *passages = ("a good film", "a fine film", "a bad and dull book")
    pairs = words([query] * 2, passages, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**pairs).logits
    scores = served("reranker", folder, FILES["fp32"], 1, [query, *passages])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
