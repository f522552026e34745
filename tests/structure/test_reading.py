"""A reading of masks: its counts, heads and layers, and how often masks are read."""

import pytest
import torch
from tiny_models import COMMON_UNITS, tiny
from transformers import BertConfig, BertForSequenceClassification

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.structure.space import UnitSpace
from secateur.surgery.cut import cut

HEADS, HEAD_DIM, FFN = 2, 4, 6
SIZES = {
    "vocab_size": 20,
    "hidden_size": HEADS * HEAD_DIM,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 2,
    "intermediate_size": FFN,
    "max_position_embeddings": 8,
}


@pytest.fixture(scope="module")
def model():
    return BertForSequenceClassification(BertConfig(**SIZES))


def random_kept(space, seed, share=0.6):
    return torch.rand(len(space), generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize(
    "names", [("ffn", "qk", "vo"), tuple(COMMON_UNITS), ("attention/2x2", "ffn/2x2")], ids="-".join
)
def test_closing_changes_no_count(model, names):
    """So what fits a density need not be closed before it is counted."""
    space = Space(model, *names)
    for seed in range(20):
        kept = random_kept(space, seed)
        closed = space.read(space.closure(kept))
        for scope in ("prunable", "layers", "model"):
            assert space.read(kept).parameters(scope) == closed.parameters(scope)


def test_a_reading_counts_as_the_space_does(model):
    space = Space(model, *COMMON_UNITS)
    masks = torch.rand(len(space), generator=torch.Generator().manual_seed(0))
    reading = space.read(masks)
    assert reading.density("model") == space.density(masks, "model")
    assert reading.parameters() == space.parameters(masks)
    assert reading.flops(16) == space.flops(masks, 16)


def test_operations_do_not_depend_on_whose_projections_relative_positions_have():
    """They are projected once for all sequences of a batch: by those of the contents, or by others."""
    for own in ({"attention/4x8", "ffn"}, {"qk", "vo", "ffn"}):
        spaces = [Space(tiny("deberta-v2", shape=1, share_att_key=shared), *sorted(own)) for shared in (True, False)]
        assert len(spaces[0].table.parameters) < len(spaces[1].table.parameters)
        counted = [space.flops(space.ones(), 16) for space in spaces]
        assert counted[0] == counted[1] == 2 * (2 * 16 * (4 * 32 * 32 + 2 * 32 * 80) + 2 * 16 * 16 * (32 + 32))


def test_heads_and_their_sizes(model):
    space = Space(model, "qk", "vo")
    masks = space.ones()
    masks[space.slices["0.vo"]] = torch.tensor([0.0] * HEAD_DIM + [1.0, 0.0, 1.0, 0.0])
    masks[space.slices["1.qk"]] = torch.tensor([0.0] * HEAD_DIM + [1.0] * HEAD_DIM)
    reading = space.read(masks)
    assert reading.heads("0").tolist() == [False, True]
    assert reading.head_sizes(0) == ([4], [2])
    assert reading.head_sizes(1) == ([0, 4], [4, 4])
    assert reading.indices("0.vo").tolist() == [4, 6]
    assert reading.indices("0.qk").tolist() == [4, 5, 6, 7], "a head without VO dims has no QK dims"


def test_layers_left(model):
    space = Space(model, "sublayer")
    masks = space.ones()
    masks[space.slices["0.attention"]] = masks[space.slices["1.attention"]] = masks[space.slices["1.mlp"]] = 0.0
    assert space.read(masks).layers_left().tolist() == [True, False]


def test_a_cut_reads_its_masks_once(model, monkeypatch):
    space = Space(model)
    plan = Plan.of(space, random_kept(space, 0).float())
    effective, reads = UnitSpace.effective, []
    monkeypatch.setattr(UnitSpace, "effective", lambda self, masks: reads.append(1) or effective(self, masks))
    cut(model, plan)
    assert len(reads) == 1


def test_a_plan_reads_its_masks_twice(model, monkeypatch):
    """Once to close them, and once what is closed."""
    space = Space(model)
    effective, reads = UnitSpace.effective, []
    monkeypatch.setattr(UnitSpace, "effective", lambda self, masks: reads.append(1) or effective(self, masks))
    Plan.of(space, random_kept(space, 0).float())
    assert len(reads) == 2
