"""The table and the picture of `benchmarks/embedding.py`, with small models."""

import json

import pytest
import torch
from docs_world import ROOT
from small_world import tokenizer, write_model

from secateur.surgery.checkpoint import save
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import SentenceHead, Settings
from secateur.tasks.task import open_task

WORDS = ["fine", "bad", "good", "dull", "film", "book"]
TEXTS = [f"{one} {other}" for one in WORDS for other in WORDS]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models of sentence-transformers, texts, pairs and retrieval."""
    folder = tmp_path_factory.mktemp("table")
    for number in range(2):
        torch.manual_seed(number)
        model = open_model(write_model(folder / f"encoder-{number}"))
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        attach_head(model, SentenceHead(["mean"], width=16, settings=Settings(max_length=12)))
        save(model, folder / f"model-{number}", tokenizer=tokenizer())
    (folder / "texts.txt").write_text("\n".join(f"a {text}" for text in TEXTS) + "\n")
    pairs = zip(TEXTS, TEXTS[7:], strict=False)
    rows = [{"sentence1": one, "sentence2": other, "score": float(n % 5)} for n, (one, other) in enumerate(pairs)]
    write_rows(folder / "pairs.jsonl", rows)
    write_rows(folder / "retrieval" / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
    write_rows(folder / "retrieval" / "queries.jsonl", [{"_id": f"q{n}", "text": f"and {TEXTS[n]}"} for n in range(8)])
    qrels = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(8)]
    write_rows(folder / "retrieval" / "qrels.jsonl", qrels)
    return folder


@pytest.fixture
def made(world, tmp_path, monkeypatch):
    """The module, and the lines of its table."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import embedding_table
    from embedding_rivals import evaluation_of

    monkeypatch.setattr(embedding_table, "SHAPES", ((1, 4), (2, 8)))
    monkeypatch.setattr(embedding_table, "CALIBRATED", 8)
    model, texts = str(world / "model-0"), world / "texts.txt"
    evaluations = [evaluation_of(model, world / name, texts) for name in ("pairs.jsonl", "retrieval")]
    folders = {"dense": [world / "model-0"], "GRAIN 0.20": [world / "model-1", world / "model-0"]}
    (tmp_path / "work").mkdir()
    made = embedding_table.Table(folders, evaluations, tmp_path / "scores")
    return embedding_table, made.lines(tmp_path / "work", 2), tmp_path


def test_every_model_has_scores_and_latencies_in_every_runtime(made, capsys):
    module, lines, folder = made
    runtimes = ["PyTorch", "ONNX", "ONNX int8", "OpenVINO int8"]
    expected = [(label, runtime) for label in ("dense", "GRAIN 0.20") for runtime in runtimes]
    assert [(one.model, one.runtime) for one in lines] == [*expected, (module.STATIC, "table")]
    assert all({*one.ms} == {"1 x 4", "2 x 8"} and min(one.ms.values()) > 0 for one in lines[:-1])
    assert all(len(one.scores[metric]) == 1 for one in lines[:4] for metric in module.METRICS)
    assert [len(one.scores["spearman"]) for one in lines[4:]] == [2, 2, 1, 1, 1]
    assert len([*(folder / "scores").iterdir()]) == 2 * 3, "of each model in PyTorch and of its two files in int8"
    module.print_table(lines)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(lines) and rows[4].startswith("| dense | ONNX int8 | 1 |")
    module.keep(lines, folder / "table.json")
    again = module.kept(folder / "table.json")
    assert again == lines
    module.draw(again, folder / "pictures" / "embedding.svg", "small", "2 x 8")
    picture = (folder / "pictures" / "embedding.svg").read_text()
    assert all(
        f"<!-- {name} -->" in picture for name in ("PyTorch, 2 x 8, ms", "OpenVINO, 2 x 8, ms", "GRAIN 0.20 int8")
    )


def test_int8_is_calibrated_on_texts_of_training(made, world):
    from embedding_rivals import evaluation_of

    texts = evaluation_of(str(world / "model-0"), world / "pairs.jsonl", world / "texts.txt").calibration(8)
    words = open_tokenizer(world / "model-0")
    task = open_task("embedding", str(world / "texts.txt"), {}, metric=None, seed=0, rows=None)
    found = [words.decode(row, skip_special_tokens=True) for batch in texts for row in batch["input_ids"]]
    assert len(found) == 8 and {*found} <= {f"a {text}" for text in TEXTS} and task.metric == "neighbours"
