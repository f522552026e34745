"""What a model says of a text, for each kind of task: no data are needed, labels are those of the model's config.

A task names one of these as its `predictor`; a task of one's own that names none cannot be asked by `secateur predict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.surgery.cross_encoders import named_activation
from secateur.surgery.sentence.attach import head_of
from secateur.system.errors import UserError
from secateur.system.model_state import evaluating
from secateur.tasks.checkpoint_labels import head_labels
from secateur.tasks.columns import listed
from secateur.tasks.one_output import REGRESSION
from secateur.tasks.option_values import check_option
from secateur.tasks.rows import most_tokens
from secateur.tasks.tokenizer_settings import check_padded, kept_settings

BATCH = 32
"""Texts in a batch."""
NEW_TOKENS = 64
"""Tokens of a continuation at most, by default."""
SUMMARY_TOKENS = 128
"""Tokens of a summary at most, by default."""
NUMBER = "number"
"""What a run on numbers tells: the one output of its model is one, and no logit."""

Texts = Sequence[str]
"""The texts of one input: one, or several that belong together."""
Prediction = dict[str, Any]


def _nothing_told(task: Any) -> dict[str, Any]:
    return {}


class Asked(NamedTuple):
    """A model, its tokenizer, and how it is asked.

    Attributes:
        max_length: tokens to keep of an input, or of a window of a longer one; fewer if the model takes fewer.
        options: of the task, as in a recipe.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    options: Mapping[str, Any]

    def within(self, most: int | None) -> Asked:
        """The same, with no more tokens than that; None for no limit."""
        return self if most is None else self._replace(max_length=min(self.max_length, most))


