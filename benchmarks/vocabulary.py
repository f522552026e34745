"""Models at 5%, with all pieces of their vocabulary and with those of the task: score, bytes and latency.

    python benchmarks/vocabulary.py train --data DIR --teacher DIR      every run of the tables, one folder each
    python benchmarks/vocabulary.py table --data DIR --teacher DIR      scores, sizes and latencies, in Markdown
    python benchmarks/vocabulary.py texts --data DIR                    the vocabulary alone, and kinds of tokenizers
    python benchmarks/vocabulary.py ranks --data DIR --teacher DIR      ranks alone, without training

`--data` is a folder with `sst2`, `conll2003`, `squad` and `multi30k` (train.parquet and validation.parquet, with the
columns of the hub); `--teacher` is MiniLM-L6 fine-tuned on SST-2. The other teachers are trained once, first. The model
is MiniLM-L6; in the task `base` it is MPNet-base on a part of SST-2, as in `rounds.py`.
All runs of a task have the same number of steps. Finished runs are not repeated. What needs no training is made of the
finished models by `table`: the vocabulary of the task, rows in int8, and weights in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import typer
from rounds import SHARED, TASKS, Row, name_of, seeds_of, teacher_of
from runner import Folder, base_model, finished, print_row, several, spread, timings

app = typer.Typer(add_completion=False)
RUNS = Path("runs/vocabulary")
GRAIN: dict[str, Any] = {"target.density": 0.05}
TASK: dict[str, Any] = GRAIN | {"vocabulary": "task"}
DATA = ("sst2", "names", "questions", "base")
RANKS = {"base": (256,)}
"""Task -> ranks of the table of word embeddings, whose width is 768 in MPNet-base; 128 and 64 where it is 384."""
SHORTER: dict[str, dict[str, Any]] = {"questions": {"training.epochs": 1}}
"""Task -> what its runs have other than in `rounds.py`."""
SHAPES = ((1, 32), (8, 128))
EXPORTS = {"ONNX": (".onnx", "fp32"), "ONNX int8": (".onnx", "int8"), "OpenVINO int8": (".xml", "int8")}
"""Column -> the suffix and the dtype of the file."""


def rows_of(task: str) -> tuple[Row, ...]:
    """What is trained. With the vocabulary of the task the weights of a run are those with the whole one."""
    ranks = [Row(f"whole, rank {rank}", GRAIN | {"target.embedding_rank": rank}, (0, 1, 2)) for rank in ranks_of(task)]
    return (Row("whole", GRAIN, (0, 1, 2)), *ranks, Row("task", TASK))


def ranks_of(task: str) -> tuple[int, ...]:
    """The ranks that are tried."""
    return RANKS.get(task, (128, 64))


@dataclass(frozen=True)
class Variant:
    """A model that is made of a trained one: with the vocabulary of the task, and with fewer bits."""

    label: str
    of: str
    pieces: bool = True
    embeddings: str = "fp32"
    dtype: str = "fp32"


STORED = {
    "": {},
    ", int8 rows": {"embeddings": "int8"},
    ", int8 rows, others bf16": {"embeddings": "int8", "dtype": "bf16"},
}
"""Part of a label -> how weights are stored."""


def variants_of(task: str, label: str = "") -> list[Variant]:
    """The variants of a task's models whose label contains a text."""
    made = [
        Variant(("task" if pieces else "whole") + rank + bits, "whole" + rank, pieces, **stored)
        for rank in ("", *(f", rank {rank}" for rank in ranks_of(task)))
        for pieces in (False, True)
        for bits, stored in STORED.items()
    ]
    return [one for one in (*made, Variant("task, in the run", "task")) if label in one.label]


def values_of(task: str, data: Path, teacher: Path) -> dict[str, Any]:
    """What all recipes of a task have in common."""
    own = TASKS[task]
    return {
        **SHARED,
        **own.settings,
        **SHORTER.get(task, {}),
        "data": str(data / own.folder),
        "teacher": str(teacher_of(task, data, teacher, RUNS)),
    }


@app.command()
def train(data: Folder, teacher: Folder, jobs: int = 1, task: str = "", label: str = "", seed: int = -1) -> None:
    """Do every run that is not finished: those of one task, of one label, or of one seed."""
    for name in (name for name in DATA if name.startswith(task)):
        base = values_of(name, data, teacher)
        runs = {
            name_of(row, number): {**base, **row.changed, "seed": number}
            for row in rows_of(name)
            for number in seeds_of(name, row)
            if seed in (-1, number) and label in ("", row.label)
        }
        several(RUNS / name, runs, jobs)


