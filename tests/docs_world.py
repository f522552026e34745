"""The folder in which the blocks of README and docs run: every name that they use is a tiny model or data set there.

A name on the hub is a folder of that name, for which transformers and `read_splits` look first. So a page runs as it
stands, and secateur refuses a name that does not exist here.
"""

import csv
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from fake_clock import timer
from PIL import Image
from small_world import config, tokenizer, write_data, write_pairs, write_questions, write_sentences
from tiny_models import random_masks
from transformers import (
    BertForSequenceClassification,
    BertModel,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from secateur.budget.space import Space
from secateur.cli import export_work
from secateur.measure import latency_sweep, peak_memory, roofline
from secateur.measure.bench import grid
from secateur.measure.export_times import generation_times
from secateur.measure.roofline import Rates
from secateur.run import pipeline, recipe
from secateur.run.stages import measure as measure_stage
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import SentenceHead

ROOT = Path(__file__).parents[1]
TOKENS = 384  # that every model takes

ROWS = [{**tokenizer()(text), "labels": label} for text, label in (("a fine film", 1), ("a dull and bad book", 0)) * 4]
NAMES = {
    "train": ROWS,
    "dev": ROWS[:2],
    "tokenizer": tokenizer(TOKENS),
    "collate": DataCollatorWithPadding(tokenizer(TOKENS)),
}
"""Names that Python blocks use without defining them."""

ENCODERS = ("bert-base-uncased",)
CLASSIFIERS = ("bert-base-sst2", "models/bert-sst2")
DECODERS = ("llama",)
WRITERS = ("runs/marian",)
"""Runs whose model translates; only the model is there."""
RUNS = {"runs/sst2": {}, "runs/magnitude": {"method": "magnitude"}}
"""Finished runs that a page may use; a page may also replace them by its own."""

EMBEDDERS = ("runs/mini",)
"""Runs whose model makes sentence embeddings; only the model and its card are there."""
SERVERS = Path(sys.prefix, "serving", "bin", "python")
"""The environment of blocks in `py`, with neither secateur nor torch: `make setup` makes it."""

SMALLER = {
    r"embedding_rank([=:] ?)192": r"embedding_rank\g<1>4",
    r"--embedding-rank 192": "--embedding-rank 4",
    r"--size 200MB": "--size 60kB",
    r"bf16=True": "bf16=True, use_cpu=True",
    r"select: 2000": "select: 4",
    r"steps: 1000": "steps: 6",
    r"--trials 20": "--trials 2",
    r"evaluations: 80": "evaluations: 2",
    r"keep([ :]) ?(12|36)\b": r"keep\g<1> 2",
    r"epochs: (20|40)\b": "epochs: 6",
    r"--width 256 --ffn 1024": "--width 16 --ffn 32 --vocabulary 60",
    r"task: translation,": "task: translation, options: {max_new_tokens: 6},",
    r"--task-option validation=test": "--task-option validation=test --task-option max_new_tokens=6",
    r"--task summarisation --data data/news": "--task summarisation --data data/news --width 16 --ffn 32",
}
"""Text that needs a model of real size, real data or a GPU -> its replacement."""


SHORTER = {"training.steps": 6, "training.teacher_steps": 16, "training.evaluations": 1, "training.checkpoints": 0}
"""Defaults of the recipes in README and docs, whose models need no thousands of steps."""


def smaller(text: str) -> str:
    for original, replacement in SMALLER.items():
        text = re.sub(original, replacement, text)
    return text


def build(folder: Path) -> None:
    """Create everything under its name; `folder` must be the working directory, because runs keep relative names."""
    for name in ENCODERS:
        write_model(folder / name)
    for name in CLASSIFIERS:
        write_model(folder / name, labels=("bad", "good"))
    write_vit(folder / "models" / "vit")
    write_images(folder / "data" / "digits")
    for name in DECODERS:
        write_decoder(folder / name)
    for name in WRITERS:
        write_writer(folder / name / "model")
    write_glue(folder / "glue" / "sst2")
    write_glue(folder / "data" / "reviews")
    for split, rows in (("train", 32), ("validation", 8)):
        (folder / "data" / "conll").mkdir(parents=True, exist_ok=True)
        write_sentences(folder / "data" / "conll" / f"{split}.jsonl", rows)
        (folder / "data" / "squad").mkdir(exist_ok=True)
        write_questions(folder / "data" / "squad" / f"{split}.jsonl", rows)
    for split, rows in (("train", 32), ("validation", 8), ("test", 4)):
        for name, columns in (("multi30k", ("en", "de")), ("news", ("document", "summary"))):
            (folder / "data" / name).mkdir(exist_ok=True)
            write_pairs(folder / "data" / name / f"{split}.jsonl", rows, *columns)
    write_data(folder / "reviews.csv")
    for name in ("texts", "more"):
        texts = [f"a {word} {kind}" for word in ("fine", "dull", "good", "bad") for kind in ("film", "book")]
        (folder / f"{name}.txt").write_text("\n".join([*texts, ""]), encoding="utf-8")
    (folder / "recipes").mkdir()
    for path in (ROOT / "recipes").glob("*.yaml"):
        (folder / "recipes" / path.name).write_text(smaller(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name in EMBEDDERS:
        write_embedder(folder / name / "model")
        (folder / name / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A small model\n")
    for name in ("sentence-minilm", "sentence-transformers/all-MiniLM-L6-v2"):
        write_sentence_model(folder / name)
    for name, values in RUNS.items():
        given = {"model": "bert-base-sst2", "data": "glue/sst2", "target.density": 0.6, "training.bf16": False}
        pipeline.run(recipe.make(given | SHORTER | values), folder / name)


def write_model(folder: Path, labels: Sequence[str] = ()) -> None:
    """A random BERT of two layers with its tokenizer: a bare encoder, or a classifier."""
    shape = config(**({"id2label": dict(enumerate(labels)), "label2id": {}} if labels else {}))
    shape.max_position_embeddings, shape.intermediate_size = TOKENS, 128
    shape.initializer_range = 0.5  # weights that matter, so that something of every kind is worth keeping
    torch.manual_seed(0)
    (BertForSequenceClassification if labels else BertModel)(shape).save_pretrained(folder)
    tokenizer(TOKENS).save_pretrained(folder)


def write_vit(folder: Path) -> None:
    """A random ViT of two layers without a head, with its image processor."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)


def write_images(folder: Path) -> None:
    """Ten pictures of each of two classes."""
    for name, shade in (("dark", 30), ("light", 220)):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (12, 8), (shade, shade + number, shade)).save(folder / name / f"{number}.png")


def write_decoder(folder: Path) -> None:
    """A random Llama of two layers, whose heads share keys in twos, with its tokenizer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": config().vocab_size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=TOKENS)
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer(TOKENS).save_pretrained(folder)


def write_writer(folder: Path) -> None:
    """A cut Marian model of two and two layers, with its tokenizer."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": TOKENS}
    counts = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 3, "forced_eos_token_id": 3, "decoder_start_token_id": 0}
    model = MarianMTModel(MarianConfig(vocab_size=config().vocab_size, **sizes, **counts, **special))
    space = Space(model, "ffn")
    words = tokenizer(TOKENS)
    words.model_input_names = ["input_ids", "attention_mask"]
    save(cut(model, Plan.of(space, random_masks(space, 0.7))), folder, tokenizer=words)


def write_embedder(folder: Path) -> None:
    """A cut encoder whose states are pooled and normalised, with its tokenizer."""
    torch.manual_seed(0)
    width = config().hidden_size
    model = attach_head(BertModel(config()), SentenceHead(["mean"], width=width))
    space = Space(model, "ffn")
    save(cut(model, Plan.of(space, random_masks(space, 0.7))), folder, tokenizer=tokenizer())


def write_sentence_model(folder: Path) -> None:
    """An encoder whose states are pooled and normalised, as sentence-transformers has it."""
    torch.manual_seed(0)
    shape = config()
    shape.max_position_embeddings = TOKENS
    save(attach_head(BertModel(shape), SentenceHead(["mean"], width=16)), folder, tokenizer=tokenizer(TOKENS))


def write_glue(folder: Path) -> None:
    """`train.csv` of 32 rows and `validation.csv` of 8, in the columns of SST-2."""
    folder.mkdir(parents=True)
    for split, rows in (("train", 32), ("validation", 8)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["sentence", "label"])
            table.writerows([f"a {('dull', 'fine')[n % 2]} film {'and good ' * (n % 3)}", n % 2] for n in range(rows))


def still(monkeypatch) -> None:
    """Replace timing by fixed times, and defaults by `SHORTER`, as tests of pages need."""
    resolved = recipe._defaults
    monkeypatch.setattr(recipe, "_defaults", lambda values: SHORTER | resolved(values))
    known = Rates(flops=1e9, bandwidth=1e9, product="fp32 torch.mm, 8 x 8")
    monkeypatch.setattr(export_work, "generation_times", partial(generation_times, repeats=1))
    monkeypatch.setattr(
        measure_stage, "grid", lambda model, against, shapes, repeats: grid(model, against, shapes, repeats=1)
    )
    monkeypatch.setattr(
        latency_sweep, "measure", lambda model, against, **call: timer(tokens=call["tokens"])(model, against)
    )
    monkeypatch.setattr(roofline, "rates", lambda dtype, threads, device: known)
    monkeypatch.setattr(peak_memory, "measurable", lambda: False)
