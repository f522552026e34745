"""A frozen teacher's outputs, computed once and read back: it then need not run in every epoch.

This needs data that is the same in every epoch. Logits are kept in float32 of each row, of each of its real tokens or,
for a model with a decoder, of each token of its target: `4 x tokens x labels` bytes, which is much for a vocabulary.
Hidden states of the layers that terms ask for are kept in float16, of real tokens only: `2 x tokens x layers x dims`
bytes. All are memory-mapped, under a key made of the model, its weights and the rows, within a size limit
(`array_cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.structure.fingerprints import model_fingerprint, tensor_chunks
from secateur.system.errors import UserError
from secateur.system.files import fingerprint
from secateur.training.array_cache import ArrayCache, Draft
from secateur.training.step import UNLABELLED, decoder_inputs, has_decoder

PER_ROW, PER_TOKEN, POSITIONS, PER_TARGET_TOKEN = "logits", "token_logits", "start_and_end_logits", "target_logits"
"""The name of the array of logits: `(rows, labels)`, `(tokens of all rows, labels)`, `(tokens of all rows, 2)` for the
start and the end of an answer, or `(tokens of all targets, labels)`."""
STATES, TARGET_STATES = "states", "target_states"
"""The names of the arrays of hidden states, `(tokens of all rows, layers, dims)`, and of those of all targets."""
INDEX = "index"
"""The key under which a batch carries the numbers of its rows; `PruningTrainer` passes it to the teacher only."""
LAYOUT = 2
"""The version of the arrays' layout: it is part of the key, so that arrays of another layout are not read."""
ADVICE = "raise the limit, match fewer layers or turn the cache off"

Rows = Sequence[Mapping[str, Any]]
Collate = Callable[[list[Any]], Mapping[str, Tensor]]


class CachedTeacher:
    """Is called like the model that it was made from and returns its outputs, for the rows of the cache.

    Called with `index` `(batch,)` and `attention_mask` `(batch, tokens)`, it returns `logits`, `(batch, labels)` or
    `(batch, tokens, labels)`, or `start_logits` and `end_logits` `(batch, tokens)`, as the model does, and, for the
    cached layers, `hidden_states[layer]` `(batch, tokens, dims)`; zeros at padding. For a model with a decoder it also
    takes `decoder_input_ids`, and returns `encoder_hidden_states` and `decoder_hidden_states`.
    """

    def __init__(
        self,
        config: Any,
        arrays: Mapping[str, np.ndarray],
        starts: np.ndarray,
        layers: Sequence[int],
        target_starts: np.ndarray | None = None,
        target_layers: Sequence[int] = (),
    ) -> None:
        self.config, self.starts, self.target_starts = config, starts, target_starts
        self.states, self.target_states = arrays[STATES], arrays.get(TARGET_STATES)
        (self.name,) = arrays.keys() - {STATES, TARGET_STATES}
        self.logits = arrays[self.name]
        self.layers = {layer: place for place, layer in enumerate(layers)}
        self.target_layers = {layer: place for place, layer in enumerate(target_layers)}

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel,
        rows: Rows,
        collate: Collate,
        folder: Path | str,
        *,
        layers: Sequence[int] = (),
        target_layers: Sequence[int] = (),
        batch: int = 128,
        bf16: bool = False,
        limit_gb: float = 8.0,
    ) -> CachedTeacher:
        """Run the teacher over `rows` once, or read back what an earlier run left in `folder`.

        Args:
            teacher: is run in evaluation mode.
            rows: unpadded; for a model with a decoder their `labels` are what it reads, shifted right.
            collate: makes a batch of rows.
            folder: of the cache.
            layers: whose hidden states are kept, 0 the embeddings; of the encoder if there is a decoder.
            target_layers: of the decoder.
            batch: rows of a batch.
            bf16: whether the teacher runs under autocast.
            limit_gb: what the cache may take on disk, in 10^9 bytes.

        Raises:
            UserError: the outputs take more than `limit_gb` on disk, or there is no space for them; the rows are
                padded; the states do not fit float16.
        """
        starts = _starts(rows, "input_ids")
        target_starts = _starts(rows, "labels") if has_decoder(teacher) else None
        run = _TeacherRun(teacher, rows, collate, starts, target_starts, list(layers), list(target_layers), batch, bf16)
        arrays = ArrayCache(Path(folder), 1e9 * limit_gb, ADVICE).get(run.key(), run.fill)
        return cls(teacher.config, arrays, starts, layers, target_starts, target_layers)

    def __call__(
        self,
        index: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        decoder_input_ids: Tensor | None = None,
        **inputs: Tensor,
    ) -> SimpleNamespace:
        numbers = index.cpu().numpy()
        if decoder_input_ids is not None:
            return self._with_decoder(numbers, attention_mask, decoder_input_ids, output_hidden_states)
        outputs = SimpleNamespace(**self._logits(numbers, attention_mask), hidden_states=None)
        if output_hidden_states:
            outputs.hidden_states = self._by_layer(self._padded(self.states, numbers, attention_mask), self.layers)
        return outputs

    def _with_decoder(self, numbers: np.ndarray, mask: Tensor, targets: Tensor, hidden: bool) -> SimpleNamespace:
        """The outputs of a model with an encoder and a decoder."""
        outputs = SimpleNamespace(logits=self._padded_targets(self.logits, numbers, targets))
        if hidden and self.target_states is not None:
            states = self._padded(self.states, numbers, mask)
            outputs.encoder_hidden_states = self._by_layer(states, self.layers)
            decoded = self._padded_targets(self.target_states, numbers, targets)
            outputs.decoder_hidden_states = self._by_layer(decoded, self.target_layers)
        return outputs

    def _logits(self, numbers: np.ndarray, mask: Tensor) -> dict[str, Tensor]:
        """Logits by the name that the model's outputs give them."""
        if self.name == PER_ROW:
            return {"logits": torch.from_numpy(self.logits[numbers]).to(mask.device)}
        logits = self._padded(self.logits, numbers, mask)
        if self.name != POSITIONS:
            return {"logits": logits}
        start, end = logits.unbind(-1)
        return {"start_logits": start, "end_logits": end}

    @staticmethod
    def _by_layer(states: Tensor, layers: Mapping[int, int]) -> dict[int, Tensor]:
        return {layer: states[:, :, place] for layer, place in layers.items()}

    def _padded(self, array: np.ndarray, numbers: np.ndarray, mask: Tensor) -> Tensor:
        """The entries of these rows' tokens, `(batch, tokens, ...)`, where `mask` shows the tokens."""
        firsts = (mask.cpu().numpy() > 0).argmax(axis=1)
        return _filled(array, self.starts, numbers, mask, firsts)

    def _padded_targets(self, array: np.ndarray, numbers: np.ndarray, targets: Tensor) -> Tensor:
        """The entries of the tokens of these rows' targets, `(batch, tokens, ...)`, which are padded on the right."""
        assert self.target_starts is not None
        return _filled(array, self.target_starts, numbers, targets, np.zeros(len(numbers), int))


