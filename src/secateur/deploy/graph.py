"""A model as a function of arrays, which exporters and compilers trace, and its input arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.deploy.graph_masks import make_masks_of_tokens
from secateur.structure.fingerprints import weights_fingerprint
from secateur.structure.images import PIXELS, ImageShape, image_shape
from secateur.system.casting import cast
from secateur.system.errors import UserError

Batch = Mapping[str, Tensor]

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Signature:
    """The arrays that a traced function takes and returns.

    Attributes:
        inputs: name -> an example, none of whose free sizes is 1; in the order of the function's arguments.
        outputs: names, in order.
        free: name of an input or output -> the names of those of its axes that may have any size.
    """

    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]]


def inference_copy(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """A copy of the model in a dtype, every module in evaluation mode, without gradients."""
    twin: PreTrainedModel = copy.deepcopy(model)
    cast(twin, TORCH_DTYPES[dtype])
    return twin.eval().requires_grad_(False)


class Graph(nn.Module):
    """A model as a function of arrays, its outputs as float32: what every exporter and compiler traces.

    The mask is that of the tokens, `(batch, tokens)` of 0 and 1; those of attention are made of it in the graph.
    Token types are an input of any model, for its tokenizer may give some; a model that has none does not read them.
    """

    def __init__(self, model: PreTrainedModel, dtype: str = "fp32") -> None:
        super().__init__()
        # The exporter sets the mode of all modules to that of the outermost one. Without a copy, the caller's model
        # would come back in training mode, with dropout, and then differ from its export.
        self.model = inference_copy(model, dtype)
        make_masks_of_tokens(self.model)
        self.typed = "token_type_ids" in input_names(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        types = {"token_type_ids": token_type_ids} if self.typed and token_type_ids is not None else {}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
        return tuple(value.float() for value in outputs.values() if isinstance(value, Tensor))

    def signature(self, inputs: Sequence[str]) -> Signature:
        """The arrays that it takes, under these names and each `(batch, tokens)`, and those that it returns."""
        with torch.inference_mode():
            ids, mask = example_inputs(("input_ids", "attention_mask"))
            outputs = self.model(ids, attention_mask=mask, return_dict=True)
        return encoder_signature(inputs, _tensor_names(outputs))


class ImageGraph(nn.Module):
    """As `Graph`, of a model that reads images; all images have one size, and need no mask."""

    def __init__(self, model: PreTrainedModel, dtype: str = "fp32") -> None:
        super().__init__()
        self.model = inference_copy(model, dtype)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values=pixel_values, return_dict=True)
        return tuple(value.float() for value in outputs.values() if isinstance(value, Tensor))

    def signature(self, inputs: Sequence[str]) -> Signature:
        """The images that it takes, of which the batch alone is free, and the arrays that it returns."""
        example = torch.from_numpy(example_images(image_shape(self.model) or (0, 0, 0), rows=2))
        with torch.inference_mode():
            names = _tensor_names(self.model(pixel_values=example, return_dict=True))
        return Signature({PIXELS: example}, names, {PIXELS: {0: "batch"}})


def graph_of(model: PreTrainedModel, dtype: str = "fp32") -> Graph | ImageGraph:
    """The model as a function of what it reads."""
    return Graph(model, dtype) if image_shape(model) is None else ImageGraph(model, dtype)


def _tensor_names(outputs: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in outputs.items() if isinstance(value, Tensor))


def weights_hash(model: PreTrainedModel) -> str:
    """`weights_fingerprint` of the weights in fp32: the same for a checkpoint that is loaded in fp16 or in fp32."""
    return weights_fingerprint(inference_copy(model, "fp32"))


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The inputs of an encoder of texts, token types only if it has more than one, or of images."""
    if image_shape(model) is not None:
        return (PIXELS,)
    typed = "token_type_ids" in signature(model.forward).parameters
    several = getattr(model.config, "type_vocab_size", 0) > 1
    return ("input_ids", "attention_mask", *(("token_type_ids",) if typed and several else ()))


def of_tokens(name: str, output: Tensor | np.ndarray) -> bool:
    """Whether an output, by its name in transformers, has a value for each token, `(batch, tokens, ...)`."""
    return output.ndim > 2 or name in ("start_logits", "end_logits")


def with_target(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a model; an encoder-decoder without decoder inputs gets the source as the target too."""
    if not is_encoder_decoder(model) or "decoder_input_ids" in inputs:
        return dict(inputs)
    return {**inputs, "decoder_input_ids": inputs["input_ids"]}


def is_encoder_decoder(model: PreTrainedModel | PreTrainedConfig) -> bool:
    """Whether a model, or that of a config, has a decoder that attends to an encoder."""
    return bool(getattr(getattr(model, "config", model), "is_encoder_decoder", False))


def tokenizer_inputs(model: PreTrainedModel, names: Sequence[str] | None) -> tuple[str, ...]:
    """The inputs of an exported file: those of a tokenizer, or those that the model reads where no names are given.

    A model gets ids and a mask from any tokenizer. Token types that its tokenizer does not give are zeros.
    """
    if names is None or image_shape(model) is not None:
        return input_names(model)
    return ("input_ids", "attention_mask", *(("token_type_ids",) if "token_type_ids" in names else ()))


def example_inputs(names: Sequence[str]) -> tuple[Tensor, ...]:
    """Inputs `(2, 9)` for tracing: no size is 1 and one row is padded, so that the tracer makes nothing constant."""
    ids = torch.arange(18).reshape(2, 9) % 5
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return tuple({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}[name] for name in names)


def example_images(shape: ImageShape, rows: int = 1, seed: int = 0) -> np.ndarray:
    """`(rows, channels, height, width)` of float32: pixels from the standard normal distribution."""
    return np.random.default_rng(seed).standard_normal((rows, *shape), dtype=np.float32)


def encoder_signature(inputs: Sequence[str], outputs: tuple[str, ...]) -> Signature:
    """That of a text encoder, whose inputs are all `(batch, tokens)`."""
    example = dict(zip(inputs, example_inputs(inputs), strict=True))
    return Signature(example, outputs, {name: {0: "batch", 1: "tokens"} for name in inputs})


def as_arrays(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named inputs as int64 arrays; a missing mask is all ones, missing token types are zeros. Images are float32.

    Raises:
        UserError: the first input is missing, or the batch has an input that the model does not take.
    """
    if names[0] not in batch or (unknown := sorted(set(batch) - set(names))):
        came = unknown[0] if names[0] in batch else f"no {names[0]}"
        raise UserError(f"expected the inputs {', '.join(names)}, got {came}: give these alone")
    ids = np.asarray(batch[names[0]])
    if names[0] == PIXELS:
        return {PIXELS: np.ascontiguousarray(ids, dtype=np.float32)}
    default = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: np.ascontiguousarray(batch.get(name, default[name]), dtype=np.int64) for name in names}


def rows_of(batch: Mapping[str, Any]) -> int:
    """The number of rows of a batch, by its first input."""
    return len(next(iter(batch.values())))


def only(names: set[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that a file has: exporters drop an unused one, such as the mask of a model without attention."""
    return {name: array for name, array in inputs.items() if name in names}
