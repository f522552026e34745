"""Law 13, of models that are run and not exported: every runtime of PyTorch gives the outputs of the model.

Attention to the tokens before alone, over all of them or within a window, is the model's own: no graph describes it.
"""

import pytest
import torch
from exported_models import dense, irregular
from tiny_models import FAMILIES, WITHOUT_QK, WRITERS, inputs, names_of, tiny

from secateur.deploy.runner import difference, runner
from secateur.deploy.runtime import Runtime
from secateur.deploy.runtimes import RUNTIMES
from secateur.structure.architectures import ARCHITECTURES

# The runtimes that run a model as it is, and the decoders, also those that have another's table or no QK dims.
IN_PYTORCH = tuple(name for name, one in RUNTIMES.all().items() if one.of_model is not Runtime.of_model)
DECODERS = tuple(kind for kind in (*FAMILIES, *WITHOUT_QK) if "ForCausalLM" in ARCHITECTURES.get(kind).heads)


def assert_run_as_model(model, runtime, *batches):
    found, scale = difference(runner(model, runtime, threads=1), model, batches)
    assert found <= 1e-5 * scale


def test_the_runtimes_and_the_decoders_are_those_that_are_known():
    assert {"pytorch", "compiled"} <= set(IN_PYTORCH) and {"llama", "mistral", "qwen2", "qwen3"} <= set(DECODERS)


@pytest.mark.parametrize("runtime", IN_PYTORCH)
@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_has_its_own_outputs_in_every_runtime_of_pytorch(kind, runtime):
    model = tiny(kind, "ForCausalLM", dtype=torch.float32)
    assert_run_as_model(model, runtime, inputs(model), inputs(model, padded=False, seed=1))


@pytest.mark.parametrize("runtime", IN_PYTORCH)
@pytest.mark.parametrize("kind", sorted({which.values[0][0] for which in WRITERS}))
def test_an_encoder_decoder_has_its_own_outputs_of_its_source_as_the_target(kind, runtime):
    model = tiny(kind, dtype=torch.float32, **dict.fromkeys(names_of(kind, "num_hidden_layers", "decoder_layers"), 1))
    assert_run_as_model(model, runtime, {name: inputs(model)[name] for name in ("input_ids", "attention_mask")})


@pytest.mark.parametrize("runtime", IN_PYTORCH)
@pytest.mark.parametrize(("make", "head"), [(irregular, "ForCausalLM"), (dense, "ForSequenceClassification")])
def test_a_cut_decoder_and_one_with_another_head_have_their_own_outputs_too(make, head, runtime):
    model = make(("llama", head, 0))
    assert_run_as_model(model, runtime, inputs(model))
