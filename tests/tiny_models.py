"""Tiny random models of every registered architecture, and methods that have seen random evidence.

The laws take the names of architectures and methods from the registries, so a new file there is tested at
once. A new family needs a line here only if its config calls a size by a new name (`SIZES`), exists in two
shapes (`SHAPES`), takes other inputs than token ids (`inputs`), or is another one under its own name (`NAMESAKES`).
"""

from dataclasses import replace
from functools import cache
from inspect import signature
from itertools import cycle, product

import pytest
import torch
import transformers
from transformers import AutoConfig
from transformers.models.llama import modeling_llama
from transformers.models.modernbert import modeling_modernbert
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.models.vit import modeling_vit

from secateur import methods
from secateur.budget.space import Space
from secateur.methods.schedules import cubic
from secateur.structure import architectures
from secateur.structure.groups import UNITS
from secateur.structure.head_buckets import Layout
from secateur.structure.plan import Plan
from secateur.surgery.auto_classes import AUTO_CLASSES
from secateur.surgery.sentence.attach import attach_head
from secateur.surgery.sentence.head import Dense, SentenceHead
from secateur.system.casting import cast

# What a size may be called in a config, and the tiny value; a config takes the names that it knows.
SIZES = {
    ("vocab_size",): 50,
    ("hidden_size", "dim", "d_model", "n_embd"): 32,
    ("embedding_size",): 32,
    ("num_hidden_layers", "n_layers", "n_layer", "num_layers"): 2,
    ("decoder_layers", "num_decoder_layers"): 2,
    ("num_attention_heads", "n_heads", "n_head", "decoder_attention_heads"): 4,
    ("intermediate_size", "hidden_dim", "n_inner", "encoder_ffn_dim", "d_ff"): 48,
    ("decoder_ffn_dim",): 40,
    ("d_kv", "head_dim"): 8,
    ("num_key_value_heads",): 2,
    ("max_position_embeddings", "n_positions"): 40,
    ("num_labels",): 2,
    ("image_size",): 8,
    ("patch_size",): 4,
}
# Families whose table depends on the config, or whose default config fits no tiny model.
MARIAN = {"pad_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2, "decoder_start_token_id": 0}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
SHAPES = {
    "distilbert": ({"sinusoidal_pos_embds": True},),
    "electra": ({"embedding_size": 32}, {"embedding_size": 24}),
    "deberta-v2": (
        DEBERTA
        | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
        | {"position_buckets": 4, "max_relative_positions": 16},
        DEBERTA | {"max_relative_positions": 5, "type_vocab_size": 2, "embedding_size": 24, "intermediate_size": 80},
    ),
    "bart": ({"scale_embedding": True},),
    "marian": (MARIAN, MARIAN | {"share_encoder_decoder_embeddings": False}),
    "modernbert": (
        SPECIAL | {"local_attention": 4},
        SPECIAL | {"local_attention": 6, **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), True)},
    ),
    "llama": (SPECIAL, SPECIAL | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": (SPECIAL | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},),
    "qwen3": (SPECIAL,),
    "mistral": (SPECIAL | {"sliding_window": 4},),
    "deit": ({"architectures": ["DeiTForImageClassification"]},),  # the AutoModel has two classes for it
    "t5": (
        {"decoder_start_token_id": 0},
        {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}

# Family -> the one whose table it has: of it the laws take one model, because the other one's cover the table.
NAMESAKES = {"camembert": "roberta", "xlm-roberta": "roberta", "qwen2": "llama", "mistral": "llama", "deit": "vit"}

# Families whose QK dims are no units: their laws are in tests/structure/test_grouped_heads.py.
WITHOUT_QK = ("qwen3",)


# The heads of classes: each family has one of them at most.
OF_CLASSES = ("ForSequenceClassification", "ForImageClassification")


def is_leading(head):
    """Whether a head is that of the first task of a family."""
    return head in OF_CLASSES or AUTO_CLASSES[head] == "AutoModelForSeq2SeqLM"


FAMILIES = {kind: one for kind, one in architectures.ARCHITECTURES.all().items() if kind not in WITHOUT_QK}
ARCHITECTURES = tuple(FAMILIES)
OF_IMAGES = tuple(kind for kind, one in FAMILIES.items() if "ForImageClassification" in one.heads)
# The encoders of texts.
ENCODERS = tuple(
    kind
    for kind, one in FAMILIES.items()
    if kind not in OF_IMAGES and not any(a.causal for s in one.stacks for a in s.attentions)
)
METHODS = tuple(methods.METHODS.all())
MONOTONE = tuple(name for name, method in methods.METHODS.all().items() if method.monotone)
# Every head of every architecture, the leading one in every shape: heads do not depend on it. Arguments of `tiny`.
MODELS = tuple(
    pytest.param((kind, head, shape), id=f"{kind}{shape or ''}-{head}")
    for kind, architecture in FAMILIES.items()
    for head in architecture.heads
    if kind not in NAMESAKES or head in OF_CLASSES
    for shape in range(len(SHAPES.get(kind, ({},))) if is_leading(head) else 1)
)
CLASSIFIERS = tuple(
    model for model in MODELS if model.values[0][1] in OF_CLASSES and model.values[0][0] not in NAMESAKES
)
WRITERS = tuple(model for model in MODELS if AUTO_CLASSES[model.values[0][1]] == "AutoModelForSeq2SeqLM")
# Decoders that generate, of every table.
DECODERS = tuple(model for model in MODELS if model.values[0][1] == "ForCausalLM")
# A model of every table and shape, with the head of a task.
LEADING = (*CLASSIFIERS, *WRITERS)
# Those of them that read words.
READERS = tuple(model for model in LEADING if model.values[0][0] not in OF_IMAGES)
# An encoder of every family with a head for sentence embeddings.
SENTENCES = tuple(pytest.param((kind, "Sentence", 0), id=f"{kind}-Sentence") for kind in ENCODERS)
# One whose vectors have a width of their own, and one whose vectors are states of its residual stream.
VECTORS = (SENTENCES[0], pytest.param((ENCODERS[0], "Pooled", 0), id=f"{ENCODERS[0]}-Pooled"))
# The kinds of units that every family has.
COMMON_UNITS = tuple(kind for kind in UNITS if kind != "kv_head")
UNIT_SETS = (
    ("ffn", "qk", "vo"),
    ("head", "ffn"),
    ("hidden",),
    ("sublayer",),
    ("layer", "head"),
    ("hidden", "head", "sublayer", "ffn"),
    ("attention/4x8", "ffn"),
    ("attention/head", "ffn/8x4", "hidden", "vo"),
    ("ffn", "qk", "vo", "head", "sublayer", "hidden"),
)

# A model and units, `which, units`: those with the head of a first task have each set. The other heads, which read the
# states of a stack, have all units at once.
FIRST = tuple(model for model in MODELS if is_leading(model.values[0][1]))
IN_UNITS = tuple(
    pytest.param(*which.values, units, id=f"{which.id}-{'-'.join(units)}")
    for which in (*MODELS, *SENTENCES)
    for units in (UNIT_SETS if which in FIRST else UNIT_SETS[-2:])
)

# How the kept heads of an attention may be stored, given their number.
LAYOUTS = {
    "one a head": lambda heads: Layout(tuple((head,) for head in reversed(range(heads)))),
    "interleaved": lambda heads: Layout(tuple(filter(None, (tuple(range(k, heads, 2)) for k in (1, 0)))), 4),
    "rounded beyond the head": lambda heads: Layout(tuple([tuple(reversed(range(heads)))] * (heads > 0)), 16),
}


def covering(models, unit_sets, methods):
    """Arguments `which, units, name` for what is asked of every method: any two of the three meet in one of them.

    All pairs in the two longest columns, with the values of the shortest in turn: a model, units and a method that
    fail only together would be missed.
    """
    columns = (models, unit_sets, methods)
    longest, middle, shortest = sorted(range(3), key=lambda number: len(columns[number]), reverse=True)
    rows = []
    for first, second in product(range(len(columns[longest])), range(len(columns[middle]))):
        at = {longest: first, middle: second, shortest: (first + second) % len(columns[shortest])}
        which, units, name = (column[at[number]] for number, column in enumerate(columns))
        rows.append(pytest.param(*which.values, units, name, id=f"{which.id}-{'-'.join(units)}-{name}"))
    return rows


def for_every_method(models, unit_sets, methods):
    """Arguments `which, units, name` for what is asked of methods: any method meets any units, of models in turn."""
    pairs = product(unit_sets, methods)
    return [
        pytest.param(*which.values, units, name, id=f"{which.id}-{'-'.join(units)}-{name}")
        for (units, name), which in zip(pairs, cycle(models), strict=False)
    ]


def meeting_units(models, unit_sets, methods):
    """Arguments `which, units, name` for what takes long: any model meets any units, and any method meets any units.

    A model and a method meet in some cases alone: a method knows nothing of a model but its units.
    """
    rows = []
    for number, units in enumerate(unit_sets):
        for turn in range(max(len(models), len(methods))):
            which, name = models[turn % len(models)], methods[(turn + number) % len(methods)]
            rows.append(pytest.param(*which.values, units, name, id=f"{which.id}-{'-'.join(units)}-{name}"))
    return rows


@cache
def default_sizes(kind):
    """The attributes of a family's default config, under every name that it takes."""
    config = AutoConfig.for_model(kind)
    return {*config.to_dict(), *config.attribute_map, "num_labels"}


def leading(kind):
    """The head of a task that a family has: the first of `LEADING`."""
    table = NAMESAKES.get(kind, kind)
    return next(model.values[0][1] for model in LEADING if model.values[0][0] == table)


def exact_rotation(query, key, cos, sin, unsqueeze_dim=1):
    """ModernBERT's rotation in its input's precision: the stock one takes single, whose noise would hide mistakes."""
    if query.dtype != torch.float64:
        return STOCK_ROTATION(query, key, cos, sin, unsqueeze_dim)
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    half = modeling_modernbert.rotate_half
    return query * cos + half(query) * sin, key * cos + half(key) * sin


def exact_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """ModernBERT's eager attention in its input's precision: in single, a mask of the least double is infinite."""
    if query.dtype != torch.float64:
        return STOCK_ATTENTION(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
    scores = query @ key.transpose(2, 3) * scaling
    weights = torch.dropout((scores if attention_mask is None else scores + attention_mask).softmax(-1), dropout, True)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def exact_decoding(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Llama's eager attention in its input's precision: the stock one takes the softmax in single."""
    if query.dtype != torch.float64:
        return STOCK_DECODING(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
    shared = (states.repeat_interleave(module.num_key_value_groups, dim=1) for states in (key, value))
    return exact_attention(module, query, *shared, attention_mask, scaling, dropout)


def exact_of_patches(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """ViT's eager attention in its input's precision: the stock one takes the softmax in single."""
    if query.dtype != torch.float64:
        return STOCK_OF_PATCHES(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    return exact_attention(module, query, key, value, attention_mask, scaling, dropout)


STOCK_ROTATION, STOCK_ATTENTION = modeling_modernbert.apply_rotary_pos_emb, modeling_modernbert.eager_attention_forward
modeling_modernbert.apply_rotary_pos_emb = exact_rotation
modeling_modernbert.eager_attention_forward = exact_attention
STOCK_DECODING = modeling_llama.eager_attention_forward
modeling_llama.eager_attention_forward = exact_decoding
STOCK_OF_PATCHES = modeling_vit.eager_attention_forward
modeling_vit.eager_attention_forward = exact_of_patches


class Exact(T5LayerNorm):
    """An RMSNorm in its input's precision: the stock ones take single, whose noise would hide mistakes."""

    def forward(self, hidden_states):
        variance = hidden_states.square().mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


def tiny(kind, head=None, shape=0, *, seed=0, dtype=torch.float64, dropout=0.0, **sizes):
    """A random model: every weight from N(0, 0.3), norms around 1, in evaluation mode; by default the leading one."""
    if head in ("Sentence", "Pooled"):
        encoder = tiny(kind, "Model", shape, seed=seed, dtype=dtype, dropout=dropout, **sizes)
        return with_sentence_head(encoder, dense=head == "Sentence")
    head = head or leading(kind)
    known = default_sizes(kind)
    config = {name: size for names, size in SIZES.items() for name in names if name in known}
    config |= {name: dropout for name in known if "dropout" in name}
    config |= SHAPES.get(kind, ({},))[shape] | sizes
    auto = getattr(transformers, AUTO_CLASSES[head])
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(kind, **config)).eval()
    cast(model, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    for module in model.modules():
        if hasattr(module, "variance_epsilon") and dtype == torch.float64:  # an RMSNorm
            module.__class__ = Exact
    return model


def with_sentence_head(model, dense=True):
    """A bare encoder with a head that pools its states and normalises them; with `dense` it maps them to 20 dims."""
    width = model.config.hidden_size
    maps = [Dense(width, 20, True, torch.nn.Tanh())] if dense else []
    return attach_head(model, SentenceHead(("mean",), maps, width=width))


def of_images(model):
    """Whether the model reads images, of 8 x 8 pixels here: they have no words, no length and no padding."""
    return model.config.model_type in OF_IMAGES


def inputs(model, *, padded=True, seed=0):
    """A batch of 3 x 7 token ids on the model's device; `padded` ends the last two sequences early. Or of 3 images."""
    generator = torch.Generator().manual_seed(seed)
    if of_images(model):
        images = torch.randn(3, model.config.num_channels, 8, 8, generator=generator, dtype=model.dtype)
        return {"pixel_values": images.to(model.device)}
    ids = torch.randint(5, model.config.vocab_size, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 5:] = mask[2, 2:] = 0
        ids = ids.masked_fill(mask == 0, model.config.pad_token_id)
    batch = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in signature(model.forward).parameters:
        batch["token_type_ids"] = ids % max(1, model.config.type_vocab_size)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.randint(5, model.config.vocab_size, (3, 6), generator=generator)
        batch["decoder_attention_mask"] = torch.ones(3, 6, dtype=torch.long)
        if padded:
            batch["decoder_attention_mask"][0, 4:] = 0
    return {name: value.to(model.device) for name, value in batch.items()}


def every_kind_of_inputs(model):
    """Batches padded, of 35 tokens, of one token, without a mask, of embeddings, and with positions of their own.

    35 tokens are more than a window or a table of relative positions holds; most padding sees nothing but padding.
    """
    padded, full = inputs(model), inputs(model, padded=False)
    long = {name: value.repeat(1, 5) for name, value in inputs(model, padded=False, seed=1).items()}
    long["attention_mask"][1, 4:] = long["attention_mask"][2, 20:] = 0
    words = model.get_input_embeddings()(full["input_ids"]).detach()
    return [
        padded,
        long,
        {name: value[:, :1] for name, value in full.items()},
        {"input_ids": full["input_ids"]},
        {"inputs_embeds": words, "attention_mask": padded["attention_mask"]},
        padded | {"position_ids": torch.arange(3, 10).flip(0).expand(3, 7)},
    ]


def outputs(model, batch):
    """Everything that a model says: output tensors by name, and hidden states `(batch, tokens, hidden)`."""
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    return tensors, [state for name, states in found.items() if name.endswith("hidden_states") for state in states]


def learn(method, progress, generator):
    """One optimizer step as the trainer takes it: random evidence, heard or by autograd, then `advance`."""
    evidence = torch.randn(len(method.space), generator=generator)
    method.train()
    loss = (method.masks() * evidence).sum() + method.penalty()
    if (groups := method.param_groups()) and loss.requires_grad:  # not yet, before its schedule begins
        optimizer = torch.optim.AdamW(groups)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if method.listens_to:
        method.observe(evidence)
    method.advance(progress)
    method.eval()


def taught(name, space, density=1.0, *, steps=5, seed=0):
    """A registered method after a whole schedule of random evidence, from density 1 to `density`."""
    schedule = cubic(1.0, density, begin=0.2, end=0.8)
    method = methods.METHODS.get(name)(space, schedule)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        learn(method, (step + 1) / steps, generator)
    return method


def random_masks(space, density=0.5, *, soft=False, seed=0):
    """`(N,)`, about `density` of it not 0; soft masks lie in [0.3, 1)."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(len(space), generator=generator) < density
    values = 0.3 + 0.7 * torch.rand(len(space), generator=generator) if soft else torch.ones(len(space))
    if "hidden" in space.slices:
        kept[space.slices["hidden"].start] = True
    return values * kept


def laid_out(plan, space, layout):
    """The layouts of all attentions of a plan, as one of `LAYOUTS` has them."""
    reading, attentions = plan.read(space), space.table.attentions
    own = [layout(len(reading.head_sizes(number)[0])) for number in range(len(attentions))]
    least = [2 if attention.rotary else 1 for attention in attentions]  # rotary dims are stored in pairs
    return [replace(one, multiple=max(one.multiple, pair)) for one, pair in zip(own, least, strict=True)]


def edge_cases(kind, shape=0, *, soft=False, hidden=True, **options):
    """A model of four layers (an encoder-decoder: four each) and masks that hold every way to die in one.

    Attentions take their turns at it: that of an encoder's first layer has what BERT's first layer has, and so do the
    first of a decoder's own and its first to the encoder.
    """
    model = tiny(
        kind, shape=shape, **dict.fromkeys(names_of(kind, "num_hidden_layers", "decoder_layers"), 4), **options
    )
    space = Space(model, "ffn", "qk", "vo", "head", "sublayer", *(("hidden",) if hidden else ()))
    masks = random_masks(space, 0.8, soft=soft, seed=1)
    units = {name: masks[rows] for name, rows in space.slices.items()}  # views
    table, size = space.table, space.table.head_dim
    for sublayer in table.sublayers:
        units[sublayer.gate][:] = 0.7 if soft else 1.0
    blocks = [attention.block for attention in table.attentions]
    for block in blocks:
        units[f"{block}.head"][:] = 0.7 if soft else 1.0
    for block in blocks[0::4]:
        units[f"{block}.qk"][:size] = 0.0  # a head without QK lives: uniform attention
        units[f"{block}.vo"][size : 2 * size] = 0.0  # a head without VO is dead
        units[f"{block}.vo"][2 * size : 3 * size - 1] = 0.0  # heads of different sizes
        units[f"{block}.head"][3] = 0.0
    for block in blocks[1::4]:
        units[f"{block}.attention"][:] = 0.0  # gate zero: no attention
    for block in blocks[2::4]:
        units[f"{block}.vo"][:] = 0.0  # all heads dead, the output bias speaks
    for block in blocks[3::4]:
        units[f"{block}.qk"][:] = 0.0  # every head of a layer without QK
    for layer in table.layers[2::4]:
        units[f"{layer}.ffn"][:] = 0.0  # no neurons, the output bias speaks
    for layer in table.layers[3::4]:
        units[f"{layer}.mlp"][:] = 0.0  # gate zero: no FFN
    return model, Plan.of(space, masks), masks


def names_of(kind, *sizes):
    """What a family's config calls sizes, by one of their names in `SIZES`."""
    return [name for names in SIZES if set(names) & set(sizes) for name in names if name in default_sizes(kind)]
