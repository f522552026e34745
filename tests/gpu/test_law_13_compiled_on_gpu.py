"""Law 13 on a GPU, of compiled code: an architecture without a relative position bias, and one with it.

Compiling takes some ten seconds a model and shape, so that each dtype has one model.
"""

import pytest
import torch
from exported_models import edges, irregular
from test_law_13_on_gpu import assert_runtime_gives_outputs
from tiny_models import inputs

CASES = [("bert", irregular, "bf16"), ("bert", edges, "fp16"), ("mpnet", irregular, "fp32")]


@pytest.mark.parametrize(("kind", "make", "dtype"), CASES)
def test_compiled_code_gives_the_outputs_of_the_model(kind, make, dtype, cuda):
    torch.compiler.reset()
    model = make((kind, "ForSequenceClassification", 0))
    assert_runtime_gives_outputs(model, "compiled", dtype, [inputs(model)])
