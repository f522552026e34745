"""A frozen teacher's outputs, computed once and read back: a deterministic teacher need not run every epoch.

Only for data that is the same every epoch. Logits are kept in float32, of a row, of each of its real tokens or, where
there is a decoder, of each token of its target: `4 x tokens x labels` bytes, which for a vocabulary are many. Hidden
states of the layers asked for are kept in float16, real tokens only: `2 x tokens x layers x dims` bytes. All are
memory-mapped, under a key made of the model, its weights and the rows, and all that a folder keeps is within a stated
bound (`store`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.system.errors import UserError
from secateur.training.array_cache import Draft, Store
from secateur.training.objectives import UNLABELLED

PER_ROW, PER_TOKEN, ENDS, PER_TARGET_TOKEN = "logits", "token_logits", "start_and_end_logits", "target_logits"
"""What the array of logits is called: `(rows, labels)`, `(tokens of all rows, labels)`, `(tokens ..., 2)`, or
`(tokens of all targets, labels)`."""
STATES, TARGET_STATES = "states", "target_states"
"""What arrays of hidden states are called, `(tokens of all rows, layers, dims)`, and of all targets where there are."""
INDEX = "index"
"""The key under which a batch carries its rows' numbers; `PruningTrainer` gives it to the teacher alone."""
LAYOUT = 2
"""Of the arrays: of another one nothing is read."""
IDLE = ("_name_or_path", "problem_type")
"""What a config says that no output depends on: where the model lies, and how its loss is computed."""
ADVICE = "raise the limit, match fewer layers or turn the cache off"

Rows = Sequence[Mapping[str, Any]]
Collate = Callable[[list[Any]], Mapping[str, Tensor]]


class CachedTeacher:
    """Answers like the model that it was made from, for the rows that it has seen.

    Called with `index` `(batch,)` and `attention_mask` `(batch, tokens)`, it gives `logits`, `(batch, labels)` or
    `(batch, tokens, labels)`, or `start_logits` and `end_logits` `(batch, tokens)`, as the model does, and, for the
    cached layers, `hidden_states[layer]` `(batch, tokens, dims)`; zeros at padding. Where there is a decoder it takes
    `decoder_input_ids` too, and gives `encoder_hidden_states` and `decoder_hidden_states`.
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
        ((self.name, self.logits),) = (
            (name, array) for name, array in arrays.items() if name not in (STATES, TARGET_STATES)
        )
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
        """Run the teacher over `rows` once, in order of length, or read back what an earlier run left in `folder`.

        Args:
            teacher: asked in evaluation mode.
            rows: unpadded; where there is a decoder their `labels` are what it reads, one to the right.
            collate: makes a batch of rows.
            folder: where outputs are kept.
            layers: whose hidden states are kept, 0 the embeddings; of an encoder where there is a decoder.
            target_layers: of a decoder.
            batch: rows that the teacher is asked at once.
            bf16: whether it runs under autocast.
            limit_gb: bytes that the folder may take, in 10^9.

        Raises:
            UserError: the outputs take more than `limit_gb` on disk, or there is no room for them; the collator hides
                tokens; the states do not fit float16.
        """
        starts, targets = _starts(rows, "input_ids"), None
        if hasattr(teacher, "prepare_decoder_input_ids_from_labels"):
            targets = _starts(rows, "labels")
        run = _Run(teacher, rows, collate, starts, targets, list(layers), list(target_layers), batch, bf16)
        arrays = Store(Path(folder), 1e9 * limit_gb, ADVICE).get(run.key(), run.fill)
        return cls(teacher.config, arrays, starts, layers, targets, target_layers)

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
            return self._of_both(numbers, attention_mask, decoder_input_ids, output_hidden_states)
        if self.name == PER_ROW:
            logits = torch.from_numpy(self.logits[numbers]).to(index.device)
        else:
            logits = self._padded(self.logits, numbers, attention_mask)
        answer = SimpleNamespace(**self._named(logits), hidden_states=None)
        if output_hidden_states:
            answer.hidden_states = self._by_layer(self._padded(self.states, numbers, attention_mask), self.layers)
        return answer

    def _of_both(self, numbers: np.ndarray, mask: Tensor, targets: Tensor, hidden: bool) -> SimpleNamespace:
        """As a model with an encoder and a decoder answers."""
        answer = SimpleNamespace(logits=self._of_targets(self.logits, numbers, targets))
        if hidden and self.target_states is not None:
            states = self._padded(self.states, numbers, mask)
            answer.encoder_hidden_states = self._by_layer(states, self.layers)
            decoded = self._of_targets(self.target_states, numbers, targets)
            answer.decoder_hidden_states = self._by_layer(decoded, self.target_layers)
        return answer

    def _named(self, logits: Tensor) -> dict[str, Tensor]:
        """As the model names them."""
        if self.name != ENDS:
            return {"logits": logits}
        start, end = logits.unbind(-1)
        return {"start_logits": start, "end_logits": end}

    @staticmethod
    def _by_layer(states: Tensor, layers: Mapping[int, int]) -> dict[int, Tensor]:
        return {layer: states[:, :, place] for layer, place in layers.items()}

    def _padded(self, kept: np.ndarray, numbers: np.ndarray, attention_mask: Tensor) -> Tensor:
        """What is `kept` of the tokens of these rows, `(batch, tokens, ...)`."""
        firsts = (attention_mask.cpu().numpy() > 0).argmax(axis=1)
        return _filled(kept, self.starts, numbers, attention_mask, firsts)

    def _of_targets(self, kept: np.ndarray, numbers: np.ndarray, targets: Tensor) -> Tensor:
        """What is `kept` of the tokens of these rows' targets, `(batch, tokens, ...)`: they are padded on the right."""
        assert self.target_starts is not None
        return _filled(kept, self.target_starts, numbers, targets, np.zeros(len(numbers), int))


