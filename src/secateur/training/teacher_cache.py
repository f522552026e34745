"""A frozen teacher's outputs, computed once and read back, so that it does not run in every epoch.

This needs rows that are the same in every epoch. Logits are kept in float32 for each row, for each of its real tokens
or, for a model with a decoder, for each token of its target: `4 x tokens x labels` bytes, which is a lot for a
vocabulary. Hidden states of the layers that terms read are kept in float16, for real tokens only: `2 x tokens x layers
x dims` bytes. All arrays are memory-mapped. Their key is computed from the model, its weights and the rows, and their
size is limited (`array_cache`).

In place of logits, a model that returns a vector of each text has these in float32, `4 x dims` bytes a row. Of a bare
encoder, which returns neither, hidden states alone are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.training.array_cache import ArrayCache, release_pages
from secateur.training.ragged import padded
from secateur.training.teacher_run import OF_ROWS, PER_ROW, POSITIONS, STATES, TARGET_STATES, Collate, Rows, TeacherRun

ADVICE = "raise the limit, match fewer layers or turn the cache off"


class CachedTeacher:
    """The cached outputs of a teacher, called like the model for the rows of the cache.

    Called with `index` `(batch,)` and `attention_mask` `(batch, tokens)`, or without it for images, it returns
    `logits`, `(batch, labels)` or `(batch, tokens, labels)`, or `start_logits` and `end_logits` `(batch, tokens)`, or
    `sentence_embedding` `(batch, dims)`, as far as the model does, and, for the cached layers, `hidden_states[layer]`
    `(batch, tokens, dims)`; zeros at padding. For a model with a decoder it also takes `decoder_input_ids`, and returns
    `encoder_hidden_states` and `decoder_hidden_states`.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        arrays: Mapping[str, np.ndarray],
        starts: np.ndarray,
        layers: Sequence[int],
        target_starts: np.ndarray | None = None,
        target_layers: Sequence[int] = (),
    ) -> None:
        self.config, self.starts, self.target_starts = config, starts, target_starts
        self.states, self.target_states = arrays[STATES], arrays.get(TARGET_STATES)
        self.name = next(iter(arrays.keys() - {STATES, TARGET_STATES}), None)
        self.logits = None if self.name is None else arrays[self.name]
        self.layers = {layer: place for place, layer in enumerate(layers)}
        self.target_layers = {layer: place for place, layer in enumerate(target_layers)}

    @property
    def arrays(self) -> list[np.ndarray]:
        """All arrays."""
        return [array for array in (self.logits, self.states, self.target_states) if array is not None]

    @property
    def nbytes(self) -> int:
        """The size of the arrays."""
        return sum(array.nbytes for array in self.arrays)

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
        """Run the teacher over `rows` once, or read the outputs that an earlier run has left in `folder`.

        Args:
            teacher: it runs in evaluation mode.
            rows: unpadded; a decoder reads their `labels`, shifted right.
            collate: makes a batch of rows.
            folder: of the cache.
            layers: whose hidden states are kept, 0 for the embeddings; of the encoder if there is a decoder.
            target_layers: as `layers`, of the decoder.
            batch: rows of a batch.
            bf16: whether the teacher runs under autocast.
            limit_gb: the largest size of the cache on disk, in 10^9 bytes.

        Raises:
            UserError: the outputs take more than `limit_gb`, or the disk is full; the rows are padded; hidden states
                are beyond the range of float16; the teacher has neither logits nor vectors, and no layers are named.
        """
        return cls.of_run(TeacherRun.of(teacher, rows, collate, layers, target_layers, batch, bf16), folder, limit_gb)

    @classmethod
    def of_run(cls, run: TeacherRun, folder: Path | str, limit_gb: float, key: str | None = None) -> CachedTeacher:
        """As `of`, for a pass that is described already.

        Args:
            key: of the run, where another process has the teacher's weights.
        """
        arrays = ArrayCache(Path(folder), 1e9 * limit_gb, ADVICE).get(key or run.key(), run.fill)
        return cls(run.teacher.config, arrays, run.starts, run.layers, run.target_starts, run.target_layers)

    def __call__(
        self,
        index: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        decoder_input_ids: Tensor | None = None,
        **inputs: Tensor,
    ) -> SimpleNamespace:
        numbers = index.cpu().numpy()
        if attention_mask is None:
            attention_mask = index.new_ones(len(numbers), int(self.starts[1]))
        if decoder_input_ids is not None:
            outputs = self._with_decoder(numbers, attention_mask, decoder_input_ids, output_hidden_states)
        else:
            outputs = self._of_one_stack(numbers, attention_mask, output_hidden_states)
        for array in self.arrays:
            release_pages(array)
        return outputs

    def _of_one_stack(self, numbers: np.ndarray, attention_mask: Tensor, hidden: bool) -> SimpleNamespace:
        """The outputs of a model without a decoder."""
        outputs = SimpleNamespace(**self._logits(numbers, attention_mask), hidden_states=None)
        if hidden:
            outputs.hidden_states = self._by_layer(self._padded(self.states, numbers, attention_mask), self.layers)
        return outputs

    def _with_decoder(self, numbers: np.ndarray, mask: Tensor, targets: Tensor, hidden: bool) -> SimpleNamespace:
        """The outputs of a model with an encoder and a decoder."""
        assert self.logits is not None  # a model that generates has logits
        outputs = SimpleNamespace(logits=self._padded_targets(self.logits, numbers, targets))
        if hidden and self.target_states is not None:
            states = self._padded(self.states, numbers, mask)
            outputs.encoder_hidden_states = self._by_layer(states, self.layers)
            decoded = self._padded_targets(self.target_states, numbers, targets)
            outputs.decoder_hidden_states = self._by_layer(decoded, self.target_layers)
        return outputs

    def _logits(self, numbers: np.ndarray, mask: Tensor) -> dict[str, Tensor]:
        """The logits by their names in the outputs of the model; none of a bare encoder."""
        if self.logits is None:
            return {}
        if self.name in OF_ROWS:
            name = "logits" if self.name == PER_ROW else "sentence_embedding"
            return {name: torch.from_numpy(self.logits[numbers]).to(mask.device)}
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
        return padded(array, self.starts, numbers, mask, firsts)

    def _padded_targets(self, array: np.ndarray, numbers: np.ndarray, targets: Tensor) -> Tensor:
        """The entries of the tokens of these rows' targets, `(batch, tokens, ...)`, which are padded on the right."""
        assert self.target_starts is not None
        return padded(array, self.target_starts, numbers, targets, np.zeros(len(numbers), int))
