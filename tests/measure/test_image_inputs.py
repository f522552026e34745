"""Models of images are measured on images, which have the tokens that a model makes of them, whatever is asked for."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny_models import random_masks, tiny

from secateur.budget.latency import LatencyTable
from secateur.budget.space import Space
from secateur.deploy.export import export, opened
from secateur.deploy.export_facts import ExportFacts
from secateur.measure import peak_memory as memory
from secateur.measure import roofline
from secateur.measure.bench import grid, measure
from secateur.measure.benchmark import benchmark
from secateur.measure.export_times import latencies
from secateur.measure.inspection import inspect
from secateur.measure.random_inputs import padded_inputs, random_inputs, read_by
from secateur.measure.roofline import Rates
from secateur.structure.images import image_shape, image_tokens, is_image_family
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.vocabulary.rows import row_count
from secateur.system.errors import UserError

ONCE = {"repeats": 1, "warmup": 0}


@pytest.fixture(scope="module")
def vit():
    return tiny("vit", dtype=torch.float32)


@pytest.fixture(scope="module")
def smaller(vit):
    space = Space(vit, "hidden", "head", "ffn")
    return cut(vit, Plan.of(space, random_masks(space)))


def test_the_tokens_of_an_image_are_its_patches_and_the_single_ones(smaller):
    """DeiT has a second single token; a cut model has as many as before."""
    oblong = tiny("vit", image_size=(8, 12), num_channels=1)
    assert [image_tokens(model) for model in (smaller, tiny("deit"), oblong)] == [5, 6, 7]
    assert [image_shape(model) for model in (smaller, oblong)] == [(3, 8, 8), (1, 8, 12)]
    assert image_shape(tiny("bert")) is None and image_tokens(tiny("bert")) is None
    assert [is_image_family(kind) for kind in ("vit", "deit", "bert", "unknown")] == [True, True, False, False]


def test_what_is_measured_is_an_image(vit, smaller):
    measured = measure(smaller, vit, batch=2, **ONCE)
    assert measured.protocol["tokens"] == measured.against.protocol["tokens"] == 5
    assert [one.protocol["batch"] for one in grid(vit, shapes=((1, 7), (2, 7), (2, 128)), **ONCE)] == [1, 2]
    dense, flops = inspect(vit), inspect(smaller, 128).flops
    assert flops.tokens == dense.flops.tokens == 5 and 0 < flops.kept < flops.total == dense.flops.total


def test_a_latency_table_is_of_images(vit):
    table = LatencyTable.measure(vit, "sublayer", batch=1, tokens=99, repeats=1)
    assert table.call["tokens"] == 5 and table.protocol["tokens"] == 5


def test_runtimes_are_compared_on_images(vit, smaller, monkeypatch):
    """And so is their memory, in another process, to which a job comes as JSON."""

    def peaks(job):
        asked = memory.Job(**json.loads(json.dumps(asdict(job))))
        memory._prepared(asked)(*asked.shapes[0])()
        return {shape: memory.Peak(2, 1) for shape in job.shapes}

    rates = Rates(flops=1e9, bandwidth=1e9, product="fp32 torch.mm, 8 x 8")
    monkeypatch.setattr(roofline, "rates", lambda *args: rates)
    monkeypatch.setattr(memory, "peaks", peaks)
    models = {"dense": vit, "small": smaller}
    found = benchmark(models, runtimes=("pytorch",), dtypes=("fp32",), shapes=((2, 7), (2, 9)), **ONCE)
    assert [(one.model, one.batch, one.tokens) for one in found] == [("dense", 2, 5), ("small", 2, 5)]


def test_models_that_read_different_things_are_not_compared(vit):
    with pytest.raises(UserError, match="images of one size, got others"):
        measure(vit, tiny("bert", dtype=torch.float32), tokens=7, **ONCE)
    assert read_by([tiny("bert")]) == 50 and read_by([vit]) == (3, 8, 8)
    assert random_inputs((3, 8, 8), 2, 99)["pixel_values"].shape == (2, 3, 8, 8)
    assert padded_inputs(vit, rows=4)["pixel_values"].shape == (4, 3, 8, 8)


def test_an_exported_file_knows_the_shape_of_its_images(smaller, tmp_path):
    pytest.importorskip("onnxruntime")
    files = [export(smaller, tmp_path / name, dtype=dtype) for name, dtype in (("a.onnx", "fp32"), ("b.onnx", "int8"))]
    assert all(one.facts.image == (3, 8, 8) and one.facts.inputs == ("pixel_values",) for one in files)
    assert files[1].difference <= 0.2 * files[1].scale
    times = latencies([one.path for one in files], 5, repeats=1)
    assert [(one["batch"], one["tokens"]) for one in times] == [(1, 5), (1, 5), (8, 5), (8, 5)]
    with pytest.raises(UserError, match="expected the inputs pixel_values, got no pixel_values"):
        opened(files[0].path)({"input_ids": np.zeros((1, 2))})
    facts = files[0].facts
    assert ExportFacts.from_json(facts.to_json(), tmp_path) == facts
    assert '"image"' not in replace(facts, image=None).to_json()


@pytest.mark.parametrize("act", [row_count, lambda model: factorise(model, 4)], ids=["vocabulary", "rank"])
def test_what_is_done_to_words_is_refused(vit, act):
    with pytest.raises(UserError, match="'vit' model is not possible: it has no word embeddings"):
        act(vit)
    for thin in ({"embedding_rank": 4}, {"embedding_rows": "int8"}):
        with pytest.raises(UserError, match="it has no word embeddings"):
            Plan.of_all_units(vit, **thin)
