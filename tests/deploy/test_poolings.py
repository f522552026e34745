"""Every pooling of a sentence head gives in a file what it gives in PyTorch, on whichever side a batch is padded."""

import pytest
import torch
from tiny_models import inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.deploy.export import export
from secateur.deploy.runner import runner
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import POOLINGS, SentenceHead

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)


def small(poolings):
    model = tiny("bert", "Model", dtype=torch.float32, num_hidden_layers=1)
    attach_head(model, SentenceHead(poolings, width=model.config.hidden_size))
    space = Space(model, "hidden", "ffn", "vo")
    return cut(model, Plan.of(space, random_masks(space, 0.7))).eval()


@pytest.mark.parametrize("poolings", [*((name,) for name in POOLINGS), ("cls", "mean")], ids=" and ".join)
@pytest.mark.parametrize(("runtime", "suffix"), [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_a_pooling_in_a_file_is_that_of_the_model(poolings, runtime, suffix, tmp_path):
    model = small(poolings)
    run = runner(export(model, tmp_path / f"model{suffix}").path, runtime, threads=1)
    right = inputs(model)
    left = {name: values.flip(1) for name, values in right.items()}
    for batch in (right, left):
        with torch.no_grad():
            expected = model(**batch).sentence_embedding
        (found,) = run(batch)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