def _starts(rows: Rows, name: str) -> np.ndarray:
    """`(rows + 1,)`: where each row's tokens start among those of all rows, and where the last one's end."""
    return np.concatenate([[0], np.cumsum([len(row[name]) for row in rows])])


def _filled(array: np.ndarray, starts: np.ndarray, numbers: np.ndarray, like: Tensor, firsts: np.ndarray) -> Tensor:
    """Entries of rows' tokens, padded with zeros.

    Args:
        array: `(tokens of all rows, ...)`.
        starts: as of `_starts`.
        numbers: `(batch,)`, of the rows.
        like: `(batch, tokens)`, whose shape and device the result has.
        firsts: `(batch,)`, the position of each row's first token.

    Returns:
        `(batch, tokens, ...)`.
    """
    block = np.zeros((*like.shape, *array.shape[1:]), array.dtype)
    for row, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
        entries = array[starts[number] : starts[number + 1]]
        block[row, first : first + len(entries)] = entries
    return torch.from_numpy(block).to(like.device)


@dataclass(frozen=True)
class _TeacherRun:
    """One pass of a teacher over rows, and the key of its outputs.

    Attributes:
        starts: as of `_starts`, of `input_ids`.
        target_starts: of `labels`; None without a decoder.
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

    @cached_property
    def order(self) -> np.ndarray:
        """The rows' numbers, the shortest first: batches then have little padding."""
        return np.argsort(np.diff(self.starts), kind="stable")

    def key(self) -> str:
        """16 hex digits that depend on all that the outputs depend on: model, weights, rows, padding, precision."""
        return fingerprint(self._identity())

    def _identity(self) -> Iterator[Any]:
        ends, _ = self._inputs(self.order[[0, -1]])  # one batch, for what the collator adds and pads with
        layers = self.layers if self.target_starts is None else [self.layers, self.target_layers]
        yield f"{LAYOUT} {layers} {self.bf16} {model_fingerprint(self.teacher)}"
        yield from tensor_chunks(sorted(ends.items()))
        columns = ends.keys() if self.target_starts is None else {*ends, "labels"}
        for name in sorted(columns & self.rows[0].keys()):
            for values in _column([row[name] for row in self.rows]):
                yield f"{name} {values.dtype} {len(values)}"
                yield values.tobytes()

    @torch.inference_mode()
    def fill(self, draft: Draft) -> None:
        """Write the logits and the hidden states of all rows."""
        arrays, dims = {}, self.teacher.config.hidden_size
        for name, layers in ((STATES, self.layers), (TARGET_STATES, self.target_layers)):
            if name == STATES or self.target_starts is not None:
                arrays[name] = draft.array(name, (self._length(name), len(layers), dims), "float16")
        for numbers, outputs in self._outputs():
            for name, block in outputs.items():
                if name not in arrays:
                    arrays[name] = draft.array(name, (self._length(name), *block.shape[-1:]), "float32")
                arrays[name][self._places(name, numbers)] = block

    def _length(self, name: str) -> int:
        """The number of entries of an array: rows, tokens, or tokens of targets."""
        return len(self.rows) if name == PER_ROW else int(self._starts_of(name)[-1])

    def _places(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """The places of these rows' entries in an array."""
        return numbers if name == PER_ROW else _places(self._starts_of(name), numbers)

    def _starts_of(self, name: str) -> np.ndarray:
        if self.target_starts is not None and name in (PER_TARGET_TOKEN, TARGET_STATES):
            return self.target_starts
        return self.starts

    def _outputs(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """For each batch the numbers of its rows, and the entries of each array, end to end.

        Raises:
            UserError: the rows are padded, or hidden states do not fit float16.
        """
        self.teacher.eval()
        for first in range(0, len(self.order), self.batch):
            numbers = self.order[first : first + self.batch]
            inputs, target = self._inputs(numbers)
            real = inputs["attention_mask"].cpu().numpy() > 0
            _check_unpadded(real, self.starts, numbers)
            outputs = self._forward(inputs)
            if target is None:
                states = {STATES: _states(outputs.hidden_states, self.layers, real)} if self.layers else {}
                yield numbers, _logits(outputs, real) | states
            else:
                _check_unpadded(target, self._starts_of(PER_TARGET_TOKEN), numbers)
                yield numbers, self._decoder_outputs(outputs, real, target)

    def _forward(self, inputs: Mapping[str, Tensor]) -> Any:
        on_device = {name: value.to(self.teacher.device) for name, value in inputs.items()}
        with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.bf16):
            return self.teacher(**on_device, output_hidden_states=bool(self.layers or self.target_layers))

    def _decoder_outputs(self, outputs: Any, real: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The entries of a batch of a teacher with a decoder, at the real tokens of inputs and targets."""
        entries = {PER_TARGET_TOKEN: outputs.logits.float().cpu().numpy()[target]}
        if self.layers:
            entries[STATES] = _states(outputs.encoder_hidden_states, self.layers, real)
        if self.target_layers:
            entries[TARGET_STATES] = _states(outputs.decoder_hidden_states, self.target_layers, target)
        return entries

    def _inputs(self, numbers: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """The model's inputs for these rows, and `(batch, tokens)` bool, which tokens of their targets are real."""
        collated = self.collate([self.rows[int(number)] for number in numbers])
        inputs = {name: value for name, value in collated.items() if name not in ("labels", INDEX)}
        decoded = decoder_inputs(self.teacher, collated["labels"]) if self.target_starts is not None else None
        if decoded is None:
            return inputs, None
        return inputs | {"decoder_input_ids": decoded}, collated["labels"].cpu().numpy() != UNLABELLED


def _check_unpadded(real: np.ndarray, starts: np.ndarray, numbers: np.ndarray) -> None:
    """Refuse rows whose tokens are not those that the mask of their batch shows."""
    if not np.array_equal(real.sum(axis=1), np.diff(starts)[numbers]):
        raise UserError("rows to cache a teacher on show all their tokens: give them unpadded")


def _states(states: Sequence[Tensor], layers: Sequence[int], real: np.ndarray) -> np.ndarray:
    """`(real tokens, layers, dims)` in float16, of states `(batch, tokens, dims)` by layer.

    Raises:
        UserError: they do not fit.
    """
    chosen = torch.stack([states[layer] for layer in layers], dim=2).half()
    if not chosen.isfinite().all():
        raise UserError("the teacher's hidden states do not fit float16: turn the cache off, or match other layers")
    return chosen.cpu().numpy()[real]


def _logits(outputs: Any, real: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of a batch in float32, by the name of their array; start and end of an answer are two labels."""
    if not hasattr(outputs, "logits"):
        ends = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
        return {POSITIONS: ends.float().cpu().numpy()[real]}
    logits = outputs.logits.float().cpu().numpy()
    return {PER_ROW: logits} if logits.ndim == 2 else {PER_TOKEN: logits[real]}


def _places(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The places of these rows' tokens among those of all rows, row by row."""
    lengths = starts[numbers + 1] - starts[numbers]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts[numbers] - before, lengths)


def _column(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """A column of the rows: its numbers end to end, and how many each row has."""
    if not hasattr(values[0], "__len__"):
        return (np.array(values),)
    return np.array(list(chain.from_iterable(values))), np.array([len(value) for value in values])
