"""A frozen teacher's outputs, computed once and read back: a deterministic teacher need not run every epoch.

Only for data that is the same every epoch. Logits are kept in float32, of a row or of each of its real tokens; hidden
states of the layers asked for in float16, real tokens only: `2 x tokens x layers x dims` bytes. Both are memory-mapped,
under a key made of the model, its weights and the rows, and all that a folder keeps is within a stated bound (`store`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import UserError
from secateur.store import Draft, Store

PER_ROW, PER_TOKEN, ENDS = "logits", "token_logits", "start_and_end_logits"
"""What the array of logits is called: `(rows, labels)`, `(tokens of all rows, labels)`, or `(tokens ..., 2)`."""
STATES = "states"
"""What the array of hidden states is called, `(tokens of all rows, layers, dims)`."""
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
    cached layers, `hidden_states[layer]` `(batch, tokens, dims)`; zeros at padding.
    """

    def __init__(self, config: Any, arrays: Mapping[str, np.ndarray], starts: np.ndarray, layers: Sequence[int]):
        self.config, self.starts = config, starts
        self.states = arrays[STATES]
        ((self.name, self.logits),) = ((name, array) for name, array in arrays.items() if name != STATES)
        self.layers = {layer: place for place, layer in enumerate(layers)}

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel,
        rows: Rows,
        collate: Collate,
        folder: Path | str,
        *,
        layers: Sequence[int] = (),
        batch: int = 128,
        bf16: bool = False,
        limit_gb: float = 8.0,
    ) -> CachedTeacher:
        """Run the teacher over `rows` once, in order of length, or read back what an earlier run left in `folder`.

        Raises:
            UserError: the outputs take more than `limit_gb` (10^9 bytes) on disk, or there is no room for them; the
                collator hides tokens; the states do not fit float16.
        """
        starts = np.concatenate([[0], np.cumsum([len(row["input_ids"]) for row in rows])])
        run = _Run(teacher, rows, collate, starts, layers, batch, bf16)
        arrays = Store(Path(folder), 1e9 * limit_gb, ADVICE).get(run.key(), run.fill)
        return cls(teacher.config, arrays, starts, layers)

    def __call__(
        self, index: Tensor, attention_mask: Tensor, output_hidden_states: bool = False, **inputs: Tensor
    ) -> SimpleNamespace:
        numbers = index.cpu().numpy()
        if self.name == PER_ROW:
            logits = torch.from_numpy(self.logits[numbers]).to(index.device)
        else:
            logits = self._padded(self.logits, numbers, attention_mask)
        answer = SimpleNamespace(**self._named(logits), hidden_states=None)
        if output_hidden_states:
            states = self._padded(self.states, numbers, attention_mask)
            answer.hidden_states = {layer: states[:, :, place] for layer, place in self.layers.items()}
        return answer

    def _named(self, logits: Tensor) -> dict[str, Tensor]:
        """As the model names them."""
        if self.name != ENDS:
            return {"logits": logits}
        start, end = logits.unbind(-1)
        return {"start_logits": start, "end_logits": end}

    def _padded(self, kept: np.ndarray, numbers: np.ndarray, attention_mask: Tensor) -> Tensor:
        """What is `kept` of the tokens of these rows, `(batch, tokens, ...)`."""
        block = np.zeros((*attention_mask.shape, *kept.shape[1:]), kept.dtype)
        firsts = (attention_mask.cpu().numpy() > 0).argmax(axis=1)
        for row, (number, first) in enumerate(zip(numbers, firsts, strict=True)):
            own = kept[self.starts[number] : self.starts[number + 1]]
            block[row, first : first + len(own)] = own
        return torch.from_numpy(block).to(attention_mask.device)


