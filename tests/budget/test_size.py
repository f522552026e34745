"""The bytes of a file before it is written, and the density that has a size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from space_world import bert
from tiny_models import LEADING, SENTENCES, UNIT_SETS, random_masks, tiny

from secateur.budget.amounts import byte_count
from secateur.budget.size import (
    Storage,
    density_within,
    file_bytes,
    kept_bytes,
    largest_density,
    least_bytes,
    parts,
    planned_bytes,
    planned_tensors,
    unpadded_bytes,
)
from secateur.budget.space import Space
from secateur.measure.model_size import disk_bytes, stored_parts, tensor_bytes
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.quantisation import quantise_embeddings
from secateur.system.errors import UserError

FP32 = Storage()


@pytest.mark.parametrize(
    ("text", "count"),
    [("5MB", 5_000_000), ("5 MB", 5_000_000), ("800kB", 800_000), ("1.2GB", 1_200_000_000), ("17", 17), ("17 B", 17)],
)
def test_a_size_in_text(text, count):
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "MB", "5MiB", "5 TB", "five", "5 M B", "5mm", "inf MB", "5,3MB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="is not a size: write it like 5MB"):
        byte_count(text)


@pytest.mark.parametrize("number", range(len(LEADING)))
def test_the_count_is_the_size_of_the_file(number, tmp_path):
    model = tiny(*LEADING[number].values[0], dtype=torch.float32)
    for units in (*UNIT_SETS, *UNIT_SETS, *UNIT_SETS)[number : number + 4]:
        space = Space(model, *units)
        plan = Plan.of(space, random_masks(space, (0.2, 0.6)[number % 2], seed=number))
        small = cut(model, plan)
        save(small, folder := tmp_path / "-".join(units).replace("/", " "))
        tensors = planned_tensors(space, plan, FP32)
        assert {name: tensor.bytes for name, tensor in tensors.items()} == tensor_bytes(folder)
        assert file_bytes(tensors) == kept_bytes(space, plan.kept, FP32) == disk_bytes(folder)
        assert parts(space, tensors) == stored_parts(folder, small)


def test_factors_and_other_types_count_as_they_are_stored(tmp_path):
    model = factorise(tiny("bert", dtype=torch.float16), 8)
    space = Space(model)
    plan = Plan.of(space, random_masks(space))
    save(cut(model, plan), tmp_path)
    assert planned_bytes(space, plan, Storage(torch.float16, torch.float16)) == disk_bytes(tmp_path)


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("which", [("bert",), ("marian", "MTModel", 1), ("t5",)])
def test_int8_rows_and_16_bits_count_as_they_are_stored(which, rank, tmp_path):
    model = tiny(*which, dtype=torch.float32)
    model = factorise(model, rank) if rank else model
    space = Space(model, "ffn", "layer")
    plan = Plan.of(space, random_masks(space))
    small = quantise_embeddings(cut(model, plan))
    save(small, tmp_path, store="bf16")
    tensors = planned_tensors(space, plan, Storage(torch.bfloat16, int8_rows=True))
    assert {name: tensor.bytes for name, tensor in tensors.items()} == tensor_bytes(tmp_path)
    assert file_bytes(tensors) == disk_bytes(tmp_path)
    assert parts(space, tensors) == stored_parts(tmp_path, small)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", SENTENCES[:2])
def test_the_layers_of_a_sentence_head_count_in_files_of_their_own(which, dtype, tmp_path):
    model = tiny(*which, dtype=torch.float32)
    space = Space(model, "hidden", "ffn")
    plan = Plan.of(space, random_masks(space))
    small, storage = cut(model, plan), Storage(dtype)
    save(small, tmp_path, store={torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype])
    tensors = planned_tensors(space, plan, storage)
    assert {name: tensor.bytes for name, tensor in tensors.items()} == tensor_bytes(tmp_path)
    files = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert len(files) == 2 and sum(files) == disk_bytes(tmp_path) == file_bytes(tensors)
    assert kept_bytes(space, plan.kept, storage) == planned_bytes(space, plan, storage) == disk_bytes(tmp_path)
    assert parts(space, tensors) == stored_parts(tmp_path, small)


MODEL = bert()
KINDS = (("ffn", "qk", "vo"), ("head", "ffn"), ("hidden", "ffn"), ("layer", "vo"))


@settings(max_examples=15)
@given(
    st.floats(0.02, 1.0), st.sampled_from((("ffn", "qk", "vo"), ("head", "ffn"), ("hidden", "ffn"), ("layer", "vo")))
)
def test_the_largest_density_within_a_size(part, units):
    """Its file is not larger than the size, and that of the next density is."""
    space, tried = Space(MODEL, *units), {}
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(1))
    least, whole = least_bytes(space, FP32), unpadded_bytes(space, space.ones(), FP32)
    size, floor = round(least + part * (whole - least)), space.floor()

    def kept_at(density):
        if density < floor or not space.density(kept := space.choose(scores, density)):
            return None
        tried[density] = kept_bytes(space, kept, FP32)
        return kept

    step = 0.5 / space.total()
    density = largest_density(kept_at, lambda kept: kept_bytes(space, kept, FP32) <= size, 1.0, step)
    if density is None:
        assert min(tried.values()) > size
    else:
        assert tried[density] <= size
        assert density == 1.0 or min(one for one in tried if tried[one] > size) - density <= step


@pytest.mark.parametrize("part", [0.1, 0.3, 0.9])
def test_the_density_of_a_size_is_that_of_another_choice_of_neurons_and_dims(part):
    space = Space(tiny("bert", dtype=torch.float32))
    least, whole = least_bytes(space, FP32), unpadded_bytes(space, space.ones(), FP32)
    size = round(least + part * (whole - least))
    scores = torch.rand(len(space), generator=torch.Generator().manual_seed(2))
    kept = space.choose(scores, density_within(space, FP32, size))
    assert unpadded_bytes(space, kept, FP32) == pytest.approx(size, abs=0.05 * whole)


def test_int8_rows_have_a_byte_for_each_number_and_a_scale_for_each_row():
    space = Space(MODEL)
    plan = Plan.of(space, space.ones())
    tensors, thin = (planned_tensors(space, plan, storage) for storage in (FP32, Storage(int8_rows=True)))
    words = "bert.embeddings.word_embeddings"
    table = tensors[f"{words}.weight"]
    assert thin[f"{words}.rows"].bytes == table.bytes / 4
    assert thin[f"{words}.scale"].bytes == 4 * table.shape[0]
    assert parts(space, tensors)["layers"] == parts(space, thin)["layers"]