def _starts(rows: Rows, name: str) -> np.ndarray:
    """Where each row's tokens start among those of all rows, and where the last one's end, `(rows + 1,)`."""
    return np.concatenate([[0], np.cumsum([len(row[name]) for row in rows])])


def _filled(kept: np.ndarray, starts: np.ndarray, numbers: np.ndarray, like: Tensor, firsts: np.ndarray) -> Tensor:
    """Rows `numbers` of what is `kept` token by token, each from its place in `firsts` on; zeros around them.

    `like` is `(batch, tokens)`, and the result `(batch, tokens, ...)` on its device.
    """
    block = np.zeros((*like.shape, *kept.shape[1:]), kept.dtype)
    for row, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
        own = kept[starts[number] : starts[number + 1]]
        block[row, first : first + len(own)] = own
    return torch.from_numpy(block).to(like.device)


@dataclass(frozen=True)
class _Run:
    """One pass of a teacher over rows, and the name of what comes out.

    `starts` and `targets` are `_starts` of the rows' tokens and of their targets', None without a decoder.
    """

    teacher: PreTrainedModel
    rows: Rows
    collate: Collate
    starts: np.ndarray
    targets: np.ndarray | None
    layers: list[int]
    target_layers: list[int]
    batch: int
    bf16: bool

    @cached_property
    def order(self) -> np.ndarray:
        """The rows' numbers, the shortest first."""
        return np.argsort(np.diff(self.starts), kind="stable")

    def key(self) -> str:
        """16 hex digits that change with whatever the outputs depend on: model, weights, rows, padding, precision."""
        ends, _ = self._inputs(self.order[[0, -1]])  # of one batch: what the collator adds, and pads with
        kept = self.layers if self.targets is None else [self.layers, self.target_layers]
        digest = hashlib.sha256(f"{LAYOUT} {kept} {self.bf16} {fingerprint(self.teacher)}".encode())
        _add(digest, sorted(ends.items()))
        columns = ends.keys() if self.targets is None else {*ends, "labels"}
        for name in sorted(columns & self.rows[0].keys()):
            for values in _column([row[name] for row in self.rows]):
                digest.update(f"{name} {values.dtype} {len(values)}".encode())
                digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def fill(self, draft: Draft) -> None:
        """Write the logits and the hidden states of all rows; batches of similar length, in evaluation mode."""
        arrays, dims = {}, self.teacher.config.hidden_size
        for name, layers in ((STATES, self.layers), (TARGET_STATES, self.target_layers)):
            if name == STATES or self.targets is not None:
                arrays[name] = draft.array(name, (self._tokens(name), len(layers), dims), "float16")
        for chosen, found in self._answers():
            for name, block in found.items():
                if name not in arrays:
                    arrays[name] = draft.array(name, (self._tokens(name), *block.shape[-1:]), "float32")
                arrays[name][self._places(name, chosen)] = block

    def _tokens(self, name: str) -> int:
        """How many there are, of all rows, of what an array is kept by: tokens, tokens of targets, or rows."""
        if name == PER_ROW:
            return len(self.rows)
        return int(self._starts_of(name)[-1])

    def _places(self, name: str, chosen: np.ndarray) -> np.ndarray:
        """Where what is kept of these rows lies in an array."""
        return chosen if name == PER_ROW else _places(self._starts_of(name), chosen)

    def _starts_of(self, name: str) -> np.ndarray:
        return self.targets if name in (PER_TARGET_TOKEN, TARGET_STATES) and self.targets is not None else self.starts

    def _answers(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Of each batch the rows' numbers, and what the teacher says of their real tokens, end to end.

        Raises:
            UserError: a row's tokens are not those that its mask shows, or its states do not fit float16.
        """
        self.teacher.eval()
        for first in range(0, len(self.order), self.batch):
            chosen = self.order[first : first + self.batch]
            inputs, target = self._inputs(chosen)
            given = {name: value.to(self.teacher.device) for name, value in inputs.items()}
            real = inputs["attention_mask"].cpu().numpy() > 0
            self._check_shown(real, self.starts, chosen)
            with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.bf16):
                outputs = self.teacher(**given, output_hidden_states=bool(self.layers or self.target_layers))
            if target is None:
                states = {STATES: _states(outputs.hidden_states, self.layers, real)} if self.layers else {}
                yield chosen, _said(outputs, real) | states
            else:
                self._check_shown(target, self._starts_of(PER_TARGET_TOKEN), chosen)
                yield chosen, self._decoded(outputs, real, target)

    def _decoded(self, outputs: Any, real: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """What a teacher with a decoder says, of real tokens and of those of targets."""
        found = {PER_TARGET_TOKEN: outputs.logits.float().cpu().numpy()[target]}
        if self.layers:
            found[STATES] = _states(outputs.encoder_hidden_states, self.layers, real)
        if self.target_layers:
            found[TARGET_STATES] = _states(outputs.decoder_hidden_states, self.target_layers, target)
        return found

    def _check_shown(self, real: np.ndarray, starts: np.ndarray, chosen: np.ndarray) -> None:
        if not np.array_equal(real.sum(axis=1), np.diff(starts)[chosen]):
            raise UserError("rows to cache a teacher on show all their tokens: give them unpadded")

    def _inputs(self, numbers: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray | None]:
        """What the model gets of these rows, and which places `(batch, tokens)` of their targets are real."""
        collated = self.collate([self.rows[int(number)] for number in numbers])
        inputs = {name: value for name, value in collated.items() if name not in ("labels", INDEX)}
        if self.targets is None:
            return inputs, None
        labels, teacher = collated["labels"], cast(Any, self.teacher)
        inputs["decoder_input_ids"] = teacher.prepare_decoder_input_ids_from_labels(labels)
        return inputs, labels.cpu().numpy() != UNLABELLED


def fingerprint(model: PreTrainedModel) -> str:
    """64 hex digits that change with whatever a model's outputs depend on: its kind, its config and its weights."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in IDLE}
    digest = hashlib.sha256(json.dumps([type(model).__qualname__, config], sort_keys=True, default=str).encode())
    _add(digest, model.state_dict().items())
    return digest.hexdigest()


def _add(digest: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Names, types, shapes and bytes."""
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _states(states: Sequence[Tensor], layers: Sequence[int], real: np.ndarray) -> np.ndarray:
    """`(real tokens, layers, dims)` in float16, of states `(batch, tokens, dims)` by layer.

    Raises:
        UserError: they do not fit.
    """
    found = torch.stack([states[layer] for layer in layers], dim=2).half()
    if not found.isfinite().all():
        raise UserError("the teacher's hidden states do not fit float16: turn the cache off, or match other layers")
    return found.cpu().numpy()[real]


def _said(outputs: Any, real: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of a batch, float32, by the name under which they are kept; start and end as two labels."""
    ends = not hasattr(outputs, "logits")
    said = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1) if ends else outputs.logits
    name, block = ENDS if ends else (PER_ROW, PER_TOKEN)[said.dim() - 2], said.float().cpu().numpy()
    return {name: block if name == PER_ROW else block[real]}


def _places(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Where the tokens of these rows are among those of all rows, row by row."""
    lengths = starts[numbers + 1] - starts[numbers]
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts[numbers] - before, lengths)


def _column(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """All of one column: its numbers end to end, and how many each row has."""
    if not hasattr(values[0], "__len__"):
        return (np.array(values),)
    return np.array(list(chain.from_iterable(values))), np.array([len(value) for value in values])
