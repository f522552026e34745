"""Prune the vocabulary of a model, dense or compact, and of its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.vocabulary import Vocabulary
from secateur.surgery import compact
from secateur.surgery.cut import cut
from secateur.surgery.uncut import planned_space, uncut
from secateur.surgery.vocabulary.counting import Text, kept_pieces, text_counts
from secateur.surgery.vocabulary.rows import cut_rows, row_count
from secateur.surgery.vocabulary.token_numbers import token_numbers
from secateur.surgery.vocabulary.tokenizer import cut_tokenizer
from secateur.system.errors import UserError


def cut_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text], min_count: int = 1
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Vocabulary]:
    """A model and its tokenizer with only the pieces that texts use, and these pieces; the originals are not changed.

    On a text whose pieces are all kept, the model computes what it did before, bit for bit. Other texts are split into
    smaller pieces.

    Args:
        model: a dense model of a supported family, or a compact one.
        tokenizer: a fast one.
        texts: what the model is for; special tokens, single characters and all that the tokenizer's algorithm needs are
            kept too.
        min_count: how often a piece must occur in them to be kept.

    Raises:
        UserError: the tokenizer is not a fast one, or is not the model's, or a vocabulary cannot be cut; or these are
            no texts, or one in place of a list.

    Examples:
        >>> small, tokenizer, vocabulary = secateur.cut_vocabulary(model, tokenizer, texts)
        >>> len(vocabulary), vocabulary.size
        (7213, 30522)
    """
    vocabulary = used_pieces(model, tokenizer, texts, min_count)
    return with_pieces(model, vocabulary), cut_tokenizer(tokenizer, vocabulary), vocabulary


def used_pieces(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text], min_count: int = 1
) -> Vocabulary:
    """The pieces of a model, dense or compact, that texts use, and those that it and its tokenizer need.

    Raises:
        UserError: as `cut_vocabulary`.
    """
    dense = _dense(model)
    counts = text_counts(tokenizer, texts, row_count(dense))
    if not bool(counts.any()):
        raise UserError("the texts have no piece of the vocabulary, of which nothing would be left: give some texts")
    return kept_pieces(tokenizer, counts, min_count, token_numbers(dense))


def with_pieces(model: PreTrainedModel, vocabulary: Vocabulary) -> PreTrainedModel:
    """A model, dense or compact, with the kept pieces alone.

    Raises:
        UserError: the vocabulary is not one of the model, or cannot be cut.
    """
    if not isinstance(model, compact.Pruned):
        return cut_rows(model, vocabulary)
    dense, plan = uncut(model)
    narrow = cut_rows(dense, vocabulary)
    small = cut(narrow, plan.with_vocabulary(narrow, _of_first(vocabulary, plan.vocabulary)))
    return small.train(model.training)


def _of_first(vocabulary: Vocabulary, earlier: Vocabulary | None) -> Vocabulary:
    """A vocabulary of pieces that are the kept ones of an earlier one, in the numbers before both."""
    return vocabulary if earlier is None else Vocabulary(earlier.size, tuple(earlier.kept[n] for n in vocabulary.kept))


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """A dense model with the configs of a model that may be compact."""
    return planned_space(model)[0].model if isinstance(model, compact.Pruned) else model
