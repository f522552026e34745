"""Law 13: exported == compact, at every batch and length, padded or not."""

import numpy as np
import pytest
import torch
from exported_models import dense, edges, irregular
from tiny_models import (
    CLASSIFIERS,
    ENCODERS,
    MODELS,
    NAMESAKES,
    OF_IMAGES,
    SENTENCES,
    WRITERS,
    inputs,
    leading,
    of_images,
    outputs,
)

from secateur.budget.space import Space
from secateur.deploy.export import export, opened
from secateur.deploy.graph import of_tokens
from secateur.deploy.seq2seq.folder import export_seq2seq, open_seq2seq
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

EXPORTED = (*ENCODERS, *OF_IMAGES)
# Of them those with a table of their own, for what takes seconds: ONNX files are made of all.
OWN = tuple(kind for kind in EXPORTED if kind not in NAMESAKES)

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)


def batches(model):
    """3 x 7 padded and full, 1 x 7, and 3 x 28 with padding inside and at the end; of images 3, 1 and 12."""
    if of_images(model):
        images = inputs(model)["pixel_values"]
        yield from ({"pixel_values": own} for own in (images, images[:1], images.repeat(4, 1, 1, 1)))
        return
    padded = inputs(model)
    yield padded
    yield inputs(model, padded=False, seed=1)
    yield {name: value[:1] for name, value in padded.items()}
    yield {name: value.repeat(1, 4) for name, value in padded.items()}


def assert_exported_is_model(model, path):
    found = export(model, path)
    assert found.facts.dtype == "fp32" and found.difference <= 1e-4 * max(1.0, found.scale)
    assert not model.training and not any(module.training for module in model.modules())
    run = opened(path)
    for batch in batches(model):
        expected = outputs(model, batch)[0]
        said = run({name: batch[name] for name in run.inputs})
        assert found.facts.outputs == tuple(expected)
        for mine, (name, theirs) in zip(said, expected.items(), strict=True):
            assert mine.dtype == np.float32
            if (
                of_tokens(name, theirs) and "attention_mask" in batch
            ):  # what a padded token says is nobody's, and outside of a window undefined
                mine, theirs = mine[batch["attention_mask"] > 0], theirs[batch["attention_mask"] > 0]
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("which", [*(model for model in MODELS if model.values[0][0] in EXPORTED), *SENTENCES])
def test_onnx_outputs_equal_those_of_a_compact_model_with_any_head(which, tmp_path):
    assert_exported_is_model(irregular(which), tmp_path / "model.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_one_output_is_exported_with_its_axis(suffix, tmp_path):
    assert_exported_is_model(irregular(("bert", "ForSequenceClassification", 0), num_labels=1), tmp_path / f"m{suffix}")


@pytest.mark.parametrize("make", [dense, edges], ids=lambda make: make.__name__)
@pytest.mark.parametrize("which", [model for model in CLASSIFIERS if model.values[0][0] in EXPORTED])
def test_onnx_outputs_equal_those_of_dense_and_irregular_models(which, make, tmp_path):
    assert_exported_is_model(make(which), tmp_path / "model.onnx")


# OpenVINO reads what ONNX says: one dense model is enough, and one whose vocabulary is cut. Compiling takes the time.
CONVERTED = [(kind, edges) for kind in OWN] + [(ENCODERS[0], make) for make in (dense, irregular)]


@pytest.mark.parametrize(("kind", "make"), CONVERTED)
def test_openvino_outputs_equal_those_of_the_model(kind, make, tmp_path):
    assert_exported_is_model(make((kind, leading(kind), 0)), tmp_path / "model.xml")


def without_attention(which):
    """Without attention the mask has no effect."""
    model = dense(which)
    space = Space(model, "sublayer")
    return cut(
        model, Plan.of(space, torch.tensor([not group.name.endswith("attention") for group in space.groups]).float())
    )


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_an_input_without_effect_is_accepted(suffix, tmp_path):
    assert_exported_is_model(without_attention(("bert", "ForSequenceClassification", 0)), tmp_path / f"model{suffix}")


# Writing and opening such a program takes seconds: each architecture has one model, and all makers are there.
PROGRAMS = [(dense, "ForQuestionAnswering"), (irregular, "Model"), (edges, "ForSequenceClassification")]


@pytest.mark.parametrize(
    ("kind", "make", "head"),
    [(kind, *PROGRAMS[index % len(PROGRAMS)]) for index, kind in enumerate(OWN)],
)
def test_torch_export_outputs_equal_those_of_the_model(kind, make, head, tmp_path):
    heads = ARCHITECTURES.get(kind).heads
    assert_exported_is_model(make((kind, head if head in heads else next(iter(heads)), 0)), tmp_path / "model.pt2")


def assert_exported_writes_as_model(model, runtime, folder):
    """Greedily and with beams, of sources padded and longer than any that the export itself compared."""
    (found,) = export_seq2seq(model, folder, runtimes=(runtime,)).files
    assert found.agreement.difference <= 1e-4 * max(1.0, found.agreement.scale)
    assert found.agreement.equal == found.agreement.texts and not model.training
    exported = open_seq2seq(folder, runtime)
    padded, _, _, long = batches(model)
    for batch in (padded, long):
        source = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for beams in (1, 3):
            words = {"num_beams": beams, "do_sample": False, "max_new_tokens": 5}
            assert torch.equal(exported.generate(**source, **words), model.generate(**source, **words))


@pytest.mark.parametrize("which", WRITERS)
def test_onnx_writes_what_an_encoder_decoder_writes(which, tmp_path):
    """The edge cases of every family, in each of its shapes."""
    assert_exported_writes_as_model(edges(which), "onnxruntime", tmp_path / "out")


# One of each family, by turns dense and cut to a narrower stream with fewer pieces, in either runtime.
KINDS = {which.values[0][0]: which for which in reversed(WRITERS)}
WRITTEN = [(KINDS[kind], make) for kind, make in zip(sorted(KINDS), (dense, irregular, irregular), strict=True)]


@pytest.mark.parametrize(("which", "make"), [(*which.values, make) for which, make in WRITTEN])
def test_openvino_writes_what_an_encoder_decoder_writes(which, make, tmp_path):
    assert_exported_writes_as_model(make(which), "openvino", tmp_path / "out")


@pytest.mark.parametrize("which", WRITERS)
def test_an_encoder_decoder_is_no_single_file(which, tmp_path):
    with pytest.raises(UserError, match="is exported as two files in a folder"):
        export(dense(which), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
