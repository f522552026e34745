"""The plan: it survives JSON, and a plan edited by hand is checked like any input."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tiny_models import COMMON_UNITS
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from secateur.budget.space import Space
from secateur.structure.fingerprints import weights_fingerprint
from secateur.structure.plan import Plan
from secateur.structure.plan_file import read_plan
from secateur.system.errors import UserError

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1_0"
SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 6,
    "max_position_embeddings": 8,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES))


@pytest.fixture(scope="module")
def space(model):
    return Space(model, "head", "ffn")


@pytest.fixture
def data(space):
    """The JSON of a plan by hand: head 1 of layer 0 and four FFN neurons of layer 1 go."""
    masks = space.ones()
    masks[space.slices["0.head"]] = torch.tensor([1.0, 0.0])
    masks[space.slices["1.ffn"]] = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    return json.loads(json.dumps(Plan.of(space, masks, asked=0.75).to_dict(space)))


def random_masks(space, seed, soft):
    noise = torch.Generator().manual_seed(seed)
    masks = (torch.rand(len(space), generator=noise) < 0.6).float()
    return masks * torch.rand(len(space), generator=noise) if soft else masks


# There and back


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_survives_json(model, seed, soft):
    space = Space(model, *COMMON_UNITS)
    plan = Plan.of(
        space, random_masks(space, seed, soft), method="grain", asked=0.4, embedding_rank=4, embedding_rows="int8"
    )
    data = plan.to_dict(space)
    back = Plan.from_dict(json.loads(json.dumps(data)), model)
    assert torch.equal(back.masks, plan.masks)
    assert back.to_dict(space) == data


def test_a_plan_survives_a_file(space, model, data, tmp_path):
    Plan.from_dict(data, model).save(tmp_path / "plan.json", space)
    assert Plan.load(tmp_path / "plan.json", model).to_dict(space) == data


def test_a_plan_keeps_its_origin_when_read_for_later_weights(model, data):
    later = deepcopy(model)
    with torch.no_grad():
        later.classifier.bias.add_(1.0)
    plan = Plan.from_dict(data, later)
    assert plan.source == data["source"] == weights_fingerprint(model) != weights_fingerprint(later)


def test_kept_indices_are_written_as_ranges(data):
    assert data["groups"] == {
        "0.head": {"size": 2, "kept": [[0, 0]]},
        "1.head": {"size": 2, "kept": [[0, 1]]},
        "0.ffn": {"size": 6, "kept": [[0, 5]]},
        "1.ffn": {"size": 6, "kept": [[1, 1], [4, 4]]},
    }
    assert data["asked"] == 0.75
    assert data["achieved"]["prunable"] == (764 - 4 * (18 + 17) - 4 * 17) / 764


def test_soft_masks_are_written_for_kept_units_only(space):
    masks = space.ones()
    masks[space.slices["0.head"]] = torch.tensor([0.0, 0.25])
    groups = Plan.of(space, masks).to_dict(space)["groups"]
    assert groups["0.head"] == {"size": 2, "kept": [[1, 1]], "masks": [0.25]}
    assert "masks" not in groups["1.head"]


def test_units_that_are_dead_because_of_others_are_removed(model):
    space = Space(model, "qk", "vo")
    masks = space.ones()
    masks[space.slices["0.vo"]] = torch.tensor([0.0] * 4 + [0.5] * 4)
    plan = Plan.of(space, masks)
    assert plan.masks[space.slices["0.qk"]].tolist() == [0.0] * 4 + [1.0] * 4
    assert plan.kept.tolist() == (plan.masks > 0).tolist()


def test_summary(space, model, data):
    assert Plan.from_dict(data, model).read(space).summary() == [
        {"layer": 0, "heads": "1/2", "qk": "4/8", "vo": "4/8", "ffn": "6/6"},
        {"layer": 1, "heads": "2/2", "qk": "8/8", "vo": "8/8", "ffn": "2/6"},
        {"layer": "stream", "hidden": "8/8"},
    ]


# Version 1


def as_version_1(data):
    """As secateur 0.1.0 wrote it."""
    old = {"granularities" if key == "units" else key: value for key, value in data.items()} | {"version": 1}
    groups = data["groups"].items()
    return old | {"groups": {name: {"units" if k == "size" else k: v for k, v in g.items()} for name, g in groups}}


def test_version_1_is_read_as_version_2(model, data, tmp_path):
    old = as_version_1(data)
    plan = Plan.from_dict(old, model)
    assert plan.to_dict(plan.space(model)) == data
    (tmp_path / "plan.json").write_text(json.dumps(old))
    assert Plan.load(tmp_path / "plan.json", model).to_dict(plan.space(model)) == data


@pytest.mark.parametrize("key", ["granularities", "groups"])
def test_a_version_1_with_a_missing_key_is_refused(model, data, key):
    old = as_version_1(data)
    del old[key]
    with pytest.raises(UserError, match="not a plan"):
        Plan.from_dict(old, model)


@pytest.mark.parametrize(
    "path", sorted(OLD.rglob("plan.json")), ids=lambda path: path.parent.relative_to(OLD).as_posix()
)
def test_the_plans_of_0_1_0_are_upgraded(path):
    old = json.loads(path.read_text(encoding="utf-8"))
    new = read_plan(path)
    assert (old["version"], new["version"], new["units"]) == (1, 2, old["granularities"])
    for name, group in old["groups"].items():
        assert new["groups"][name]["size"] == group["units"] and new["groups"][name]["kept"] == group["kept"]


def test_a_plan_of_a_later_version_is_refused_whatever_keys_it_has(model, data, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(data | {"version": 3, "a key of that version": 1}))
    with pytest.raises(UserError, match=r"plan\.json has version 3, and this secateur reads 1 to 2: update secateur$"):
        Plan.load(tmp_path / "plan.json", model)


# What is refused

DROP = object()
MUTATIONS = [
    (("version",), DROP, "version"),
    (("version",), 99, "version 99"),
    (("version",), "1", "version '1'"),
    (("model_type",), "roberta", "'roberta'"),
    (("model_type",), "no such", "'no such'"),
    (("method",), 5, "method"),
    (("asked",), "a third", "asked"),
    (("asked",), 1.5, "asked"),
    (("achieved",), 0.5, "achieved"),
    (("source",), None, "source"),
    (("versions",), ["torch"], "versions"),
    (("colour",), "green", "colour"),
    (("units",), "head", "units"),
    (("units",), [], "units"),
    (("units",), [["head"]], "units"),
    (("units",), ["head", "neurons"], "neurons"),
    (("units",), ["head", "ffn", "ffn"], "once"),
    (("units",), ["head"], "on one side only"),
    (("units",), ["head", "ffn", "vo"], "on one side only"),
    (("embedding_rank",), 0, "embedding rank 0"),
    (("embedding_rank",), 8, "embedding rank 8"),
    (("embedding_rank",), -1, "embedding rank -1"),
    (("embedding_rank",), 2.0, "embedding_rank"),
    (("embedding_rank",), True, "embedding_rank"),
    (("embedding_rows",), "int4", "embedding_rows must be int8"),
    (("embedding_rows",), 8, "embedding_rows must be int8"),
    (("groups",), [], "groups"),
    (("groups", "0.ffn"), DROP, "'0.ffn'"),
    (("groups", "9.ffn"), {"size": 6, "kept": []}, "'9.ffn'"),
    (("groups", "0.ffn"), [[0, 5]], "'0.ffn'"),
    (("groups", "0.ffn", "size"), 7, "'0.ffn'"),
    (("groups", "0.ffn", "kept"), DROP, "'0.ffn'"),
    (("groups", "0.ffn", "kept"), "all", "'0.ffn'"),
    (("groups", "0.ffn", "kept"), [[0, 6]], r"\[0, 6\]"),
    (("groups", "0.ffn", "kept"), [[-1, 2]], r"\[-1, 2\]"),
    (("groups", "0.ffn", "kept"), [[3, 2]], r"\[3, 2\]"),
    (("groups", "0.ffn", "kept"), [[2, 4], [4, 5]], r"\[4, 5\]"),
    (("groups", "0.ffn", "kept"), [[4, 5], [0, 1]], r"\[0, 1\]"),
    (("groups", "0.ffn", "kept"), [0, 1, 2], "'0.ffn'"),
    (("groups", "0.ffn", "kept"), [[0.0, 1.0]], "'0.ffn'"),
    (("groups", "0.ffn", "kept"), [[False, True]], "'0.ffn'"),
    (("groups", "0.ffn", "kept"), [[0, 1, 2]], "'0.ffn'"),
    (("groups", "0.ffn", "mask"), [0.5] * 6, "'0.ffn'"),
    (("groups", "0.ffn", "masks"), [0.5], "'0.ffn'"),
    (("groups", "0.ffn", "masks"), 0.5, "'0.ffn'"),
    (("groups", "0.ffn", "masks"), ["1"] * 6, "'0.ffn'"),
    (("groups", "0.ffn", "masks"), [0.5] * 5 + [1.5], r"\[0, 1\]"),
    (("groups", "0.ffn", "masks"), [0.5] * 5 + [-0.5], r"\[0, 1\]"),
    (("groups", "0.ffn", "masks"), [0.5] * 5 + [float("nan")], r"\[0, 1\]"),
]


@pytest.mark.parametrize(("path", "value", "message"), MUTATIONS, ids=[f"{p[-1]}={v!r:.20}" for p, v, _ in MUTATIONS])
def test_a_plan_edited_by_hand_is_refused_in_one_sentence(model, data, path, value, message):
    inside = data
    for key in path[:-1]:
        inside = inside[key]
    if value is DROP:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    with pytest.raises(UserError, match=message) as refusal:
        Plan.from_dict(data, model)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("junk", [None, [], "plan", 3, {}])
def test_content_that_is_not_a_plan_is_refused(model, junk):
    with pytest.raises(UserError, match="not a plan"):
        Plan.from_dict(junk, model)


def test_the_refusal_of_a_file_names_its_path(model, tmp_path):
    for name, content in [
        ("missing.json", None),
        ("broken.json", b'{"version": 1'),
        ("binary.json", b"\xff\xfe\x00"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            Plan.load(tmp_path / name, model)


def test_a_plan_fits_the_shape_that_it_was_made_for(data):
    wider = BertForSequenceClassification(BertConfig(**SIZES | {"intermediate_size": 7}))
    deeper = BertForSequenceClassification(BertConfig(**SIZES | {"num_hidden_layers": 3}))
    for other in (wider, deeper):
        with pytest.raises(UserError, match="group"):
            Plan.from_dict(data, other)


def test_a_plan_names_the_space_of_a_model_that_it_fits(model, data):
    plan = Plan.from_dict(data, model)
    assert plan.space(deepcopy(model)).units == ("head", "ffn")
    other = RobertaForSequenceClassification(RobertaConfig(**SIZES))
    with pytest.raises(UserError, match="for a 'bert' model, this is a 'roberta'"):
        plan.space(other)
    with pytest.raises(UserError, match="units"):
        plan.space(BertForSequenceClassification(BertConfig(**SIZES | {"intermediate_size": 7})))


@pytest.mark.parametrize("bad", [1.5, -0.1, float("nan")])
def test_masks_outside_0_and_1_are_refused(space, bad):
    masks = space.ones()
    masks[3] = bad
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        Plan.of(space, masks)


def test_masks_of_another_length_are_refused(space):
    with pytest.raises(UserError, match=f"the space has {len(space)} units"):
        Plan.of(space, space.ones()[1:])


def test_a_space_with_other_units_is_refused(model, tmp_path):
    space, other = Space(model, "qk", "vo"), Space(model, "vo", "qk")
    masks = space.ones()
    masks[space.slices["0.vo"]] = torch.tensor([0.0] * 4 + [1.0] * 4)
    plan = Plan.of(space, masks)
    message = r"the plan has 32 units \(qk, vo\), the space has 32 \(vo, qk\): use the space that it was made over"
    for asked in (plan.read, plan.to_dict, lambda space: plan.save(tmp_path / "plan.json", space)):
        with pytest.raises(UserError, match=message):
            asked(other)
        with pytest.raises(UserError, match=r"the space has 12 \(ffn\)"):
            asked(Space(model, "ffn"))
    assert not (tmp_path / "plan.json").exists()


def test_plans_of_equal_masks_are_equal(model, space):
    masks = random_masks(space, 0, soft=True)
    plan, same = Plan.of(space, masks), Plan.of(space, masks.clone())
    assert plan == same and hash(plan) == hash(same) and len({plan, same}) == 1
    others = (
        Plan.of(space, space.ones()),
        Plan.of(space, masks, method="grain"),
        Plan.of(other := Space(model, "ffn"), other.ones()),
        3,
    )
    assert all(plan != other for other in others)
