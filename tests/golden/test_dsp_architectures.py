"""DSP's golden tests T8, T10 and T12 over encoder-decoders, by their numbers in the specification (section 13).

The model is that of IWSLT14 (section 2) where its sizes matter: 4 heads of 128 dims, a stream of 512.
"""

import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached

BLOCKS = ("encoder.0", "decoder.0.cross", "decoder.0")
PATHS = ("encoder.layers.0.self_attn", "decoder.layers.0.encoder_attn", "decoder.layers.0.self_attn")
IDS = {"pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "decoder_start_token_id": 0}


def translator(layers=1, width=512, heads=4, ffn=1024):
    torch.manual_seed(0)
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in
             (("layers", layers), ("attention_heads", heads), ("ffn_dim", ffn))}  # fmt: skip
    config = MarianConfig(vocab_size=30, d_model=width, max_position_embeddings=16, init_std=0.3, **sizes, **IDS)
    return MarianMTModel(config).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids, target = (torch.randint(3, 30, (2, tokens), generator=generator) for tokens in (6, 5))
    return {"input_ids": ids, "decoder_input_ids": target}


def heard(model, path, batch):
    """What the module at a path is called with, and what it says."""
    found = {}

    def note(module, args, kwargs, output):
        found.update(args=args, kwargs=kwargs, output=output)

    handle = model.get_submodule(path).register_forward_hook(note, with_kwargs=True)
    model(**batch)
    handle.remove()
    return found


def contexts(attention, states, memory, causal):
    """`(batch, tokens, heads, dims)`: softmax(q k' / sqrt(d)) v of every head, by its definition."""

    def split(projection, what):
        return projection(what).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    query, key, value = (
        split(attention.q_proj, states),
        split(attention.k_proj, memory),
        split(attention.v_proj, memory),
    )
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("block", "path"), [*zip(BLOCKS, PATHS, strict=True)])
def test_t8_the_gate_multiplies_the_heads_contexts_before_the_output_projection(block, path, batch):
    model = translator(width=16).double()
    space = Space(model, "head")
    masks = space.ones().double()
    gates = torch.tensor([0.7, 0.0, 1.9, 1.0], dtype=torch.double)
    masks[space.slices[f"{block}.head"]] = gates
    with attached(model, space, masks) as attachment:
        said = heard(model, f"model.{path}", batch)
        attention = model.get_submodule(f"model.{path}")
        states = said["args"][0]
        memory = said["kwargs"].get("key_value_states", states)
        mixed = contexts(attention, states, memory, causal=block == "decoder.0") * gates.view(-1, 1)
        wanted = mixed.flatten(2) @ attention.out_proj.weight.T + attention.out_proj.bias
        torch.testing.assert_close(said["output"][0], wanted, rtol=0, atol=1e-9)
        loss = model(**batch).logits.tanh().sum()
        weights = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
        by_mask, *by_weight = torch.autograd.grad(loss, [attachment.masks, *(one.weight for one in weights)])
    assert by_mask[space.slices[f"{block}.head"]][1].abs() > 1e-6
    closed = slice(4, 8)  # the dims of head 1
    assert all(bool((one[closed] == 0).all()) and bool((one != 0).any()) for one in by_weight[:3])
    assert bool((by_weight[3][:, closed] == 0).all()) and bool((by_weight[3] != 0).any())


def test_t10_a_head_of_iwslts_model_has_262_528_parameters():
    model = translator()
    space = Space(model, "head")
    assert [group.name for group in space.groups] == [f"{block}.head" for block in BLOCKS]
    assert space.unit_cost().tolist() == [262_528.0] * 12
    for row in range(3):
        masks = space.ones()
        masks[4 * row + 2] = 0.0
        assert model.num_parameters() - cut(model, Plan.of(space, masks)).num_parameters() == 262_528


def test_t10_masked_is_removed_and_without_heads_the_bias_is_left(batch):
    model = translator(width=32)
    space = Space(model, "head")
    for name, row in zip(BLOCKS, range(3), strict=True):
        masks = space.ones()
        masks[[0, 4 + 1, 4 + 3, 8 + 2]] = 0.0
        masks[4 * row : 4 * row + 4] = 0.0  # and of this one all
        small = cut(model, Plan.of(space, masks))
        with torch.no_grad(), attached(model, space, masks):
            masked = model(**batch).logits
        with torch.no_grad():
            said = heard(small, f"model.{PATHS[row]}", batch)["output"][0]
            assert float((small(**batch).logits - masked).abs().max()) < 1e-5
        bias = model.get_submodule(f"model.{PATHS[row]}").out_proj.bias
        assert torch.equal(said, bias.expand_as(said)), name


def test_t12_row_6_is_the_cross_attention_of_the_decoders_first_layer(batch):
    model = translator(layers=6, width=16)
    space = Space(model, "head")
    importance = torch.zeros(18, 4)
    assert importance.numel() == len(space)
    importance[6] = 5.0
    plan = Plan.of(space, (importance.flatten() > 1.0).float())
    spoken = {}
    with torch.no_grad(), attached(model, space, plan.masks):
        for attention in space.table.attentions:
            said = heard(model, attention.path, batch)["output"][0]
            bias = model.get_submodule(attention.path).out_proj.bias
            spoken[attention.block] = not torch.equal(said, bias.expand_as(said))
    assert [block for block, speaks in spoken.items() if speaks] == ["decoder.0.cross"]
    assert list(spoken) == [
        *(f"encoder.{n}" for n in range(6)),
        *(f"decoder.{n}.cross" for n in range(6)),
        *(f"decoder.{n}" for n in range(6)),
    ]
