"""Sentence embeddings: one vector for each text, by which texts are compared; the teacher's vectors are the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoModel, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.surgery.checkpoint import stream_width, with_head
from secateur.surgery.opening import bare_encoder, open_model
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.sentence.folder import new_head, read_head, read_settings
from secateur.surgery.sentence.head import POOLINGS, Settings
from secateur.surgery.sentence.similarity import COSINE
from secateur.system.errors import UserError
from secateur.system.files import fingerprint
from secateur.tasks import predictors, register
from secateur.tasks.checkpoint_labels import read_config
from secateur.tasks.columns import with_fields
from secateur.tasks.compared_task import ComparedTask
from secateur.tasks.embedding_data import (
    DOCUMENT,
    KIND,
    MEMBER,
    QUERY,
    TEXT,
    kinds_of,
    prepare,
    row_by_row,
    with_scored_texts,
    without_held_out,
)
from secateur.tasks.embedding_reference import MOST_TOKENS, Reference
from secateur.tasks.embedding_scores import TEXT_METRICS, Evaluation, text_scores
from secateur.tasks.evaluation_files import read_evaluation
from secateur.tasks.predictors import Predictor
from secateur.tasks.rows import check_length
from secateur.tasks.splits import OPTION, first_rows, read_splits
from secateur.tasks.task import PaddingCollator, Task
from secateur.tasks.tokenizer_settings import kept_settings

PROMPTS = {QUERY: ("query",), DOCUMENT: ("document", "passage")}
"""Kind of a text -> the names that its prompt may have, the first that the model has counts."""
KINDS_OF_TEXTS = {QUERY: "queries", DOCUMENT: "documents", None: "single texts"}
"""Kind of a text -> texts of it in words."""


class TextCollator(PaddingCollator):
    """Pads texts; drops what identifies them, which models do not take."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        dropped = (MEMBER, TEXT, MOST_TOKENS)
        return super().__call__([{k: v for k, v in row.items() if k not in dropped} for row in features])