@app.command()
def table(
    data: Folder, teacher: Folder, task: str = "", label: str = "", repeats: int = 20, exports: bool = True
) -> None:
    """Score every variant on the validation rows, and measure that of the first seed: its files, and its latency.

    `label` is part of the labels of those that are wanted.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    for name in (name for name in DATA if name.startswith(task)):
        print(f"\n{name}\n")
        print_row(["variant", "seeds", "score", "of the teacher's", "pieces", "PyTorch", *EXPORTS, "1 x 32", "8 x 128"])
        print_row(["---"] * (8 + len(EXPORTS)))
        for cells in _rows(name, variants_of(name, label), data, teacher, repeats, exports):
            print_row(cells)


def _rows(
    task: str, variants: list[Variant], data: Path, teacher: Path, repeats: int, exports: bool
) -> Iterator[list[str]]:
    """The cells of each variant of a task of which a run is finished."""
    import secateur as sec
    from secateur.run.recipe import make
    from secateur.run.vocabulary_data import data_of

    own = data_of(make(values_of(task, data, teacher) | TASK))
    dense = own.task.load_model(teacher_of(task, data, teacher, RUNS)).eval()
    best = _scores(own.whole, dense)[own.task.metric]
    size = f"{4e-6 * dense.num_parameters():.1f}"
    yield ["teacher", "", f"{best:.4f}", "100.0%", f"{dense.config.vocab_size:,}", size, *[""] * (2 + len(EXPORTS))]
    for variant in variants:
        row = next(row for row in rows_of(task) if row.label == variant.of)
        folders = finished([RUNS / task / name_of(row, seed) for seed in seeds_of(task, row)])
        models = [_made(sec.load(folder / "model"), variant, own) for folder in folders]
        if models:
            rows = own if variant.pieces else own.whole
            scores = [_scores(rows, model)[own.task.metric] for model in models]
            times = [sec.measure(models[0], dense, batch=b, tokens=n, repeats=repeats) for b, n in SHAPES]
            share, pieces = f"{mean(scores) / best:.1%}", f"{models[0].config.vocab_size:,}"
            cells = [variant.label, str(len(models)), spread(scores), share, pieces]
            yield [*cells, *_sizes(models[0], variant, rows, exports), *timings(times, digits=2)]


def _made(model: Any, variant: Variant, data: Any) -> Any:
    """A variant of a trained model, with the values that its file holds."""
    from secateur.surgery.storage import as_stored
    from secateur.surgery.vocabulary.pruning import with_pieces

    if variant.pieces and model.config.vocab_size > len(data.vocabulary):
        model = with_pieces(model, data.vocabulary)
    return as_stored(model, dtype=variant.dtype, embeddings=variant.embeddings).eval()


def _scores(data: Any, model: Any) -> dict[str, float]:
    from secateur.measure.evaluation import scores

    return scores(model, data.task, data.validation_rows, data.tokenizer)


def _sizes(model: Any, variant: Variant, data: Any, exports: bool) -> list[str]:
    """MB of the weights as PyTorch loads them, and of each export with its score; int8 is calibrated."""
    import secateur as sec
    from secateur.deploy.export import opened
    from secateur.measure.evaluation import batches, encoded, runner_scores
    from secateur.measure.model_size import disk_bytes

    with TemporaryDirectory() as folder:
        sec.save(model, Path(folder, "saved"), tokenizer=data.tokenizer, store=variant.dtype)
        cells = [f"{disk_bytes(Path(folder, 'saved')) / 1e6:.1f}"]
        length = data.recipe.data.max_length
        rows = encoded(data.task, "train", data.tokenizer, length, range(256)) if exports else []
        ranges = batches(data.task, rows, data.tokenizer, limit=256) if rows else None
        for name, (suffix, dtype) in (EXPORTS if exports else {}).items():
            path = Path(folder, name.replace(" ", "-") + suffix)
            written = sec.export(model, path, dtype=dtype, calibration=ranges if dtype == "int8" else None)
            run = opened(path)
            score = runner_scores(run, data.task, data.validation_rows, data.tokenizer)[data.task.metric]
            cells.append(f"{written.bytes / 1e6:.1f} ({score:.4f})")
    return cells


@app.command()
def ranks(data: Folder, teacher: Folder) -> None:
    """Factorise the word embeddings of SST-2's teacher, with all rows alike and weighted, and score it untrained."""
    import secateur as sec
    from secateur.run.recipe import make
    from secateur.run.run_data import RunData
    from secateur.run.vocabulary_data import piece_counts

    own = RunData(make(values_of("sst2", data, teacher) | GRAIN))
    dense = own.task.load_model(teacher).eval()
    logits = _logits(own, dense)
    print_row(["rank", "alike: score", "error", "weighted: score", "error"])
    print_row(["---"] * 5)
    print_row(["whole", f"{_scores(own, dense)[own.task.metric]:.4f}", "0", "", ""])
    for rank in (32, 64, 96, 128, 192, 256):
        cells = []
        for counts in (None, piece_counts(own.task, own.train_rows, own.tokenizer)):
            model = sec.factorise(dense, rank, counts).eval()
            error = float((_logits(own, model) - logits).square().mean() / logits.var(0).mean())
            cells += [f"{_scores(own, model)[own.task.metric]:.4f}", f"{error:.1%}"]
        print_row([str(rank), *cells])