class _Run:
    """One pass of a teacher over rows, and the name of what comes out."""

    def __init__(
        self,
        teacher: PreTrainedModel,
        rows: Rows,
        collate: Collate,
        starts: np.ndarray,
        layers: Sequence[int],
        batch: int,
        bf16: bool,
    ) -> None:
        self.teacher, self.rows, self.collate = teacher.eval(), rows, collate
        self.starts, self.layers, self.batch, self.bf16 = starts, list(layers), batch, bf16
        self.order = np.argsort(np.diff(starts), kind="stable")

    def key(self) -> str:
        """16 hex digits that change with whatever the outputs depend on: model, weights, rows, padding, precision."""
        ends = self._inputs(self.order[[0, -1]])  # of one batch: what the collator adds, and pads with
        config = {name: value for name, value in self.teacher.config.to_dict().items() if name not in IDLE}
        model = json.dumps([type(self.teacher).__qualname__, config], sort_keys=True, default=str)
        digest = hashlib.sha256(f"{LAYOUT} {self.layers} {self.bf16} {model}".encode())
        for name, tensor in chain(self.teacher.state_dict().items(), sorted(ends.items())):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        for name in sorted(ends.keys() & self.rows[0].keys()):
            for values in _column([row[name] for row in self.rows]):
                digest.update(f"{name} {values.dtype} {len(values)}".encode())
                digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def fill(self, draft: Draft) -> None:
        """Write the logits and the hidden states of all rows; batches of similar length, in evaluation mode."""
        tokens = int(self.starts[-1])
        arrays = {STATES: draft.array(STATES, (tokens, len(self.layers), self.teacher.config.hidden_size), "float16")}
        for chosen, real, found in self._answers():
            for name, block in found.items():
                if name not in arrays:
                    count = len(self.rows) if name == PER_ROW else tokens
                    arrays[name] = draft.array(name, (count, *block.shape[-1:]), "float32")
                if name == PER_ROW:
                    arrays[name][chosen] = block
                else:
                    arrays[name][_places(self.starts, chosen)] = block[real]

    def _answers(self) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """Of each batch the rows' numbers, which of its places `(batch, tokens)` are real, and what the teacher says.

        Raises:
            UserError: a row's tokens are not those that its mask shows, or its states do not fit float16.
        """
        for first in range(0, len(self.order), self.batch):
            chosen = self.order[first : first + self.batch]
            given = {name: value.to(self.teacher.device) for name, value in self._inputs(chosen).items()}
            real = given["attention_mask"].cpu().numpy() > 0
            if not np.array_equal(real.sum(axis=1), np.diff(self.starts)[chosen]):
                raise UserError("rows to cache a teacher on show all their tokens: give them unpadded")
            with torch.autocast(self.teacher.device.type, torch.bfloat16, enabled=self.bf16):
                outputs = self.teacher(**given, output_hidden_states=bool(self.layers))
            yield chosen, real, _said(outputs) | self._states(outputs)

    def _states(self, outputs: Any) -> dict[str, np.ndarray]:
        """`(batch, tokens, layers, dims)`, if there are layers to keep."""
        if not self.layers:
            return {}
        states = torch.stack([outputs.hidden_states[layer] for layer in self.layers], dim=2).half()
        if not states.isfinite().all():
            raise UserError("the teacher's hidden states do not fit float16: turn the cache off, or match other layers")
        return {STATES: states.cpu().numpy()}

    def _inputs(self, numbers: np.ndarray) -> dict[str, Tensor]:
        """What the model gets of these rows."""
        collated = self.collate([self.rows[int(number)] for number in numbers])
        return {name: value for name, value in collated.items() if name not in ("labels", INDEX)}


def _said(outputs: Any) -> dict[str, np.ndarray]:
    """The logits of a batch, float32, by the name under which they are kept; start and end as two labels."""
    ends = not hasattr(outputs, "logits")
    said = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1) if ends else outputs.logits
    return {ENDS if ends else (PER_ROW, PER_TOKEN)[said.dim() - 2]: said.float().cpu().numpy()}


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