@register("embedding")
@dataclass(frozen=True, eq=False, repr=False)
class SentenceEmbedding(ComparedTask):
    """A vector for each text, from an encoder with a sentence head; the model is its own teacher.

    Attributes:
        splits: "train" with texts or pairs of texts (`embedding_data`), "validation" with the texts that are scored.
        metric: the main score.
        evaluation: what the texts are scored by; None for agreement with the reference.
        pooling: of a bare encoder, whose folder names none.
        prompts: texts to put before the others, by kind, in place of the model's own.
        settings: of the model, as `fitted` finds them.
        reference: the model whose vectors count as right where there is no evaluation.
        of_one_width: whether the main score is a cosine with the reference's vector.
        labels: None, because vectors have none.
    """

    model_class: ClassVar[Any] = AutoModel
    predictor: ClassVar[Predictor | None] = predictors.VECTORS
    collator_class: ClassVar[type[PaddingCollator]] = TextCollator
    label_names: ClassVar[tuple[str, ...]] = ()
    augmentable: ClassVar[bool] = True
    evaluation_is_data: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "data.max_length": 256,
        "distillation.logits_weight": 0.0,
        "distillation.labels_weight": 0.0,
        "distillation.terms": {"embedding": {}, "similarity": {}},
        "measurement.shapes": ((1, 32), (32, 128)),
    }

    splits: DatasetDict
    metric: str
    evaluation: Evaluation | None = None
    pooling: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    reference: Reference | None = None
    of_one_width: bool = False
    labels: tuple[str, ...] | None = None

    @classmethod
    def from_data(
        cls,
        data: str,
        *,
        text: str | Sequence[str] | None = None,
        evaluation: str | None = None,
        pooling: str | None = None,
        metric: str | None = None,
        seed: int = 0,
        rows: int | None = None,
        validation: str | None = None,
        pairs: bool | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        reference: str | None = None,
    ) -> SentenceEmbedding:
        """Read `data` (see `read_splits`): texts, or pairs of texts that belong together.

        Args:
            data: a name on the hub, a folder or a file, such as lines of text; no labels are needed.
            text: the columns of texts; by default all that hold texts of several words. Columns that are named as
                pairs (anchor and positive, query and passage, with a negative or without) are pairs.
            evaluation: a file of pairs with a number that says how similar they are, or a folder of retrieval in BEIR's
                form (corpus, queries, qrels), or one file of its qrels; by default texts that are split off are
                compared with the reference.
            pooling: for an encoder whose folder names none: how the states of tokens become one vector.
            metric: the main score; by default the first of the evaluation.
            seed: chooses the texts that are split off, and those that `rows` keeps.
            rows: how many training rows to keep.
            validation: the split whose texts are scored without an evaluation; by default that of `read_splits`.
            pairs: whether rows are pairs; by default if their columns are named so.
            query_prompt, document_prompt: texts to put before queries and anchors, and before documents, positives and
                texts of no stated kind; by default the model's (`prompt`).
            reference: the model with whose vectors those of others are compared; by default the teacher.

        Raises:
            UserError: the data or the evaluation cannot be read; there is no text; an option or the metric is unknown;
                there is a prompt for queries and no query; the reference gives no vectors.
            MissingPackage: an evaluation needs sentence-transformers, which is not installed.
        """
        if pooling is not None and pooling not in POOLINGS:
            raise UserError(f"pooling {pooling!r} is not known: choose one of {', '.join(POOLINGS)}")
        scored = None if evaluation is None else read_evaluation(evaluation)
        known = TEXT_METRICS if scored is None else scored.metrics
        if metric is not None and metric not in known:
            raise UserError(f"metric {metric!r} is not known for this evaluation: choose one of {', '.join(known)}")
        prepared = partial(prepare, text=text, pairs=pairs)
        option = OPTION if scored is None else None
        splits = read_splits(data, validation=validation, each=with_fields, prepare=prepared, seed=seed, option=option)
        splits = with_scored_texts(splits, seed) if scored is None else without_held_out(splits, scored.texts())
        if rows is not None:
            splits["train"] = first_rows(splits["train"], rows, seed)
        if query_prompt is not None and QUERY not in kinds_of(splits):
            raise UserError(
                "the data has no queries to put query_prompt before: single texts have document_prompt, so give that, "
                "or pairs whose columns are named as such, or an evaluation of retrieval"
            )
        named = {QUERY: query_prompt, DOCUMENT: document_prompt}
        prompts = {kind: prompt for kind, prompt in named.items() if prompt is not None}
        found = cls(splits, metric or known[0], scored, pooling, prompts)
        if reference is not None:
            found = found.with_reference(reference)
            Reference(reference).check(found)
        return replace(found, of_one_width=scored is None and found.metric == COSINE)

    # Models

    def load_model(self, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
        """The encoder in float32 with its sentence head, without a pooler, which no sentence head reads.

        Raises:
            UserError: there is no such checkpoint, it is incomplete, or names no pooling.
        """
        config: Any = read_config(name_or_path)
        if getattr(config, "secateur", None):
            return open_model(name_or_path)
        return self._dense(name_or_path, asked=True)

    def load_reference(self, name_or_path: str | Path) -> PreTrainedModel:
        """As `load_model`, of a model for which the options were not given: it has its own pooling where it has one.

        Raises:
            UserError: as there.
        """
        config: Any = read_config(name_or_path)
        if not getattr(config, "secateur", None):
            return self._dense(name_or_path, asked=False)
        model = open_model(name_or_path)
        self.adapt(model, str(name_or_path), asked=False)
        return model

    def _dense(self, name_or_path: str | Path, *, asked: bool) -> PreTrainedModel:
        """A dense encoder with its sentence head; `asked` as of `adapt`."""
        self.check_head(name_or_path, "model")
        model = with_head(bare_encoder(name_or_path), name_or_path)
        self.adapt(model, str(name_or_path), asked=asked)
        return model

    def adapt(self, model: PreTrainedModel, name: str, *, asked: bool = True) -> None:
        """Give an encoder whose folder names no pooling the one that was asked for.

        Raises:
            UserError: nothing names a pooling, or its folder names another than was asked for.
        """
        self.check_head(model, "model")
        own = head_of(model)
        if own is None:
            attach_head(model, new_head(str(self.pooling), stream_width(model), read_settings(name)))
        elif asked and self.pooling is not None and own.poolings != (self.pooling,):
            raise UserError(
                f"model {name!r} has a pooling of its own, {' and '.join(own.poolings)}: leave out --pooling "
                "(data.pooling)"
            )

    def with_reference(self, name: str) -> SentenceEmbedding:
        return self if self.reference else replace(self, reference=Reference(name))

    def check_scored(self) -> None:
        if self.evaluation is None and self.reference is None:
            raise UserError(
                "vectors of texts without labels are compared with those of a reference: name it by --task-option "
                "reference=MODEL, or score pairs or retrieval by --eval"
            )

    def is_finetuned(self, model_or_folder: PreTrainedModel | str | Path) -> bool:
        """Always: an encoder gives vectors as it is, and is never trained here first."""
        return True

    def check_head(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> None:
        """Refuse an encoder of which nothing says how its states become one vector.

        Raises:
            UserError: neither its folder nor an option names a pooling.
        """
        if isinstance(model_or_folder, PreTrainedModel):
            own = head_of(model_or_folder)
        else:
            own = read_head(model_or_folder)
        if own is None and self.pooling is None:
            raise UserError(
                f"the {role} is no sentence-transformers model, and nothing says how the states of its tokens become "
                "one vector: name a pooling by --pooling (data.pooling), such as mean, or give a model with one"
            )

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """The task with the prompts and the longest text of a model; a folder is the reference, if none is named."""
        if isinstance(model_or_folder, PreTrainedModel):
            head = head_of(model_or_folder)
            return self if head is None else replace(self, settings=head.settings)
        folder = str(model_or_folder)
        return replace(self, settings=read_settings(folder)).with_reference(folder)

    # Rows

    def limits(self, max_length: int) -> dict[str, int]:
        return {"input_ids": min(max_length, self.settings.max_length or max_length)}

    def encode(self, split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = 256) -> Dataset:
        """One of `splits`, or rows of one, as model inputs, unpadded, one row for each text, with its prompt.

        Args:
            split: rows with the columns of `embedding_data`.
            tokenizer: the model's.
            max_length: tokens to keep of a text, special ones included; fewer if the model takes fewer.

        Returns:
            The columns of the tokenizer (input_ids, attention_mask, perhaps token_type_ids) and `length` (tokens); the
            text with its prompt and `MOST_TOKENS`, by which the reference's vector is found; of pairs also `example`,
            the index of the pair, whose anchor is the first of its rows; of scored texts `member`, by which an
            evaluation knows a text, and `example`, if several belong together.
        """
        longest = min(self.limits(max_length)["input_ids"], tokenizer.model_max_length)
        check_length(longest, tokenizer)
        prompts, lower = {kind: self.prompt(kind) for kind in (None, *PROMPTS)}, self.settings.lower_case

        def tokens(batch: dict[str, list[Any]]) -> dict[str, Any]:
            kinds = batch.get(KIND, [None] * len(batch[TEXT]))
            texts = [prompts[kind] + text for kind, text in zip(kinds, batch[TEXT], strict=True)]
            texts = [text.lower() for text in texts] if lower else texts
            encoded = tokenizer(texts, truncation=True, max_length=longest)
            own = {TEXT: texts, MOST_TOKENS: [longest] * len(texts)}
            return {**encoded, **own, "length": [len(ids) for ids in encoded["input_ids"]]}

        rows = row_by_row(split)
        removed = [KIND] if KIND in rows.column_names else []
        with kept_settings(tokenizer):
            return rows.map(tokens, batched=True, remove_columns=removed, desc="tokenize")

    def prompt(self, kind: str | None) -> str:
        """What is put before a text of a kind.

        A text of no stated kind has what a document has, as where texts are indexed, unless the model has a default
        prompt and no other was asked for.
        """
        known, default = self.settings.prompts, self.settings.default_prompt or ""
        if kind is None and DOCUMENT not in self.prompts and default in known:
            return known[default]
        kind = kind or DOCUMENT
        return self.prompts.get(kind, next((known[name] for name in PROMPTS[kind] if name in known), ""))

    def described(self) -> dict[str, str]:
        """As `Task.described`, the prompts of the kinds of texts that there are, and how vectors are compared."""
        named = {kind: self.prompt(kind) for kind in sorted(kinds_of(self.splits), key=str)}
        told = (f"{prompt!r} before {KINDS_OF_TEXTS[kind]}" for kind, prompt in named.items() if prompt)
        return super().described() | {"prompts": ", ".join(told) or "none", "similarity": self.similarity}

    def fingerprint(self, *splits: str) -> str:
        """As `Task.fingerprint`; it also changes with what the scored texts are compared with."""
        own = super().fingerprint(*splits)
        if self.evaluation is None or (splits and "validation" not in splits):
            return own
        return fingerprint([own, *self.evaluation.contents()], digits=12)

    # Scores

    @property
    def similarity(self) -> str:
        """How vectors are compared: as the model states, by default by cosine."""
        return self.settings.similarity or COSINE

    def of_training_rows(self) -> Task:
        """The task without the evaluation, whose texts training rows are not: agreement with the reference."""
        return self if self.evaluation is None else replace(self, evaluation=None, metric=TEXT_METRICS[0])

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Nothing can be said of vectors alone.

        Raises:
            NotImplementedError: always; `score` takes the texts, too.
        """
        raise NotImplementedError("vectors are scored together with their texts: call score(prediction, rows)")

    def score(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The scores of vectors `(texts, dims)`: those of the evaluation, or the agreement with the reference.

        Raises:
            UserError: there is neither an evaluation nor a reference.
        """
        outputs = prediction.predictions
        vectors = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs, dtype=np.float32)
        if self.evaluation is not None:
            places = {row[MEMBER]: place for place, row in enumerate(rows)}
            return self.evaluation.scores(places, vectors, self.similarity)
        self.check_scored()
        assert self.reference is not None
        return text_scores(vectors, self.reference.vectors(self, rows), self.similarity)
