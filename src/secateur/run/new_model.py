"""A model made from nothing but data: a tokenizer trained on its texts, and random weights in the shape asked for.

The paper's translation models are made so (specification dsp.md, section 6). What is written is a checkpoint like any
other, marked as untrained: `secateur prune` trains it as a teacher first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.checkpoint import save
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.tasks.pairs import SOURCE, TARGET
from secateur.tasks.sequences import UNTRAINED, Sequences
from secateur.tasks.task import Task

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""Special tokens, by number; every text ends with the last, and a decoder begins with the one before."""
KINDS = ("bpe", "unigram")

# What families call a size; a config takes the names that it knows.
NAMES = {
    "layers": ("encoder_layers", "num_layers"),
    "decoder_layers": ("decoder_layers", "num_decoder_layers"),
    "heads": ("encoder_attention_heads", "decoder_attention_heads", "num_heads"),
    "head_size": ("d_kv",),
    "width": ("d_model",),
    "ffn": ("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"),
    "dropout": ("dropout", "dropout_rate"),
    "max_length": ("max_position_embeddings",),
    "spread": ("init_std",),
    "scaled": ("scale_embedding",),
    "end": ("eos_token_id", "forced_eos_token_id"),
    "vocabulary": ("vocab_size", "decoder_vocab_size"),
}


def new_model(
    task: Task,
    folder: Path | str,
    *,
    architecture: str = "marian",
    layers: int = 3,
    decoder_layers: int | None = None,
    heads: int = 4,
    width: int = 256,
    ffn: int = 1024,
    dropout: float = 0.3,
    vocabulary: int = 8000,
    tokenizer: str = "bpe",
    max_length: int = 512,
    seed: int = 0,
) -> PreTrainedModel:
    """Write an untrained model, and a tokenizer trained on the task's training texts, to a folder.

    One vocabulary serves sources and targets, and one table of embeddings the encoder, the decoder and the output.
    Weights are drawn as wide as in Vaswani et al. (2017): embeddings with a standard deviation of `width ** -0.5` and
    multiplied by its inverse, square matrices with that of Glorot and Bengio (2010), which is the same. A family that
    takes no such number (T5) draws by a rule of its own.

    Args:
        task: translation or summarisation, on data.
        folder: to write; what is there is replaced.
        architecture: a family of transformers with an encoder and a decoder: marian (sinusoidal positions), bart
            (learned) or t5 (relative).
        layers, decoder_layers: of the encoder, and of the decoder, by default as many.
        heads: of every attention.
        width, ffn: of the stream and of the feed-forward networks.
        dropout: of the model's own, in training.
        vocabulary: tokens at the most; less data makes fewer.
        tokenizer: "bpe" (byte-pair encoding over characters, Sennrich et al., 2016) or "unigram" (Kudo, 2018).
        max_length: tokens that a text may have.
        seed: of the weights.

    Raises:
        UserError: the task is another one, a size is out of range or does not fit the others, the architecture or the
            tokenizer is not known, or the folder cannot be written.
    """
    if not isinstance(task, Sequences):
        raise UserError("a model is made from nothing for translation or summarisation alone: fine-tune one for others")
    sizes = {
        "layers": layers,
        "decoder_layers": layers if decoder_layers is None else decoder_layers,
        "heads": heads,
        "width": width,
        "ffn": ffn,
        "max_length": max_length,
        "dropout": dropout,
    }
    _check(sizes, architecture, tokenizer)
    words = trained_tokenizer(task, vocabulary, kind=tokenizer, max_length=max_length)
    config = _config(architecture, words, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
    save(model, folder, tokenizer=words)
    return model


def _check(sizes: dict[str, Any], architecture: str, tokenizer: str) -> None:
    for name, least in (
        ("layers", 1),
        ("decoder_layers", 1),
        ("heads", 1),
        ("width", 1),
        ("ffn", 1),
        ("max_length", 4),
    ):
        if sizes[name] < least:
            raise UserError(f"{name} is {sizes[name]}: give at least {least}")
    if sizes["width"] % (2 * sizes["heads"]):
        raise UserError(
            f"a width of {sizes['width']} does not make {sizes['heads']} heads of even size: give a multiple of "
            f"{2 * sizes['heads']}"
        )
    if not 0 <= sizes["dropout"] < 1:
        raise UserError(f"dropout {sizes['dropout']} is not in [0, 1)")
    if tokenizer not in KINDS:
        raise UserError(f"tokenizer {tokenizer!r} is not known: choose one of {', '.join(KINDS)}")
    known = sorted({*ARCHITECTURES.all()} & {*compat.sequence_to_sequence_heads()})
    if architecture not in known:
        raise UserError(f"architecture {architecture!r} is not one that writes texts: choose one of {', '.join(known)}")


def _config(architecture: str, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> PreTrainedConfig:
    """A family's config of these sizes for a tokenizer, marked as untrained."""
    values = sizes | {
        "head_size": sizes["width"] // sizes["heads"],
        "spread": sizes["width"] ** -0.5,
        "scaled": True,
        "end": tokenizer.eos_token_id,
        "vocabulary": len(tokenizer),
    }
    kind: Any = CONFIG_MAPPING[architecture]  # each has names of its own
    known = kind().to_dict()
    named = {name: value for size, value in values.items() for name in NAMES[size] if name in known}
    begin = tokenizer.bos_token_id
    tokens = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": begin, "decoder_start_token_id": begin}
    return kind(**named, **tokens, **{UNTRAINED: True})


# The tokenizer


def trained_tokenizer(
    task: Sequences, vocabulary: int, *, kind: str = "bpe", max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A tokenizer of both sides of the training rows. A text is its tokens again, but for unknown characters.

    A space is kept as a mark before its word, and punctuation is apart.

    Raises:
        UserError: the vocabulary has no room for the data's characters.
    """
    words, trainer = _empty(kind, vocabulary)
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    words.decoder = decoders.Metaspace()
    texts = list(_texts(task))
    characters = len(set().union(*map(set, texts))) + len(SPECIAL) + 1  # and the mark of a space
    if vocabulary < characters:
        raise UserError(
            f"the texts have {characters} characters: give a vocabulary of at least as many, got {vocabulary}"
        )
    words.train_from_iterator(texts, trainer=trainer)
    end = SPECIAL["eos_token"]
    words.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, words.token_to_id(end))]
    )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=max_length,
        model_input_names=names,
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def _texts(task: Sequences) -> Iterator[str]:
    for column in (SOURCE, TARGET):
        yield from task.splits["train"][column]


def _empty(kind: str, vocabulary: int) -> tuple[Tokenizer, Any]:
    """A tokenizer that knows nothing, and what trains it."""
    options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "special_tokens": [*SPECIAL.values()],
        "show_progress": False,
    }
    unknown = SPECIAL["unk_token"]
    if kind == "bpe":
        return Tokenizer(models.BPE(unk_token=unknown)), trainers.BpeTrainer(**options)
    return Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token=unknown, **options)
