"""A size as the target: of a cut, of the plan of a run, and what cannot be had."""

import re
from types import SimpleNamespace

import pytest
import torch
from tiny_models import taught, tiny

from secateur.budget.amounts import byte_count
from secateur.budget.size import Storage, unpadded_bytes
from secateur.budget.space import Space
from secateur.measure.model_size import disk_bytes
from secateur.run import recipe
from secateur.run.post_training import cut_without_training
from secateur.run.recipe_groups import MethodRecipe
from secateur.run.recipe_storage import StorageRecipe
from secateur.run.recipe_target import TargetRecipe
from secateur.run.stages.cut import final_plan
from secateur.run.target import new_method, share_to_keep, space_of
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.system.errors import UserError

MAGNITUDE = MethodRecipe(name="magnitude")


@pytest.fixture(scope="module")
def dense():
    return tiny("bert", dtype=torch.float32)


def target(size, *units, **keys):
    return TargetRecipe(density=None, size=size, units=units or ("ffn", "qk", "vo"), **keys)


def refusal(dense, wanted):
    with pytest.raises(UserError) as refused:
        cut_without_training(dense, wanted, MAGNITUDE)
    return str(refused.value)


@pytest.mark.parametrize("units", [("ffn", "qk", "vo"), ("hidden", "head", "ffn"), ("layer", "ffn")])
def test_a_cut_is_as_large_as_asked_for(dense, tmp_path, units):
    small, _ = cut_without_training(dense, target(60_000, *units), MAGNITUDE)
    save(small, tmp_path)
    assert 57_000 < disk_bytes(tmp_path) <= 60_000
    plan = load(tmp_path).plan
    whole = unpadded_bytes(Space(dense), Space(dense).ones(), Storage())
    assert plan["size"] == {"asked_bytes": 60_000, "bytes": disk_bytes(tmp_path), "unpruned_bytes": whole}
    assert plan["asked"] is None
    assert Plan.from_dict(plan, dense).to_dict(Space(dense, *units)) == plan


def test_a_cut_with_a_sentence_head_is_as_large_as_asked_for_in_16_bits(tmp_path):
    model = tiny("bert", "Sentence", dtype=torch.float32)
    small, _ = cut_without_training(
        model, target(30_000, "hidden", "head", "ffn"), MAGNITUDE, storage=StorageRecipe(dtype="bf16")
    )
    save(small, tmp_path, store="bf16")
    files = [path.stat().st_size for path in tmp_path.rglob("*.safetensors")]
    assert len(files) == 2 and 27_000 < sum(files) <= 30_000
    size = load(tmp_path).plan["size"]
    assert (size["asked_bytes"], size["bytes"]) == (30_000, sum(files)) and size["unpruned_bytes"] > 30_000


def test_factorised_embeddings_leave_more_of_the_layers(dense):
    whole, thin = (
        cut_without_training(dense, target(60_000, **keys), MAGNITUDE)[0] for keys in ({}, {"embedding_rank": 4})
    )
    assert thin.plan["achieved"]["prunable"] > whole.plan["achieved"]["prunable"]
    assert thin.plan["size"]["bytes"] <= 60_000


def test_the_plan_of_a_run_follows_its_density_and_fits(dense, tmp_path):
    wanted = recipe.make({"model": "m", "data": "d", "target.size": "60kB", "target.round_to": 2})
    density = share_to_keep(wanted, space_of(wanted, dense, None))
    assert new_method(wanted, dense, None).share_schedule.stop == density
    space = space_of(wanted, dense, None)
    for name in ("grain", "cofi"):
        method = taught(name, Space(dense, "ffn", "head"), density) if name == "cofi" else taught(name, space, density)
        plan = final_plan(SimpleNamespace(recipe=wanted), method)
        assert plan.achieved["prunable"] <= density
        save(cut(dense, plan), tmp_path / name)
        assert 50_000 < disk_bytes(tmp_path / name) == plan.size["bytes"] <= 60_000


