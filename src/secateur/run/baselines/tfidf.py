"""TF-IDF with logistic regression: what a task needs no Transformer for.

RUN/baselines/tfidf/terms.json, weights.safetensors    the terms in their order, and what each weighs for each class
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from transformers import EvalPrediction

from secateur.measure.evaluation import standard_error
from secateur.measure.timing import median_and_quartiles, times_in_turn
from secateur.run.baselines import register
from secateur.run.baselines.baseline import FORMAT, Baseline, LeftOut, Row
from secateur.run.context import Context
from secateur.system import processes
from secateur.system.errors import reason_of
from secateur.system.tensor_file import save_tensors
from secateur.tasks.labelled import LabelledTask

WORD = r"(?u)\b\w+\b"
"""A word may have one letter, as a text that is a sequence of residues or bases has."""
WORDS, INVERSE_PENALTY, ITERATIONS = (1, 2), 10.0, 1000
"""Words of a term; the constant C of scikit-learn; the most steps of its solver."""
NEVER = -1e9
"""The logit of a class that no training row has."""
WARMUP, SPLITS = 2, ("train", "validation")


@register("tfidf")
class TfIdf(Baseline):
    """TF-IDF of words and pairs of words with logistic regression (scikit-learn), trained on the labels in seconds."""

    def make(self, context: Context, folder: Path) -> list[Row]:
        return processes.on_main(partial(_rows, context, folder))


def _rows(context: Context, folder: Path) -> list[Row]:
    """The model of words, scored on the validation rows.

    Raises:
        LeftOut: the task has no texts with one class each, or they have no words.
    """
    task = context.data.task
    texts = [task.texts_with_class(split) if isinstance(task, LabelledTask) else None for split in SPLITS]
    train, scored = texts
    if train is None or scored is None or task.labels is None:
        raise LeftOut(f"the task {context.recipe.data.task!r} has no texts with one class each for logistic regression")
    try:
        model = fitted(*train)
    except ValueError as error:
        raise LeftOut(f"logistic regression cannot be trained on these texts ({reason_of(error)})") from error
    logits = logits_of(model, scored[0], len(task.labels))
    prediction, rows = EvalPrediction(logits, np.array(scored[1])), context.data.validation_rows
    size = _save(model, folder)
    return [
        Row(
            name="tfidf",
            what="TF-IDF with logistic regression",
            score=task.score(prediction, rows)[task.metric],
            standard_error=standard_error(task, prediction, rows),
            parameters=int(model[-1].coef_.size + model[-1].intercept_.size),
            bytes=size,
            place=folder.relative_to(context.folder).as_posix(),
            runtime="scikit-learn",
            latency=_times(context, model, scored[0]),
        )
    ]


def fitted(texts: Sequence[str], classes: Sequence[int]) -> Pipeline:
    """A model of words, trained on texts and the number of the class of each."""
    vectorizer = TfidfVectorizer(ngram_range=WORDS, sublinear_tf=True, token_pattern=WORD)
    return make_pipeline(vectorizer, LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)).fit(texts, classes)


def logits_of(model: Pipeline, texts: Sequence[str], labels: int) -> NDArray[Any]:
    """`(texts, labels)` logarithms of probabilities."""
    logits = np.full((len(texts), labels), NEVER)
    logits[:, model[-1].classes_] = model.predict_log_proba(texts)
    return logits


def _save(model: Pipeline, folder: Path) -> int:
    """Write the model without pickle; the bytes of its files."""
    vectorizer, regression = model
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "terms.json", folder / "weights.safetensors"
    FORMAT.write(paths[0], {"terms": vectorizer.get_feature_names_out().tolist()})
    arrays = {"idf": vectorizer.idf_, "weights": regression.coef_, "bias": regression.intercept_}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).float() for name, array in arrays.items()}
    save_tensors(paths[1], tensors | {"classes": torch.from_numpy(regression.classes_)}, FORMAT)
    return sum(path.stat().st_size for path in paths)


def _times(context: Context, model: Pipeline, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The median time of a batch of texts at each shape, whose words are those of the scored texts, in their order."""
    measurement, times = context.recipe.measurement, []
    for batch, tokens in measurement.shapes:
        words = cycle(word for text in texts for word in text.split() or [""])
        taken = [" ".join(islice(words, tokens)) for _ in range(batch)]
        call: Callable[[], object] = partial(model.predict, taken)
        median, _ = median_and_quartiles(times_in_turn([call], measurement.repeats, WARMUP)[0])
        times.append({"batch": batch, "tokens": tokens, "latency_ms": median})
    return times
