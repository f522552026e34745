"""Classification of words in their sentence: named entities as in CoNLL-2003, and parts of speech."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, Value
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import AutoModelForTokenClassification, BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

from secateur.system.errors import UserError, as_user_error
from secateur.tasks import register
from secateur.tasks.splits import check_count, first_rows, listed, no_column, read_splits, shared_columns
from secateur.tasks.task import UNLABELLED, PaddingCollator, Task, check_length

# Tried in order. Of the tags the entities come first.
WORDS = ("tokens", "words", "sentence", "text")
TAGS = ("ner_tags", "ner", "tags", "labels", "label", "pos_tags", "pos", "upos", "chunk_tags")
OUTSIDE = "O"
CONLL2003 = (OUTSIDE, *(f"{part}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for part in "BI"))
"""What 0 to 8 mean in the `ner_tags` of CoNLL-2003, where a copy of it has lost the names (Tjong Kim Sang and De
Meulder, 2003; the order of the hub's `conll2003`)."""
ENTITY = re.compile(r"[BIES]-.+")  # the parts of an entity that seqeval reads
ENTITY_METRICS = ("f1", "precision", "recall", "accuracy")  # the first is the default
WORD_METRICS = ("accuracy",)
CUT_OFF = "words_cut_off"


class TokenCollator(PaddingCollator):
    """Pads model inputs, and labels with -100; leaves out what is for the score alone."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        own = ("labels", "tags", "seen")
        batch = super().__call__([{k: v for k, v in row.items() if k not in own} for row in features])
        if all("labels" in row for row in features):
            batch["labels"] = self._padded([row["labels"] for row in features], batch["input_ids"].shape[1])
        return batch

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """`(batch, width)`, filled up on the side where the tokenizer pads."""
        filled = []
        for row in rows:
            padding = [UNLABELLED] * (width - len(row))
            filled.append([*padding, *row] if self.tokenizer.padding_side == "left" else [*row, *padding])
        return torch.tensor(filled)


@register("tokens")
@dataclass(frozen=True, eq=False)
class Tokens(Task):
    """A tag for every word of a sentence: named entities (CoNLL, tags in BIO) or parts of speech.

    Attributes:
        splits: "train" and "validation", with the columns `words` and `label` alone: lists of one length, a tag
            is its index in `labels`.
        words: the column of words.
        label: the column of tags.
        labels: the names of the tags, in the order of the head's outputs.
        metric: the main score: one of `ENTITY_METRICS`, or of `WORD_METRICS` where the tags are no entities.
    """

    model_class: ClassVar[Any] = AutoModelForTokenClassification
    collator_class: ClassVar[type[PaddingCollator]] = TokenCollator

    splits: DatasetDict
    words: str
    label: str
    labels: tuple[str, ...]
    metric: str

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        label: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
    ) -> Tokens:
        """Read `data` (see `read_splits`) and recognise its columns and tags.

        Tags that are strings are sorted by kind of entity, O first and B before I; integers have the names that
        the data has for them, or else LABEL_0, LABEL_1, ...; in `ner_tags` 0 to 8 are those of `CONLL2003`.

        Args:
            data: a name on the hub, a folder or a file; of parquet or json, for a cell of csv holds no list.
            text: the column of words; by default the first of `WORDS` that is there.
            label: the column of tags; by default the first of `TAGS` that is there.
            metric: the main score; by default f1 of whole entities, or accuracy where the tags are no entities.
            seed: chooses the rows of a validation split that the data lacks, and those that `rows` keeps.
            rows: how many training rows to keep, for a quick trial; all by default. Validation stays whole.

        Raises:
            UserError: the data cannot be read; a column is not there or holds no lists; a row is empty, has a gap,
                or more or fewer tags than words; the tags have no names that say which entity they are; there is
                only one tag; validation has a tag that training lacks; the metric is not known; `rows` < 1.
        """
        splits = read_splits(data, prepare=partial(_prepare, text=text, label=label), seed=seed)
        words, tags = splits["train"].column_names
        labels = tuple(splits["train"].features[tags].feature.names)
        _check_tags(splits, tags, labels)
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        return cls(splits, words, tags, labels, _choose_metric(metric, labels))

    def head(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: index for index, name in enumerate(self.labels)},
        }

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 128) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded.

        A tokenizer that tells words apart by the space before them is set to see one before the first word too:
        for good, so that what it is saved with does to a text what was done here.

        Args:
            split: rows with `words` and `label`.
            tokenizer: the model's; a fast one.
            max_length: tokens to keep of a row, special ones included; the words after them are cut off.

        Returns:
            The columns of the tokenizer; `labels`, the tag at the first token of a word and -100 elsewhere;
            `length` (tokens); and, for `score`, `tags` of all words and `seen`, the numbers of those with a label.

        Raises:
            UserError: `max_length` is more than the tokenizer's model takes, or the tokenizer is a slow one.
        """
        check_length(max_length, tokenizer)
        if not tokenizer.is_fast:
            raise UserError("the tokenizer cannot tell which word a token is of: give a model with a fast tokenizer")
        _mark_first_word(tokenizer)
        words, label = self.words, self.label  # not `self`: `map` hashes what its function holds

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = tokenizer(batch[words], is_split_into_words=True, truncation=True, max_length=max_length)
            places = [_first_tokens(encoded, row) for row in range(len(batch[words]))]
            lengths = [len(ids) for ids in encoded["input_ids"]]
            labels = [_at(*row) for row in zip(places, batch[label], lengths, strict=True)]
            seen = [list(place) for place in places]
            return {**encoded, "labels": labels, "length": lengths, "tags": batch[label], "seen": seen}

        return split.map(tokens, batched=True, remove_columns=split.column_names, desc="tokenize")

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Every score by name, of the words that the model sees: `ENTITY_METRICS`, or `WORD_METRICS`.

        f1, precision and recall are of whole entities, over all kinds together, by the rules of conlleval (seqeval's
        default): right are those of the right kind from the right first word to the right last. Tags in IOB1 are
        read as well. What is undefined, such as the precision of no entity, is 0.0. accuracy is of words.

        Args:
            prediction: logits `(rows, tokens, labels)`, alone or first of a tuple, and labels `(rows, tokens)`.
        """
        wanted = [list(row[row != UNLABELLED]) for row in np.asarray(prediction.label_ids)]
        return self._metrics(wanted, _said(prediction))

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """As `compute_metrics`, and over all words: one that the model does not see counts as said to be O.

        `words_cut_off` is how many these are: beyond `max_length`, or without a token.
        """
        found = []
        for row, said in zip(rows, _said(prediction), strict=True):
            seen = dict(zip(row["seen"], said, strict=True))
            found.append([seen.get(word) for word in range(len(row["tags"]))])
        scores = self._metrics([row["tags"] for row in rows], found)
        return {**scores, CUT_OFF: sum(tag is None for row in found for tag in row)}

    def _metrics(self, wanted: Sequence[Sequence[int]], found: Sequence[Sequence[int | None]]) -> dict[str, float]:
        """Scores of tags by index, sentence by sentence; None is a word that nothing was said of."""
        true = [[self.labels[tag] for tag in row] for row in wanted]
        said = [[OUTSIDE if tag is None else self.labels[tag] for tag in row] for row in found]
        right = [a == b for row, other in zip(true, said, strict=True) for a, b in zip(row, other, strict=True)]
        accuracy = {"accuracy": float(np.mean(right)) if right else 0.0}
        if not _are_entities(self.labels):
            return accuracy
        precision, recall, f1, _ = precision_recall_fscore_support(true, said, average="micro", zero_division=0)
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall), **accuracy}


def _prepare(splits: DatasetDict, text: str | Sequence[str] | None, label: str | None) -> DatasetDict:
    """The splits with the columns in use, words first and tags last, whole rows alone, tags by index."""
    shared = shared_columns(splits)
    asked = (text,) if isinstance(text, str) else tuple(text or ())
    if len(asked) > 1:
        raise UserError(f"`text` names {len(asked)} columns: name the one that holds the words")
    words = _column("text", shared, asked or WORDS, asked)
    tags = _column("label", shared, (label,) if label else TAGS, (label,) if label else ())
    if words == tags:
        raise UserError(f"column {words!r} is both words and tags: name another by `text` or `label`")
    splits = splits.select_columns([words, tags])
    for name, split in splits.items():
        _check_kinds(name, split, words, tags)
        _check_rows(name, split, words, tags)
    names = _tag_names(splits, tags)
    with as_user_error(f"the tags in {tags!r} cannot be read", "give every tag a name"):
        return splits.cast_column(tags, List(ClassLabel(names=names)))


def _column(option: str, shared: Sequence[str], names: Sequence[str], asked: Sequence[str]) -> str:
    for name in names:
        if name in shared:
            return name
    raise no_column(option, asked, shared)


def _check_kinds(name: str, split: Dataset, words: str, tags: str) -> None:
    for column in (words, tags):
        feature = split.features[column]
        if not isinstance(feature, List | LargeList):
            held = feature.dtype if isinstance(feature, Value) else "no lists"
            raise UserError(
                f"column {column!r} of the {name} split holds {held}: words and tags are lists, a row a sentence, "
                "as parquet and json hold them and csv cannot"
            )
    inner = split.features[words].feature
    if not isinstance(inner, Value) or inner.dtype not in ("string", "large_string", "null"):
        raise UserError(f"column {words!r} of the {name} split holds lists without words: name another by `text`")


def _check_rows(name: str, split: Dataset, words: str, tags: str) -> None:
    """Every row must be a sentence with a tag for each of its words."""
    rows = list(zip(split[words][:], split[tags][:], strict=True))
    faults = {
        "have no words": [not sentence for sentence, _ in rows],
        "have more or fewer tags than words": [len(sentence or ()) != len(said or ()) for sentence, said in rows],
        "lack a word or a tag (a tag below 0 is none)": [
            None in (sentence or ()) or any(_is_missing(tag) for tag in said or ()) for sentence, said in rows
        ],
    }
    for fault, found in faults.items():
        if any(found):
            raise UserError(
                f"{sum(found)} of the {len(rows)} rows of the {name} split {fault} "
                f"(the first is row {found.index(True)}, counted from 0): mend or remove them"
            )


def _is_missing(tag: Any) -> bool:
    return tag is None or tag == "" or (isinstance(tag, int) and tag < 0)


def _tag_names(splits: DatasetDict, tags: str) -> list[str]:
    """The names of the tags, in the order of the head's outputs.

    Raises:
        UserError: the splits write their tags in different ways, or not as names or classes, or the integers of a
            column of entities have no names.
    """
    features = [split.features[tags].feature for split in splits.values()]
    kinds = {_kind(feature) for feature in features}
    named = [feature for feature in features if isinstance(feature, ClassLabel)]
    met = {tag for split in splits.values() for row in split[tags] for tag in row}
    if kinds == {"string"}:
        check_count(len(met), tags)
        return sorted(met, key=_rank)
    if kinds == {"int"}:
        check_count(max(met) + 1, tags)
        return _conventional_names(tags, max(met) + 1)
    if kinds <= {"class", "int"} and all(feature == named[0] for feature in named):
        return list(named[0].names)
    raise UserError(
        f"the tags in {tags!r} are of {' and '.join(sorted(kinds))}: make all of them strings, or integers with the "
        "same names"
    )


def _kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return "class"
    dtype = feature.dtype if isinstance(feature, Value) else "lists or records"
    return next((kind for kind in ("int", "string") if kind in dtype), dtype)


def _rank(tag: str) -> tuple[bool, str, str]:
    """O first, then by kind of entity, B before I; tags that are no entities by their names."""
    part, _, kind = tag.partition("-") if ENTITY.fullmatch(tag) else ("", "", tag)
    return tag != OUTSIDE, kind, part


def _conventional_names(tags: str, count: int) -> list[str]:
    """Names for integers that come without."""
    if tags == "ner_tags" and count == len(CONLL2003):
        return list(CONLL2003)
    if tags.startswith("ner"):
        raise UserError(
            f"the {count} tags in {tags!r} are integers without names, so which entity is which is not known: "
            "write them as strings such as B-PER, or with a ClassLabel that names them"
        )
    return [f"LABEL_{index}" for index in range(count)]


def _check_tags(splits: DatasetDict, tags: str, labels: Sequence[str]) -> None:
    seen, met = ({tag for row in splits[name][tags] for tag in row} for name in ("train", "validation"))
    if len(seen) == 1:
        raise UserError(f"all training words have the same tag in {tags!r}: give data with at least two")
    if met - seen:
        unseen = listed([labels[tag] for tag in sorted(met - seen)])
        raise UserError(
            f"validation has tags that no training row has ({unseen}): add training rows, remove these, or take "
            "another seed where validation is split off"
        )


def _choose_metric(metric: str | None, labels: Sequence[str]) -> str:
    known = ENTITY_METRICS if _are_entities(labels) else WORD_METRICS
    if metric is not None and metric not in known:
        kind = "entities" if known is ENTITY_METRICS else "tags that are no entities (O, B-X, I-X)"
        raise UserError(f"metric {metric!r} is not known for {kind}: choose one of {', '.join(known)}")
    return metric or known[0]


def _are_entities(labels: Sequence[str]) -> bool:
    return all(name == OUTSIDE or ENTITY.fullmatch(name) for name in labels)


def _mark_first_word(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a byte-level tokenizer (RoBERTa) see a space before every word of a list; the others tell words apart."""
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, ByteLevel) and not backend.pre_tokenizer.add_prefix_space:
        backend.pre_tokenizer.add_prefix_space = True
        tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = True  # what it is saved and loaded by


def _first_tokens(encoded: BatchEncoding, row: int) -> dict[int, int]:
    """The words of a row that have a token, each with the place of its first."""
    places: dict[int, int] = {}
    for place, word in enumerate(encoded.word_ids(row)):
        if word is not None:
            places.setdefault(word, place)
    return places


def _at(places: Mapping[int, int], tags: Sequence[int], length: int) -> list[int]:
    """`length` labels: the tag of each word at its place."""
    labels = [UNLABELLED] * length
    for word, place in places.items():
        labels[place] = tags[word]
    return labels


def _said(prediction: EvalPrediction) -> list[list[int]]:
    """The likeliest tag at every label of every row."""
    outputs = prediction.predictions
    logits: NDArray[Any] = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
    labels = np.asarray(prediction.label_ids)
    return [row[mask].tolist() for row, mask in zip(logits.argmax(-1), labels != UNLABELLED, strict=True)]