def test_a_size_out_of_reach_names_the_floor_and_what_would_lower_it(dense):
    said = refusal(dense, target(15_000))
    assert "0.015 MB is out of reach: with nothing kept of the units ffn, qk, vo the file has 0.0" in said
    for part in (
        "embeddings 0.01",
        "--embedding-rank",
        "--embedding-rows int8 (0.0",
        "--store bf16 (0.01",
        "--vocabulary TEXTS, --embedding-rank auto, ",
    ):
        assert part in said
    assert said.endswith("more units (sublayer, layer, hidden)")
    assert "--embedding-rank" not in refusal(dense, target(10_000, embedding_rank=4))


@pytest.mark.parametrize(
    ("kind", "units", "advice"),
    [
        (
            "bart",
            ("encoder.ffn", "decoder.ffn"),
            "--vocabulary TEXTS, --embedding-rank auto, --embedding-rows int8 (0.",
        ),
        ("vit", ("ffn",), "or lower that by --store bf16 (0.0"),
        ("marian", ("ffn",), "or lower that by --embedding-rank auto, --embedding-rows int8 (0."),
    ],
)
def test_a_size_out_of_reach_names_what_the_model_has_alone(kind, units, advice):
    model = tiny(kind, shape=1 if kind == "marian" else 0, dtype=torch.float32)
    said = refusal(model, target(2_000, *units))
    assert advice in said and said.endswith("more units (qk, vo, head, sublayer, layer, hidden)")
    if kind == "bart":
        assert refusal(model, target(2_000, "encoder.ffn")).endswith("layer, hidden, decoder.ffn)")


def test_a_size_out_of_reach_that_nothing_lowers_says_so():
    images = tiny("vit", dtype=torch.float32)
    with pytest.raises(UserError, match=r"MB \([^()]*\): ask for at least 0\.\d+ MB$"):
        cut_without_training(
            images, target(2_000, "hidden", "ffn", "head", "sublayer", "layer"), MAGNITUDE, StorageRecipe(dtype="bf16")
        )


@pytest.mark.parametrize("units", [("ffn", "qk", "vo"), ("hidden", "head", "ffn"), ("layer", "ffn"), ("head",)])
def test_the_sizes_that_a_refusal_names_are_accepted(dense, units):
    for size, named in ((3_000, r"ask for at least ([\d.]+ MB)"), (10**9, r"more than the ([\d.]+ MB)")):
        found = re.search(named, refusal(dense, target(size, *units)))[1]
        wanted = recipe.make({"model": "m", "data": "d", "target.size": found, "target.units": list(units)})
        assert 0.0 < share_to_keep(wanted, space_of(wanted, dense, None)) <= 1.0
        if "hidden" not in units:  # by which dims are kept the rest depends
            small, _ = cut_without_training(dense, target(byte_count(found), *units), MAGNITUDE)
            assert small.plan["size"]["bytes"] <= byte_count(found)


def test_a_size_above_that_of_the_model_is_refused(dense):
    whole = unpadded_bytes(Space(dense), Space(dense).ones(), Storage())
    assert "is more than the" in refusal(dense, target(whole + 1))
    small, _ = cut_without_training(dense, target(whole), MAGNITUDE)
    assert small.plan["achieved"]["model"] == 1.0


def test_a_run_refuses_it_before_anything_is_trained(dense):
    wanted = recipe.make({"model": "m", "data": "d", "target.size": "15kB", "storage.embeddings": "int8"})
    with pytest.raises(UserError, match=r"lower that by --vocabulary task, --embedding-rank auto, --store bf16 \("):
        new_method(wanted, dense, None)
    fewer = recipe.make({"model": "m", "data": "d", "target.size": "15kB", "vocabulary.pieces": "task"})
    with pytest.raises(UserError, match=r"lower that by --embedding-rank auto, --embedding-rows int8 \("):
        new_method(fewer, dense, None)
