"""One pass of a frozen teacher over rows, which computes the arrays of a cache entry and its key (`teacher_cache`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.encoded_rows import DIGEST, UNLABELLED
from secateur.structure.fingerprints import model_fingerprint, tensor_chunks
from secateur.structure.images import image_tokens
from secateur.structure.token_types import without_unread_types
from secateur.system.errors import UserError
from secateur.system.files import fingerprint
from secateur.system.model_state import evaluating
from secateur.training.array_cache import ArrayType, Draft, entry_bytes, release_pages
from secateur.training.ragged import places_of, starts_of
from secateur.training.step import INDEX, decoder_inputs, has_decoder

PER_ROW, PER_TOKEN, POSITIONS, PER_TARGET_TOKEN = "logits", "token_logits", "start_and_end_logits", "target_logits"
"""The possible names of the array of logits: `(rows, labels)`, `(tokens of all rows, labels)`, `(tokens of all rows,
2)` for the start and the end of an answer, or `(tokens of all targets, labels)`."""
SENTENCES = "sentence_embeddings"
"""The name of the array in place of logits for a model that returns a vector of each text: `(rows, dims)`."""
OF_ROWS = (PER_ROW, SENTENCES)
"""The arrays with one entry for each row."""
STATES, TARGET_STATES = "states", "target_states"
"""The arrays of hidden states: `(tokens of all rows, layers, dims)`, and `(tokens of all targets, layers, dims)`."""
LAYOUT = 2
"""The version of the layout of the arrays; it is part of the key, so that arrays of another layout are not read."""
MOST_TOKENS = 4096
"""Tokens of a batch at most, padding included: 0.7 GB of outputs and intermediate results of a model of base size."""

Rows = Sequence[Mapping[str, Any]]
Collate = Callable[[list[Any]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class TeacherRun:
    """One pass of a teacher over rows, and the key of its outputs.

    Attributes:
        starts: of `input_ids`, as of `ragged.starts_of`; of images, which have equally many tokens.
        target_starts: of `labels`; None without a decoder.
        layers, target_layers: whose hidden states are kept; 0 is the embeddings.
        batch: rows of a batch at most.
        bf16: whether the teacher runs under autocast.
        after_batch: is called when the outputs of a batch are written.
    """

    teacher: PreTrainedModel
    rows: Rows
    collate: Collate
    starts: np.ndarray
    target_starts: np.ndarray | None
    layers: list[int]
    target_layers: list[int]
    batch: int
    bf16: bool
    after_batch: Callable[[], None] | None = None

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel,
        rows: Rows,
        collate: Collate,
        layers: Sequence[int] = (),
        target_layers: Sequence[int] = (),
        batch: int = 128,
        bf16: bool = False,
    ) -> TeacherRun:
        """The pass over unpadded rows; arguments as for `CachedTeacher.of`."""
        tokens = image_tokens(teacher)
        starts = starts_of(rows, "input_ids") if tokens is None else tokens * np.arange(len(rows) + 1)
        target_starts = starts_of(rows, "labels") if has_decoder(teacher) else None
        return cls(teacher, rows, collate, starts, target_starts, list(layers), list(target_layers), batch, bf16)

    @cached_property
    def order(self) -> np.ndarray:
        """The numbers of the rows, the shortest first, so that batches have little padding."""
        return np.argsort(np.diff(self.starts), kind="stable")

    def key(self) -> str:
        """16 hex digits that depend on all that affects the outputs: model, weights, rows, padding, precision."""
        return fingerprint(self._identity())

    def _identity(self) -> Iterator[Any]:
        ends, _ = self._inputs(self.order[[0, -1]])  # one batch shows what the collator adds and pads with
        layers = self.layers if self.target_starts is None else [self.layers, self.target_layers]
        yield f"{LAYOUT} {layers} {self.bf16} {model_fingerprint(self.teacher)}"
        yield from tensor_chunks(sorted(ends.items()))
        yield from _row_chunks(self.rows, {*ends, DIGEST, *([] if self.target_starts is None else ["labels"])})

    @cached_property
    def arrays(self) -> dict[str, ArrayType]:
        """The shape and the dtype of each array by its name. The teacher runs over the shortest row to find them.

        Raises:
            UserError: that row is padded, or there is nothing to keep.
        """
        layers = {STATES: self.layers} | ({} if self.target_starts is None else {TARGET_STATES: self.target_layers})
        dims = self.teacher.config.hidden_size
        arrays = {name: ArrayType((self._length(name), len(own), dims), "float16") for name, own in layers.items()}
        with torch.inference_mode(), evaluating([self.teacher]):
            for name, block in self._logits(*self._run(self.order[:1])).items():
                arrays[name] = ArrayType((self._length(name), *block.shape[1:]), "float32")
        if not any(array.nbytes for array in arrays.values()):
            raise UserError(
                f"a {type(self.teacher).__name__} returns neither logits nor sentence embeddings, and no layers are "
                "named whose hidden states are kept: take a teacher with the head of the task, or name layers"
            )
        return arrays

    @property
    def nbytes(self) -> int:
        """The size of the entry on disk."""
        return entry_bytes(self.arrays.values())

    @torch.inference_mode()
    def fill(self, draft: Draft) -> None:
        """Write the logits and the hidden states of all rows.

        Raises:
            UserError: they are larger than the limit, or the disk is full; the rows are padded; hidden states do not
                fit float16.
        """
        arrays = draft.arrays(self.arrays)
        with evaluating([self.teacher]):
            for numbers in self._batches():
                ran = self._run(numbers)
                for name, block in (self._logits(*ran) | self._states(*ran)).items():
                    arrays[name][self._places(name, numbers)] = block
                    release_pages(arrays[name])
                if self.after_batch is not None:
                    self.after_batch()

    def _batches(self) -> Iterator[np.ndarray]:
        """The numbers of the rows of each batch, whose last row is its longest: fewer rows where they are long."""
        lengths, first = np.diff(self.starts)[self.order], 0
        while first < len(self.order):
            count = min(self.batch, len(self.order) - first)
            while count > 1 and count * lengths[first + count - 1] > MOST_TOKENS:
                count -= count // 2
            yield self.order[first : first + count]
            first += count

    def _length(self, name: str) -> int:
        """The number of entries of an array: rows, tokens, or tokens of targets."""
        return len(self.rows) if name in OF_ROWS else int(self._starts_of(name)[-1])

    def _places(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """The places of these rows' entries in an array."""
        return numbers if name in OF_ROWS else places_of(self._starts_of(name), numbers)

    def _starts_of(self, name: str) -> np.ndarray:
        if self.target_starts is not None and name in (PER_TARGET_TOKEN, TARGET_STATES):
            return self.target_starts
        return self.starts

    def _run(self, numbers: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """The teacher's outputs for a batch of rows, and which tokens of its inputs and of its targets are real.

        Raises:
            UserError: the rows are padded.
        """
        inputs, target = self._inputs(numbers)
        mask = inputs.get("attention_mask")
        real = np.ones((len(numbers), self.starts[1]), bool) if mask is None else mask.cpu().numpy() > 0
        _check_unpadded(real, self.starts, numbers)
        if target is not None:
            _check_unpadded(target, self._starts_of(PER_TARGET_TOKEN), numbers)
        return self._forward(inputs), real, target

    def _forward(self, inputs: Mapping[str, Tensor]) -> Any:
        on_device = {name: value.to(self.teacher.device) for name, value in inputs.items()}
        with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.bf16):
            return self.teacher(**on_device, output_hidden_states=bool(self.layers or self.target_layers))

    def _logits(self, outputs: Any, real: np.ndarray, target: np.ndarray | None) -> dict[str, np.ndarray]:
        """The logits of a batch in float32, by the name of their array."""
        return _logits(outputs, real) if target is None else {PER_TARGET_TOKEN: _floats(outputs.logits)[target]}

    def _states(self, outputs: Any, real: np.ndarray, target: np.ndarray | None) -> dict[str, np.ndarray]:
        """The hidden states of a batch, at the real tokens of its inputs and targets, by the name of their array."""
        entries = {}
        if self.layers:
            states = outputs.hidden_states if target is None else outputs.encoder_hidden_states
            entries[STATES] = _states(states, self.layers, real)
        if self.target_layers and target is not None:
            entries[TARGET_STATES] = _states(outputs.decoder_hidden_states, self.target_layers, target)
        return entries

    def _inputs(self, numbers: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """The model's inputs for these rows, and `(batch, tokens)` bool: which tokens of their targets are real."""
        collated = self.collate([self.rows[int(number)] for number in numbers])
        inputs = {name: value for name, value in collated.items() if name not in ("labels", INDEX)}
        inputs = without_unread_types(inputs, self.teacher)
        decoded = decoder_inputs(self.teacher, collated["labels"]) if self.target_starts is not None else None
        if decoded is None:
            return inputs, None
        return inputs | {"decoder_input_ids": decoded}, collated["labels"].cpu().numpy() != UNLABELLED


def _check_unpadded(real: np.ndarray, starts: np.ndarray, numbers: np.ndarray) -> None:
    """Refuse rows with other tokens than those that the attention mask of their batch marks as real."""
    if not np.array_equal(real.sum(axis=1), np.diff(starts)[numbers]):
        raise UserError(
            "rows for a cached teacher have padding, or tokens that their attention mask hides: give them unpadded"
        )


def _states(states: Sequence[Tensor], layers: Sequence[int], real: np.ndarray) -> np.ndarray:
    """`(real tokens, layers, dims)` in float16, of states `(batch, tokens, dims)` by layer.

    Raises:
        UserError: a value is beyond the range of float16.
    """
    chosen = torch.stack([states[layer].half() for layer in layers], dim=2)
    if not chosen.isfinite().all():
        raise UserError("the teacher's hidden states do not fit float16: turn the cache off, or match other layers")
    return chosen.cpu().numpy()[real]


def _logits(outputs: Any, real: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of a batch in float32, by the name of their array; start and end of an answer are two labels.

    Those of a model without logits are its vectors of the texts; a bare encoder has neither.
    """
    if (vectors := getattr(outputs, "sentence_embedding", None)) is not None:
        return {SENTENCES: _floats(vectors)}
    if getattr(outputs, "start_logits", None) is not None:
        return {POSITIONS: _floats(torch.stack([outputs.start_logits, outputs.end_logits], dim=-1))[real]}
    if getattr(outputs, "logits", None) is None:
        return {}
    logits = _floats(outputs.logits)
    return {PER_ROW: logits} if logits.ndim == 2 else {PER_TOKEN: logits[real]}


def _floats(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def _row_chunks(rows: Rows, columns: Iterable[str]) -> Iterator[Any]:
    """The values of these columns, in alphabetical order, as far as the rows have them, for a fingerprint."""
    for name in sorted(set(columns) & rows[0].keys()):
        for values in _column([row[name] for row in rows]):
            yield f"{name} {values.dtype} {len(values)}"
            yield values.tobytes()


def _column(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """The numbers of a column, row after row, and how many each row has if they are lists."""
    if not hasattr(values[0], "__len__"):
        return (np.array(values),)
    return np.array(list(chain.from_iterable(values))), np.array([len(value) for value in values])