def _logits(data: Any, model: Any) -> Any:
    """Of the validation rows, `(rows, classes)`."""
    import torch

    from secateur.measure.evaluation import batches

    rows = batches(data.task, data.validation_rows, data.tokenizer, limit=len(data.validation_rows))
    with torch.inference_mode():
        return torch.cat([model(**batch).logits for batch in rows])


TEXTS = {
    "SST-2": ("sst2", "sentence"),
    "CoNLL-2003": ("conll2003", "tokens"),
    "SQuAD": ("squad", "context"),
    "Multi30k, English": ("multi30k", "en"),
}
"""Name of a set of texts -> its folder and its column."""


@app.command(name="texts")
def cut_to_texts(data: Folder) -> None:
    """Cut MiniLM-L6 alone to the English side of Multi30k, and three kinds of tokenizers to four sets of texts."""
    _cut_alone(data)
    train, validation = ({name: _texts(data, name, split) for name in TEXTS} for split in ("train", "validation"))
    print_row(["tokenizer", "pieces", *TEXTS])
    print_row(["---"] * (2 + len(TEXTS)))
    for name, tokenizer in _tokenizers([text for texts in train.values() for text in texts]).items():
        cells = [_kept(tokenizer, train[one], validation[one]) for one in TEXTS]
        print_row([name, f"{len(tokenizer):,}", *cells])


def _texts(data: Path, name: str, split: str) -> list[str]:
    from datasets import Dataset

    folder, column = TEXTS[name]
    rows = Dataset.from_parquet(str(data / folder / f"{split}.parquet"))[column]
    return list(dict.fromkeys(" ".join(row) if isinstance(row, list) else row for row in rows))


def _cut_alone(data: Path) -> None:
    """The time of a cut, the bytes, and the largest difference of an output on texts whose pieces are all kept."""
    import torch

    import secateur as sec
    from secateur.surgery.opening import open_encoder, open_tokenizer

    model, tokenizer = open_encoder(base_model()), open_tokenizer(base_model())
    texts = _texts(data, "Multi30k, English", "train")
    begin = perf_counter()
    small, fewer, vocabulary = sec.cut_vocabulary(model, tokenizer, texts)
    seconds, largest = perf_counter() - begin, 0.0
    for first in range(0, 2000, 100):
        states = []
        for own, words in ((model, tokenizer), (small, fewer)):
            inputs = words(texts[first : first + 100], padding=True, return_tensors="pt")
            with torch.inference_mode():
                states.append(own(**inputs).last_hidden_state)
        largest = max(largest, float((states[0] - states[1]).abs().max()))
    before, after = (4e-6 * one.num_parameters() for one in (model, small))
    print(f"\n{len(vocabulary):,} of {vocabulary.size:,} pieces, {before:.1f} -> {after:.1f} MB in {seconds:.1f} s;")
    print(f"largest difference of a hidden state on 2,000 of the texts: {largest:g}\n")


def _tokenizers(texts: list[str]) -> dict[str, Any]:
    """MiniLM-L6's tokenizer, and one of RoBERTa's and of T5's kind, which are trained on all texts."""
    from tokenizers import ByteLevelBPETokenizer, SentencePieceUnigramTokenizer
    from transformers import PreTrainedTokenizerFast

    from secateur.surgery.opening import open_tokenizer

    bpe, unigram = ByteLevelBPETokenizer(), SentencePieceUnigramTokenizer()
    bpe.train_from_iterator(texts, vocab_size=50265, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    unigram.train_from_iterator(texts, vocab_size=32100, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    made = {"byte-level BPE": bpe, "Unigram": unigram}
    fast = {
        name: PreTrainedTokenizerFast(tokenizer_object=one._tokenizer, unk_token="<unk>", pad_token="<pad>")
        for name, one in made.items()
    }
    return {"WordPiece, MiniLM-L6's": open_tokenizer(base_model()), **fast}


def _kept(tokenizer: Any, train: list[str], validation: list[str]) -> str:
    """The number of kept pieces, and the share of validation texts with the same pieces."""
    from secateur.surgery.vocabulary.counting import coverage, kept_pieces, text_counts
    from secateur.surgery.vocabulary.tokenizer import cut_tokenizer

    vocabulary = kept_pieces(tokenizer, text_counts(tokenizer, train, len(tokenizer)))
    found = coverage(tokenizer, cut_tokenizer(tokenizer, vocabulary), vocabulary, validation)
    return f"{len(vocabulary):,}, {found.same:.1%}"


if __name__ == "__main__":
    app()