class Predictor(NamedTuple):
    """How a kind of task is asked.

    Attributes:
        parts: the names of the texts of one input; a single name where one or several texts are the input.
        predict: a prediction for each input.
        options: of the task, that it reads, and perhaps their types, which are checked; None if they are not known.
        told: how a model of a task with these data is asked as they are: `pairs`, or options.
        single: whether an input is one text and never two, where `parts` is a single name.
    """

    parts: tuple[str, ...]
    predict: Callable[[Asked, Sequence[Texts]], list[Prediction]]
    options: Mapping[str, Any] | tuple[str, ...] | None = None
    told: Callable[[Any], dict[str, Any]] = _nothing_told
    single: bool = False

    def check_options(self, given: Mapping[str, Any], task: str) -> None:
        """Refuse options of a task that it does not read, or of another type."""
        if self.options is None:
            return
        for name, value in given.items():
            if name not in self.options:
                known = listed(list(self.options)) or "none"
                raise UserError(f"a prediction of the task {task!r} has no option {name!r}: it has {known}")
            if isinstance(self.options, Mapping):
                check_option(name, value, self.options[name])

    def __call__(self, asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
        """A prediction for each input, in their order.

        Raises:
            UserError: there are none, one is empty, or has another number of texts than the task takes or than the
                first one has.
        """
        if not inputs:
            what = self.parts[0]
            raise UserError(f"there is no {what} to predict for: give one, or a file with one a line by --file")
        for texts in inputs:
            self._check(texts, len(inputs[0]))
        with kept_settings(asked.tokenizer):
            return self.predict(asked.within(most_tokens(asked.tokenizer, asked.model)), inputs)

    def _check(self, texts: Texts, first: int) -> None:
        """Refuse an input that is not as many texts as the task takes, and as the first input has."""
        count = len(texts)
        if len(self.parts) > 1 and count != len(self.parts):
            raise UserError(f"expected {' and '.join(self.parts)} for each input, got {count} texts: give both")
        if self.single and count != 1:
            raise UserError(
                f"expected one {self.parts[0]} for each input, got {count}: give each as an input of its own"
            )
        if count != first or count not in (1, 2):
            raise UserError(
                f"an input has {count} texts and the first {first}: give one text for every input, or two for every one"
            )
        if not all(text.strip() for text in texts):
            raise UserError("a text is empty: leave it out, or fill it")


def _outputs(asked: Asked, inputs: Sequence[Texts]) -> Iterator[Any]:
    """The outputs of the model, a batch at a time; a text that is too long is truncated.

    Raises:
        UserError: there are several inputs, and the tokenizer has no padding token.
    """
    if several := len(inputs) > 1:
        check_padded(asked.tokenizer)
    for first in range(0, len(inputs), BATCH):
        columns = [list(texts) for texts in zip(*inputs[first : first + BATCH], strict=True)]
        limit: dict[str, Any] = {"truncation": True, "max_length": asked.max_length, "padding": several}
        batch = asked.tokenizer(*columns, **limit, return_tensors="pt").to(asked.model.device)
        with evaluating([asked.model]), torch.inference_mode():
            yield asked.model(**batch)


def _logits(asked: Asked, inputs: Sequence[Texts]) -> Iterator[Tensor]:
    """`(labels,)` of each input, on the CPU."""
    return (row for output in _outputs(asked, inputs) for row in output.logits.float().cpu())


def _classes(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The class of the highest probability, and all probabilities; where the model has one output as `_numbers`."""
    labels = head_labels(asked.model.config)
    if asked.model.config.num_labels == 1:
        return _numbers(asked, inputs)
    return [_of_class(row, labels) for row in _logits(asked, inputs)]


def _images(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """As `_classes`, of images by the paths of their files."""
    read, labels, found = cast(Any, asked.tokenizer), head_labels(asked.model.config), []
    for first in range(0, len(inputs), BATCH):
        pixels = read([{"bytes": None, "path": path} for (path,) in inputs[first : first + BATCH]])
        with evaluating([asked.model]), torch.inference_mode():
            logits = asked.model(pixel_values=pixels.to(asked.model.device)).logits.float().cpu()
        found += [_of_class(row, labels) for row in logits]
    return found


def _of_class(logits: Tensor, labels: Sequence[str]) -> Prediction:
    """The class of the highest probability, and all probabilities, of logits `(labels,)`."""
    scores = dict(zip(labels, logits.softmax(-1).tolist(), strict=True))
    best = max(scores, key=lambda label: scores[label])
    return {"label": best, "score": scores[best], "scores": scores}


def _numbers(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The one output of a model, as `CrossEncoder.predict` of sentence-transformers and pipelines give it.

    That is after the activation that its config names, else after a sigmoid, but for a regression the number itself.
    """
    config, after = asked.model.config, named_activation(asked.model.config)
    if after is None:
        plain = config.problem_type == REGRESSION or asked.options.get(NUMBER, False)
        after = nn.Identity() if plain else nn.Sigmoid()
    return [{"score": float(after(row)[0])} for row in _logits(asked, inputs)]


def _label_sets(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """All labels that are more probable than not, and the probability of each label."""
    labels, found = head_labels(asked.model.config), []
    for row in _logits(asked, inputs):
        scores = dict(zip(labels, row.sigmoid().tolist(), strict=True))
        found.append({"labels": [label for label, score in scores.items() if score > 0.5], "scores": scores})
    return found


def _tags(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The tag of each word, at its first token; words are what white space separates, and None was truncated."""
    from secateur.tasks.tokens import first_tokens, mark_first_word

    mark_first_word(asked.tokenizer)
    labels, found = head_labels(asked.model.config), []
    for (text,) in inputs:
        words = text.split()
        limit: dict[str, Any] = {"truncation": True, "max_length": asked.max_length}
        encoded = asked.tokenizer([words], is_split_into_words=True, **limit, return_tensors="pt")
        with evaluating([asked.model]), torch.inference_mode():
            (row,) = asked.model(**encoded.to(asked.model.device)).logits.argmax(-1).tolist()
        first = first_tokens(encoded, 0)
        tags = [labels[row[first[word]]] if word in first else None for word in range(len(words))]
        found.append({"words": words, "tags": tags})
    return found


def _answers(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The best answer to each question in its context, and its score."""
    from secateur.tasks.questions import answer

    options = _taken(ANSWERS, asked)
    found = []
    for question, context in inputs:
        (best,) = answer(asked.model, asked.tokenizer, question, context, max_length=asked.max_length, **options)
        found.append({"answer": best.text, "score": best.score, "start": best.start, "end": best.end})
    return found


def _texts(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The text that the model generates for each source."""
    return _generated(asked, inputs, _taken(TEXTS, asked))


def _summaries(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The summary that the model generates of each text."""
    return _generated(asked, inputs, {"max_new_tokens": SUMMARY_TOKENS, **_taken(SUMMARIES, asked)})


def _generated(asked: Asked, inputs: Sequence[Texts], options: Mapping[str, Any]) -> list[Prediction]:
    from secateur.tasks.generation import generate

    sources = [text for (text,) in inputs]
    written = generate(asked.model, asked.tokenizer, sources, max_length=asked.max_length, **options)
    return [{"text": text} for text in written]


def _continued(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The most probable continuation of each text, token by token, up to the end of a text.

    It also ends with one of the `stop_strings` of the model's generation config, and has at most `max_new_tokens`, an
    option.
    """
    from secateur.tasks.generation import ONE_TEXT

    new = asked.options.get("max_new_tokens", NEW_TOKENS)
    if new < 1:
        raise UserError(f"max_new_tokens is {new}: give at least 1")
    options = {**ONE_TEXT, "num_beams": 1, "do_sample": False, "max_new_tokens": new}
    room = most_tokens(model=asked.model)
    asked = asked.within(None if room is None else max(1, room - new))
    found, model = [], cast(Any, asked.model)
    options |= {"stop_strings": model.generation_config.stop_strings, "tokenizer": asked.tokenizer}
    with evaluating([asked.model]):
        for (text,) in inputs:  # one by one: padding would stand before a text
            ids = asked.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            given = ids[:, -asked.max_length :].to(asked.model.device)
            written = model.generate(given, attention_mask=torch.ones_like(given), **options)[0]
            found.append({"text": asked.tokenizer.decode(written[given.shape[1] :], skip_special_tokens=True)})
    return found


def _vectors(asked: Asked, inputs: Sequence[Texts]) -> list[Prediction]:
    """The vector of each text, with the model's default prompt."""
    head = head_of(asked.model)
    if head is None:
        raise UserError("the model makes no vectors of texts: give a model for sentence embeddings")
    settings = head.settings
    prompt = settings.prompts.get(settings.default_prompt or "", "")
    texts = [prompt + text for (text,) in inputs]
    texts = [text.lower() for text in texts] if settings.lower_case else texts
    batches = _outputs(asked.within(settings.max_length), [(text,) for text in texts])
    return [{"vector": row.tolist()} for output in batches for row in output.sentence_embedding.float().cpu()]


def _taken(predictor: Predictor, asked: Asked) -> dict[str, Any]:
    """Those of a task's options that a predictor reads."""
    return {name: value for name, value in asked.options.items() if name in (predictor.options or ())}


def _pairs(task: Any) -> dict[str, Any]:
    return {"pairs": True} if len(task.columns) == 2 else {}


def _pairs_or_numbers(task: Any) -> dict[str, Any]:
    """Pairs, and whether the one output was trained as a number, which the config of the model may leave open."""
    return _pairs(task) | ({NUMBER: True} if task.head().get("problem_type") == REGRESSION else {})


def _no_answer(task: Any) -> dict[str, Any]:
    return {"nothing": True} if task.unanswerable else {}


CLASSES = Predictor(("text",), _classes, (), _pairs_or_numbers)
IMAGES = Predictor(("image",), _images, (), single=True)
LABEL_SETS = Predictor(("text",), _label_sets, (), _pairs)
TAGS = Predictor(("text",), _tags, (), single=True)
OF_ANSWERS = {"doc_stride": int | None, "max_answer_length": int, "nothing": bool, "null_threshold": float}
ANSWERS = Predictor(("question", "context"), _answers, OF_ANSWERS, _no_answer)
OF_TEXTS = {"prefix": str, "beams": int, "length_penalty": float, "max_new_tokens": int | None}
TEXTS = Predictor(("text",), _texts, OF_TEXTS, single=True)
SUMMARIES = Predictor(("text",), _summaries, OF_TEXTS, single=True)
CONTINUATIONS = Predictor(("text",), _continued, {"max_new_tokens": int}, single=True)
VECTORS = Predictor(("text",), _vectors, (), single=True)
RELEVANCE = Predictor(("query", "passage"), _numbers, ())
