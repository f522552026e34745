"""A new model for a task: a tokenizer trained on the task's texts, and random weights in the shape asked for.

The paper of DSP trains its translation models in this way (specification dsp.md, section 6). The checkpoint is an
ordinary one that is marked as untrained: `secateur prune` trains it as a teacher first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from secateur.run.new_tokenizer import ALGORITHMS, trained_tokenizer
from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.checkpoint import save
from secateur.system import compat
from secateur.system.errors import UserError
from secateur.tasks.sequences import UNTRAINED, Sequences
from secateur.tasks.task import Task

CONFIG_NAMES = {
    "layers": ("encoder_layers", "num_layers"),
    "decoder_layers": ("decoder_layers", "num_decoder_layers"),
    "heads": ("encoder_attention_heads", "decoder_attention_heads", "num_heads"),
    "head_size": ("d_kv",),
    "width": ("d_model",),
    "ffn": ("encoder_ffn_dim", "decoder_ffn_dim", "d_ff"),
    "dropout": ("dropout", "dropout_rate"),
    "max_length": ("max_position_embeddings",),
    "deviation": ("init_std",),
    "scaled": ("scale_embedding",),
    "end": ("eos_token_id", "forced_eos_token_id"),
    "vocabulary": ("vocab_size", "decoder_vocab_size"),
}
"""Size -> its names in the configs of the families; a config takes the names that it has."""
SMALLEST = {"layers": 1, "decoder_layers": 1, "heads": 1, "width": 1, "ffn": 1, "max_length": 4}


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

    One vocabulary serves sources and targets, and one embedding table serves the encoder, the decoder and the output.
    Weights are initialised as by Vaswani et al. (2017): embeddings with a standard deviation of `width ** -0.5`, and
    multiplied by its inverse; square matrices with the deviation of Glorot and Bengio (2010), which is the same. A
    family whose config has no such number (T5) has its own rule.

    Args:
        task: translation or summarisation, on data.
        folder: to write; a model and a tokenizer in it are replaced, and other files stay, as by `save`.
        architecture: a family of transformers with an encoder and a decoder: marian (sinusoidal positions), bart
            (learned positions) or t5 (relative positions).
        layers: of the encoder.
        decoder_layers: of the decoder; by default as many.
        heads: of every attention.
        width: of the residual stream.
        ffn: width of the feed-forward networks.
        dropout: in training.
        vocabulary: the largest number of tokens; small data gives fewer.
        tokenizer: "bpe" or "unigram" (`new_tokenizer.ALGORITHMS`).
        max_length: the largest number of tokens of a text.
        seed: of the weights.

    Raises:
        UserError: the task is another one, a size is out of range or does not fit the others, the architecture or the
            tokenizer is not known, or the folder cannot be written.
    """
    if not isinstance(task, Sequences):
        raise UserError("a new model can be made for translation or summarisation alone: fine-tune one for other tasks")
    sizes = {
        "layers": layers,
        "decoder_layers": layers if decoder_layers is None else decoder_layers,
        "heads": heads,
        "width": width,
        "ffn": ffn,
        "max_length": max_length,
        "dropout": dropout,
    }
    _check_sizes(sizes)
    _check_kinds(architecture, tokenizer)
    words = trained_tokenizer(task, vocabulary, algorithm=tokenizer, max_length=max_length)
    config = _config(architecture, words, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSeq2SeqLM.from_config(config)
    save(model, folder, tokenizer=words)
    return model


def _check_sizes(sizes: dict[str, Any]) -> None:
    for name, smallest in SMALLEST.items():
        if sizes[name] < smallest:
            raise UserError(f"{name} is {sizes[name]}: give at least {smallest}")
    if sizes["width"] % (2 * sizes["heads"]):
        raise UserError(
            f"a width of {sizes['width']} cannot be split into {sizes['heads']} heads of even size: give a multiple of "
            f"{2 * sizes['heads']}"
        )
    if not 0 <= sizes["dropout"] < 1:
        raise UserError(f"dropout {sizes['dropout']} is not in [0, 1): give the fraction to drop, or 0")


def _check_kinds(architecture: str, tokenizer: str) -> None:
    if tokenizer not in ALGORITHMS:
        raise UserError(f"tokenizer {tokenizer!r} is not known: choose one of {', '.join(ALGORITHMS)}")
    known = sorted({*ARCHITECTURES.all()} & {*compat.sequence_to_sequence_heads()})
    if architecture not in known:
        raise UserError(
            f"architecture {architecture!r} is no supported encoder-decoder: choose one of {', '.join(known)}"
        )


def _config(architecture: str, tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> PreTrainedConfig:
    """A family's config of these sizes for a tokenizer, marked as untrained."""
    values = sizes | {
        "head_size": sizes["width"] // sizes["heads"],
        "deviation": sizes["width"] ** -0.5,
        "scaled": True,
        "end": tokenizer.eos_token_id,
        "vocabulary": len(tokenizer),
    }
    config_class: Any = CONFIG_MAPPING[architecture]  # each has arguments of its own
    known = config_class().to_dict()
    named = {name: value for size, value in values.items() for name in CONFIG_NAMES[size] if name in known}
    begin = tokenizer.bos_token_id
    tokens = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": begin, "decoder_start_token_id": begin}
    return config_class(**named, **tokens, **{UNTRAINED: True})
