"""A tokenizer trained on the texts of a task, for a new model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from secateur.system.errors import UserError
from secateur.tasks.sequence_data import SOURCE, TARGET
from secateur.tasks.sequences import Sequences

ALGORITHMS = ("bpe", "unigram")
"""Byte-pair encoding over characters (Sennrich et al., 2016), and the unigram language model (Kudo, 2018)."""
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""The special tokens, in the order of their numbers. Every text ends with `eos`, and a decoder begins with `bos`."""


def trained_tokenizer(
    task: Sequences, vocabulary: int, *, algorithm: str = "bpe", max_length: int = 512
) -> PreTrainedTokenizerFast:
    """A tokenizer of the sources and targets of the training rows.

    Decoding what it encodes gives the text again, except for unknown characters: a space is kept as a mark before its
    word, and punctuation is separated from words.

    Args:
        vocabulary: the largest number of tokens.
        algorithm: one of `ALGORITHMS`.
        max_length: the largest number of tokens of a text.

    Raises:
        UserError: the vocabulary is smaller than the number of characters in the data.
    """
    tokenizer, trainer = _untrained(algorithm, vocabulary)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    texts = list(_texts(task))
    _check_vocabulary(texts, vocabulary)
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = _ending(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def _texts(task: Sequences) -> Iterator[str]:
    for column in (SOURCE, TARGET):
        yield from task.splits["train"][column]


def _check_vocabulary(texts: list[str], vocabulary: int) -> None:
    """Every character must have a token, besides the special ones and the mark of a space."""
    characters = len(set().union(*map(set, texts))) + len(SPECIAL) + 1
    if vocabulary < characters:
        raise UserError(
            f"the texts have {characters} characters: give a vocabulary of at least as many, got {vocabulary}"
        )


def _untrained(algorithm: str, vocabulary: int) -> tuple[Tokenizer, Any]:
    """A tokenizer without a vocabulary, and its trainer."""
    unknown = SPECIAL["unk_token"]
    options: dict[str, Any] = {
        "vocab_size": vocabulary,
        "special_tokens": [*SPECIAL.values()],
        "show_progress": False,
    }
    if algorithm == "bpe":
        return Tokenizer(models.BPE(unk_token=unknown)), trainers.BpeTrainer(**options)
    return Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token=unknown, **options)


def _ending(tokenizer: Tokenizer) -> Any:
    """Appends the token of the end to every text."""
    end = SPECIAL["eos_token"]
    return processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
