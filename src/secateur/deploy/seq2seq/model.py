"""The two files of an exported encoder-decoder behind `generate` of transformers: greedy search, beams, sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput

from secateur.deploy.seq2seq.graphs import IDS, MASK
from secateur.system.compat import set_attention

Part = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""A file, or a graph: named tensors in, named tensors out."""


class ExportedSeq2Seq(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # both have no types
    """An encoder-decoder whose encoder and whose steps are run elsewhere.

    It generates and is scored as the model that it was exported from. It has no weights, and is not trained or saved.
    """

    config_class = PreTrainedConfig
    main_input_name = "input_ids"
    run_on_cpu = True
    """Its files take and give arrays in the memory of the CPU (`devices.accelerator_for`)."""

    def __init__(self, config: PreTrainedConfig, generation: GenerationConfig, encoder: Part, decoder: Part) -> None:
        """A model of two parts that are open.

        Args:
            config: of the model, for its special tokens and its positions.
            generation: what `generate` does by default.
            encoder: with the inputs and outputs of `graphs.EncoderGraph`.
            decoder: with those of `graphs.DecoderGraph`.
        """
        own = copy.deepcopy(config)
        set_attention(own, "eager")  # there is no attention here: any name will do
        super().__init__(own)
        self.generation_config = generation
        self.encoder = _Encoder(encoder)
        self.decode = decoder
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # `generate` asks where the weights are

    def get_encoder(self, *_: Any, **__: Any) -> nn.Module:
        """What `generate` calls with the source."""
        return self.encoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Logits of the next tokens; the cache, if there is one, is moved on.

        Without `encoder_outputs` the source is encoded first. With `labels` `(batch, tokens)`, -100 where there is
        none, there is a loss, and the decoder reads them after the start token unless it is given something else.
        """
        encoded = self.encoder(input_ids, attention_mask) if encoder_outputs is None else encoder_outputs
        held = {name: value for name, value in encoded.items() if name != STATES}
        own: Any = None if past_key_values is None else past_key_values.self_attention_cache
        if own is not None and own.get_seq_length():
            held |= zip(_past(held), (tensor for one in own.layers for tensor in (one.keys, one.values)), strict=True)
        mask = encoded[STATES][..., 0].long() if attention_mask is None else attention_mask
        ids: Any = decoder_input_ids if decoder_input_ids is not None or labels is None else self._after_start(labels)
        found = self.decode({IDS: ids, MASK: mask, **held})
        logits = found.pop("logits")
        loss = None if labels is None else functional.cross_entropy(logits.transpose(1, 2), labels)
        if own is not None:
            own.layers = _layers(list(found.values()))
        return Seq2SeqLMOutput(loss=loss, logits=logits, past_key_values=past_key_values)

    def _after_start(self, labels: Tensor) -> Tensor:
        """The tokens that the decoder reads when it is to write `labels`."""
        before = labels.roll(1, dims=1).masked_fill(labels.roll(1, dims=1) < 0, self.config.pad_token_id)
        before[:, 0] = self.generation_config.decoder_start_token_id
        return before


STATES = "last_hidden_state"
"""What `generate` expects of an encoder; here a mask of the source `(batch, tokens, 1)`, which is not read."""


class _Encoder(nn.Module):
    """The encoder as `generate` calls it: its outputs are repeated for the beams, as those of any encoder."""

    main_input_name = "input_ids"

    def __init__(self, run: Part) -> None:
        super().__init__()
        self.run = run

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> ModelOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        found = self.run({"input_ids": input_ids, "attention_mask": mask})
        return ModelOutput({STATES: mask[..., None].float(), **found})


def as_tensors(run: Callable[[Mapping[str, np.ndarray]], list[np.ndarray]], outputs: tuple[str, ...]) -> Part:
    """A file that is open in a runtime, with tensors in place of arrays."""

    def part(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = run({name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(outputs, arrays, strict=True)}

    return part


def _past(held: Mapping[str, Tensor]) -> list[str]:
    """The names of the cache of self-attention, in order."""
    return [name for name in held if name.startswith("past.")]


def _layers(present: list[Tensor]) -> list[DynamicLayer]:
    """Keys and values in turn as the layers of a cache, which `generate` sorts by beam."""
    layers = []
    for keys, values in zip(present[::2], present[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        layers.append(layer)
    return layers
