"""A frozen teacher's outputs, computed once and read back: a deterministic teacher need not run every epoch.

Only for data that is the same every epoch. Logits are kept in float32, of a row or of each of its real tokens; hidden
states of the layers asked for in float16, real tokens only, memory-mapped: `2 x tokens x layers x dims` bytes, refused
above a stated bound.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import UserError

LOGITS = "logits.safetensors"
PER_ROW, PER_TOKEN = "logits", "token_logits"
"""What the tensor in that file is called: `(rows, labels)`, or `(tokens of all rows, labels)`."""
INDEX = "index"
"""The key under which a batch carries its rows' numbers; `PruningTrainer` gives it to the teacher alone."""


class CachedTeacher:
    """Answers like the model that it was made from, for the rows that it has seen.

    Called with `index` `(batch,)` and `attention_mask` `(batch, tokens)` (right-padded), it gives `logits`,
    `(batch, labels)` or `(batch, tokens, labels)` as the model does, and, for the cached layers, `hidden_states[layer]`
    `(batch, tokens, dims)`; zeros at padding.
    """

    def __init__(
        self,
        config: Any,
        logits: Tensor,
        states: np.ndarray,
        starts: np.ndarray,
        layers: Sequence[int],
        per_token: bool = False,
    ) -> None:
        self.config = config
        self.logits, self.states, self.starts, self.per_token = logits, states, starts, per_token
        self.layers = {layer: place for place, layer in enumerate(layers)}

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel,
        rows: Sequence[Mapping[str, Any]],
        collate: Callable[[list[Any]], Mapping[str, Tensor]],
        folder: Path | str,
        *,
        layers: Sequence[int] = (),
        batch: int = 128,
        bf16: bool = False,
        limit_gb: float = 8.0,
    ) -> CachedTeacher:
        """Run the teacher over `rows` once, in order of length, or read back what an earlier run left in `folder`.

        Raises:
            UserError: the hidden states would take more than `limit_gb` on disk.
        """
        lengths = np.array([len(row["input_ids"]) for row in rows])
        starts = np.concatenate([[0], lengths.cumsum()])
        shape = (int(starts[-1]), len(layers), teacher.config.hidden_size)
        _check_size(shape, limit_gb)
        place = Path(folder) / _key(teacher, rows, layers, bf16)
        if not place.is_dir():
            Path(folder).mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as partial:
                states = _states(Path(partial), shape, "w+")
                logits = _run(teacher, rows, collate, starts, states, layers, batch, bf16)
                save_file(logits, Path(partial) / LOGITS)
                if not place.is_dir():  # another run may have been faster
                    Path(partial).rename(place)
        ((name, values),) = load_file(place / LOGITS).items()
        return cls(teacher.config, values, _states(place, shape, "r"), starts, layers, name == PER_TOKEN)

    def __call__(
        self, index: Tensor, attention_mask: Tensor, output_hidden_states: bool = False, **inputs: Tensor
    ) -> SimpleNamespace:
        numbers = index.cpu()
        if self.per_token:
            logits = self._padded(self.logits.numpy(), numbers.numpy(), attention_mask)
        else:
            logits = self.logits[numbers].to(index.device)
        answer = SimpleNamespace(logits=logits, hidden_states=None)
        if output_hidden_states:
            states = self._padded(self.states, numbers.numpy(), attention_mask)
            answer.hidden_states = {layer: states[:, :, place] for layer, place in self.layers.items()}
        return answer

    def _padded(self, kept: np.ndarray, numbers: np.ndarray, attention_mask: Tensor) -> Tensor:
        """What is `kept` of the tokens of these rows, `(batch, tokens, ...)`."""
        block = np.zeros((*attention_mask.shape, *kept.shape[1:]), kept.dtype)
        for row, number in enumerate(numbers):
            own = kept[self.starts[number] : self.starts[number + 1]]
            block[row, : len(own)] = own
        return torch.from_numpy(block).to(attention_mask.device)


def _check_size(shape: tuple[int, int, int], limit_gb: float) -> None:
    size = 2 * prod(shape) / 1e9
    if size > limit_gb:
        raise UserError(
            f"caching the teacher's hidden states takes {size:.1f} GB, the limit is {limit_gb:g} GB: raise the limit, "
            "match fewer layers or turn the cache off"
        )


def _key(teacher: PreTrainedModel, rows: Sequence[Mapping[str, Any]], layers: Sequence[int], bf16: bool) -> str:
    """A name for the outputs of these weights on these rows: 16 hex digits."""
    digest = hashlib.sha256(f"{list(layers)} {bf16}".encode())
    for tensor in teacher.state_dict().values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    for row in rows:
        for name in ("input_ids", "token_type_ids"):
            digest.update(np.asarray(row.get(name, ()), np.int32).tobytes() + b";")
    return digest.hexdigest()[:16]


def _states(folder: Path, shape: tuple[int, int, int], mode: Literal["r", "r+", "w+"]) -> np.ndarray:
    if not prod(shape):
        return np.empty(shape, np.float16)
    path = folder / "states.f16"
    if mode == "w+" and hasattr(os, "posix_fallocate"):  # where a full disk is an error; a mapped page would be a crash
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * prod(shape))
        mode = "r+"
    return np.memmap(path, np.float16, mode, shape=shape)


@torch.inference_mode()
def _run(
    teacher: PreTrainedModel,
    rows: Sequence[Mapping[str, Any]],
    collate: Callable[[list[Any]], Mapping[str, Tensor]],
    starts: np.ndarray,
    states: np.ndarray,
    layers: Sequence[int],
    batch: int,
    bf16: bool,
) -> dict[str, Tensor]:
    """Fill `states` and give the logits under their name; batches of similar length, in evaluation mode."""
    labels = teacher.config.num_labels
    if labels is None:
        raise UserError("the teacher's config names no labels: expected a model with a classification head")
    logits: dict[str, Tensor] = {}
    order = np.argsort(np.diff(starts), kind="stable")
    teacher.eval()
    for first in range(0, len(order), batch):
        chosen = order[first : first + batch]
        inputs = collate([rows[int(number)] for number in chosen])
        given = {name: value.to(teacher.device) for name, value in inputs.items() if name not in ("labels", INDEX)}
        with torch.autocast(teacher.device.type, torch.bfloat16, enabled=bf16):
            outputs = teacher(**given, output_hidden_states=bool(layers))
        said = outputs.logits.float().cpu()
        if said.dim() == 2:
            logits.setdefault(PER_ROW, torch.empty(len(rows), labels))[chosen] = said
        else:
            _keep(logits.setdefault(PER_TOKEN, torch.empty(int(starts[-1]), labels)).numpy(), said, chosen, starts)
        if layers:
            stacked = torch.stack([outputs.hidden_states[layer] for layer in layers], dim=2).half().cpu()
            _keep(states, stacked, chosen, starts)
    return logits


def _keep(kept: np.ndarray, block: Tensor, numbers: np.ndarray, starts: np.ndarray) -> None:
    """Put the real tokens of a block `(batch, tokens, ...)` where their rows have their place in `kept`."""
    for row, number in enumerate(numbers):
        own = slice(starts[number], starts[number + 1])
        kept[own] = block[row, : own.stop - own.start].numpy()
