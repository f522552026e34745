"""Law 15: what fused kernels are passed is aligned, on every device.

What the attention kernels of a GPU are passed is seen without one: the CPU is given the rules of a GPU.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import inputs, tiny
from torch import nn
from torch.nn import functional

from secateur.budget.space import Space
from secateur.surgery import masking
from secateur.surgery.compact import attention, kernels
from secateur.surgery.compact.attention_calls import EncoderBiasAttention
from secateur.surgery.schema import AttentionStructure

HIDDEN, STOCK_HEADS = 12, 6
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ALIGNED = 16
"""Bytes of which the pointers of what a kernel is passed must be multiples."""


def compact_attention(buckets, multiple=1):
    """An attention with heads of these sizes, one list `[(qk, vo), ...]` for each bucket, and random weights."""
    qk, vo = zip(*(head for bucket in buckets for head in bucket), strict=True)
    names = {"query": "q", "key": "k", "value": "v", "output": "o"}
    structure = AttentionStructure(
        call="encoder_bias", **names, causal=False, layer=0, bias=None, dropout="dropout", after=None,
        heads=tuple(range(len(qk))), qk=qk, vo=vo, pairs=None, scale=0.3, buckets=tuple(map(len, buckets)),
        multiple=multiple, norms=(), queries=None,
    )  # fmt: skip
    widths = attention._buckets(structure)
    wide = [sum(bucket.keys * getattr(bucket, part) for bucket in widths) for part in ("qk", "qk", "vo")]
    projections = {name: nn.Linear(HIDDEN, size) for name, size in zip("qkv", wide, strict=True)}
    stock = nn.ModuleDict({**projections, "o": nn.Linear(wide[2], HIDDEN), "dropout": nn.Dropout(0.0)})
    return EncoderBiasAttention(stock, structure)


def masks(batch, tokens, dtype):
    """A mask of each kind that models pass, the last token of the first row left out."""
    kept = torch.ones(batch, 1, 1, tokens, dtype=torch.bool)
    kept[0, ..., -1] = tokens == 1
    additive = torch.zeros(batch, 1, 1, tokens, dtype=dtype).masked_fill(~kept, torch.finfo(dtype).min)
    wider = torch.zeros(batch, 1, tokens, tokens + 3, dtype=dtype)[..., :tokens]  # as of a static cache
    return {
        "none": None,
        "bool": kept.expand(batch, 1, tokens, tokens),
        "additive": additive.expand(batch, 1, tokens, tokens),
        "slice": wider,
    }


def assert_aligned(tensor, multiple):
    """Check the pointer and, in elements, the strides."""
    strides = [stride for stride, size in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True) if size > 1]
    assert tensor.data_ptr() % ALIGNED == 0
    assert all(stride % multiple == 0 for stride in strides)
    assert tensor.stride(-1) == 1


def assert_accepted(query, key, value, attn_mask=None, **options):
    """Check what a kernel is passed, and compute the attention."""
    assert query.shape[-1] == key.shape[-1] == value.shape[-1]
    assert query.shape[-1] % 8 == 0
    for tensor in (query, key, value):
        assert_aligned(tensor, 8)
    if attn_mask is not None:
        assert_aligned(attn_mask, kernels.MASK_MULTIPLE)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)


@pytest.fixture(scope="module")
def on_gpu():
    """Within this module, `call(function)` runs a function under the rules of a GPU, with a kernel that checks them."""

    def call(function):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "rules_for", lambda device, training: kernels.CUDA)
            checked = SimpleNamespace(**{**vars(functional), "scaled_dot_product_attention": assert_accepted})
            patch.setattr(attention, "functional", checked)
            return function()

    return call


heads = st.tuples(st.integers(0, 19), st.integers(0, 19))
buckets = st.lists(st.lists(heads, min_size=1, max_size=3), min_size=1, max_size=2)


@given(
    buckets=buckets,
    multiple=st.sampled_from([1, 4, 8]),
    shape=st.sampled_from([(1, 1), (1, 7), (3, 1), (2, 16), (3, 90)]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["none", "bool", "additive", "slice"]),
    biased=st.booleans(),
    training=st.booleans(),
)
def test_kernels_get_aligned_memory_and_the_outputs_stay(
    on_gpu, buckets, multiple, shape, dtype, kind, biased, training
):
    """At 3 x 90 tokens the three projections are one product outside of training, and its slices are copied."""
    module = compact_attention(buckets, multiple).to(dtype).train(training)
    states, mask = torch.randn(*shape, HIDDEN, dtype=dtype), masks(*shape, dtype)[kind]
    bias = torch.randn(1, STOCK_HEADS, shape[1], shape[1], dtype=dtype) if biased else None
    expected = module(states, mask, bias)[0]
    found = on_gpu(lambda: module(states, mask, bias)[0])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_gradients_are_those_of_unpadded_heads(on_gpu):
    module = compact_attention([[(3, 5), (1, 7)], [(11, 9)]]).double()
    states = torch.randn(2, 5, HIDDEN, dtype=torch.double)
    bias = torch.randn(1, STOCK_HEADS, 5, 5, dtype=torch.double, requires_grad=True)

    def gradients():
        loss = module(states, None, bias)[0].square().sum()
        return torch.autograd.grad(loss, [*module.parameters(), bias])

    torch.testing.assert_close(on_gpu(gradients), gradients())


def test_heads_of_multiples_of_8_are_not_copied():
    """A GPU whose plan was rounded to multiples pays nothing."""
    parts = [torch.randn(2, 3, 2 * 16) for _ in range(3)]
    for part, given_to_kernel in zip(
        parts, kernels.heads_of(parts, (2, 2, 2), kernels.CUDA, aligned=True), strict=True
    ):
        assert given_to_kernel.data_ptr() == part.data_ptr()


@pytest.mark.parametrize(
    ("device", "training", "expected"),
    [
        ("cuda", True, kernels.CUDA),
        ("cuda", False, kernels.CUDA),
        ("cpu", False, kernels.CPU),
        ("cpu", True, kernels.ANY),
    ],
)
def test_the_rules_follow_the_device(device, training, expected):
    assert kernels.rules_for(torch.device(device), training) == expected


def test_attention_on_a_gpu_does_not_use_cudnn():
    """These switches of PyTorch exist without a GPU too."""
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    with kernels.reliable_kernels(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == enabled
    with kernels.reliable_kernels(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled() == enabled


def test_a_masked_forward_leaves_the_choice_of_kernels_as_it_was(monkeypatch):
    """Also one that fails."""
    entered = []

    @contextmanager
    def noted(device):
        entered.append(device)
        yield
        entered.remove(device)

    monkeypatch.setattr(masking, "reliable_kernels", noted)
    model = tiny("bert")
    space, batch, inside = Space(model, "ffn"), inputs(model), []
    with masking.attached(model, space, space.ones()):
        model.bert.encoder.register_forward_hook(lambda *_: inside.append(len(entered)))
        model(**batch)
        with pytest.raises(IndexError):
            model(**{**batch, "input_ids": batch["input_ids"] + 1000})
        model(**batch)
    assert inside == [1, 1] and entered == []
