"""Law 4: a saved model is loaded bit for bit in a new process in all three ways, and with an error in any other.

Every model and head is loaded in every way with units of all kinds removed (`mixed`), and those with a leading head are
saved by transformers and loaded again. So are one encoder and one encoder-decoder in each of the other cases. The other
models are loaded once, with and without secateur, in these.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from kept_pieces import every_second, shares_its_pieces
from load_elsewhere import source
from other_process import last_line
from safetensors.torch import save_file
from tiny_models import (
    CLASSIFIERS,
    DECODERS,
    LEADING,
    MODELS,
    READERS,
    WRITERS,
    edge_cases,
    inputs,
    is_leading,
    outputs,
    random_masks,
    tiny,
)

from secateur.budget.space import Space
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.surgery.auto_classes import AUTO_CLASSES
from secateur.surgery.checkpoint import load, save
from secateur.surgery.cut import cut
from secateur.surgery.quantisation import quantise_embeddings

HERE = Path(__file__).parent
SINGLE = {"dtype": torch.float32}


def small(which, *units, density=0.5, soft=False, dtype=torch.float32, **options):
    """A tiny model, cut by random masks."""
    model = tiny(*which, dtype=dtype)
    space = Space(model, *units)
    return cut(model, Plan.of(space, random_masks(space, density, soft=soft), **options))


def fewer_pieces(which):
    """Cut with its vocabulary."""
    model = tiny(*which, dtype=torch.float32)
    space = Space(model, "ffn", "hidden")
    return cut(model, Plan.of(space, random_masks(space), vocabulary=every_second(model)))


def untied(which):
    """Cut from a model whose output is not tied to its word embeddings, although its config says so (T5 v1.1)."""
    model = tiny(*which, dtype=torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2)
    space = Space(model, "ffn", "hidden")
    return cut(model, Plan.of(space, random_masks(space)))


def in_int8(which):
    """Nothing is cut: without secateur the type of the rows alone must not let it load as a stock model."""
    return quantise_embeddings(tiny(*which, dtype=torch.bfloat16))


WAYS = ("load", "auto", "encoder", "trusted", "trusted-encoder", "neither")
THOROUGH = (CLASSIFIERS[0], WRITERS[-1], *DECODERS)


def cases():
    """Name -> (ways, head, maker of the cut model).

    Every head, every way in which units are dead, whole modules removed.
    """
    found = {}
    for model in MODELS:
        which = kind, head, shape = model.values[0]
        makers = {"mixed": partial(small, which, "ffn", "qk", "vo", "hidden")}
        if model in LEADING:
            makers |= {
                "edges": lambda kind=kind, shape=shape: cut(*edge_cases(kind, shape, soft=True, **SINGLE)[:2]),
                "tiles": partial(small, which, "attention/4x8", "ffn/8x4", density=0.2),
            }
        if model in READERS:
            makers["thin"] = partial(small, which, "hidden", embedding_rank=5, embedding_rows="int8")
            makers |= {"vocabulary": partial(fewer_pieces, which)} if shares_its_pieces(model) else {}
        if model in THOROUGH:
            makers |= {
                "no-heads": partial(small, which, "vo", density=0.0),
                "no-neurons": partial(small, which, "ffn", density=0.0),
                "sublayers": partial(small, which, "sublayer"),
                "rank": partial(small, which, "ffn", density=1.0, embedding_rank=5),
                "int8": partial(in_int8, which),
                "bfloat16": partial(small, which, "ffn", "head", soft=True, dtype=torch.bfloat16),
            }
        if model in WRITERS and shape == 1:
            makers |= {"untied": partial(untied, which)}
        for name, make in makers.items():
            ways = WAYS if name == "mixed" or model in THOROUGH else ("load", "trusted")
            found[f"{kind}-{head}-{shape}-{name}"] = (ways, head, make)
    return found


CASES = cases()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """`way case` -> the first difference, from a process with secateur and one that cannot import it."""
    root = tmp_path_factory.mktemp("saved")
    listed = []
    for name, (ways, head, make) in CASES.items():
        save(model := make(), root / name)
        again = ways == WAYS and is_leading(head)
        listed.append(recorded(model, root / name) | {"auto": AUTO_CLASSES[head], "ways": ways, "again": again})
    (root / "cases.json").write_text(json.dumps(listed))
    return elsewhere(root, *WAYS[:3]) | elsewhere(root, *WAYS[3:])


def recorded(model, folder):
    """A case of `load_elsewhere`, whose tensors are written beside the folder of the model."""
    batch = inputs(model)
    said, states = outputs(model, batch)
    known = {f"state.{key}": value for key, value in model.state_dict().items()}
    known |= {f"input.{key}": value for key, value in batch.items()}
    known |= {f"output.{key}": value for key, value in said.items()}
    known |= {f"output.hidden.{layer}": value for layer, value in enumerate(states)}
    if model.can_generate():
        known["output.written"] = model.generate(**source(batch), max_new_tokens=4, num_beams=2)
    save_file({key: value.clone() for key, value in known.items()}, folder.with_name(f"{folder.name}.safetensors"))
    return {"folder": str(folder)}


def elsewhere(root, *ways):
    modules = str(root / "modules")
    return json.loads(last_line(HERE / "load_elsewhere.py", root / "cases.json", *ways, HF_MODULES_CACHE=modules))


@pytest.mark.parametrize(("case", "way"), [(case, way) for case, (ways, *_) in CASES.items() for way in ways])
def test_saved_is_loaded_bit_for_bit(report, case, way):
    """`encoder` is the encoder alone, by `AutoModel`, whatever the head; its copies too."""
    assert report[f"{way} {case}"] == ""


OTHER_HEADS = {
    f"{'-'.join(map(str, which))}-{auto}": (which, auto)
    for which in (one.values[0] for one in CLASSIFIERS)
    for auto in ("AutoModelForTokenClassification", "AutoModelForQuestionAnswering", "AutoModel")
    if {"ForSequenceClassification", "ForTokenClassification"} <= {*ARCHITECTURES.all()[which[0]].heads}
} | {
    f"{kind}-Model-{AUTO_CLASSES[head]}": ((kind, "Model", 0), AUTO_CLASSES[head])
    for kind, family in ARCHITECTURES.all().items()
    for head in family.heads
    if head != "Model"
}
OF_LABELS = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")
HEADED_WAYS = ("load", "auto", "trusted", "encoder", "trusted-encoder", "neither")
NEW_WAYS = ("new-head", "trusted-new-head")


@pytest.fixture(scope="module")
def with_other_heads(tmp_path_factory):
    """As `report`, of models that are loaded with another head than they were cut with, and saved with it."""
    root = tmp_path_factory.mktemp("heads")
    listed = []
    for name, (which, auto) in OTHER_HEADS.items():
        first = root / f"{name}-first"
        save(was := small(which, "ffn", "vo", "head"), first)
        labels = {"num_labels": 5} if auto in OF_LABELS else {}
        model = getattr(transformers, auto).from_pretrained(first, **labels, ignore_mismatched_sizes=True)
        model.eval().save_pretrained(root / name)
        listed.append(recorded(was, first) | {"auto": auto, "ways": NEW_WAYS, "again": False})
        listed.append(recorded(model, root / name) | {"auto": auto, "ways": HEADED_WAYS, "again": False})
    (root / "cases.json").write_text(json.dumps(listed))
    trusted = ("trusted", "trusted-encoder", "trusted-new-head", "neither")
    return elsewhere(root, "load", "auto", "encoder", "new-head") | elsewhere(root, *trusted)


@pytest.mark.parametrize("way", HEADED_WAYS)
@pytest.mark.parametrize("case", OTHER_HEADS)
def test_a_model_that_was_given_another_head_is_loaded_bit_for_bit(with_other_heads, case, way):
    assert with_other_heads[f"{way} {case}"] == ""


@pytest.mark.parametrize("way", NEW_WAYS)
@pytest.mark.parametrize("case", OTHER_HEADS)
def test_another_head_is_had_with_and_without_secateur_and_the_encoder_is_the_one_that_was_cut(
    with_other_heads, case, way
):
    assert with_other_heads[f"{way} {case}-first"] == ""


@pytest.mark.parametrize("which", [(kind, "Model", 0) for kind in ARCHITECTURES.all()])
def test_a_new_head_has_the_encoder_that_was_saved_alone(which, tmp_path):
    head = next(head for head in ARCHITECTURES.all()[which[0]].heads if head != "Model")
    model = small(which, "ffn", "vo")
    save(model, tmp_path / "encoder")
    headed = getattr(transformers, AUTO_CLASSES[head]).from_pretrained(tmp_path / "encoder")
    state, below = model.state_dict(), headed.base_model.state_dict()
    same = [name for name in state if name in below and torch.equal(state[name], below[name])]
    assert all(name in same or name.startswith("pooler.") for name in state)
    headed.save_pretrained(tmp_path / "headed")
    again = transformers.AutoModel.from_pretrained(tmp_path / "headed").state_dict()
    assert all(torch.equal(again[name], below[name]) for name in again)


@pytest.mark.parametrize(
    ("which", "auto", "units", "rank", "part"),
    [
        (("bert", "Model", 0), "AutoModelForSequenceClassification", ("hidden",), None, "a new head reads 32 dims"),
        (("t5", "Model", 0), "AutoModelForSeq2SeqLM", ("hidden",), None, "a new head reads 32 dims"),
        (("llama", "Model", 0), "AutoModelForCausalLM", ("ffn",), 5, "a new head of words does not share factorised"),
        (
            ("bert", "ForSequenceClassification", 0),
            "AutoModelForTokenClassification",
            ("hidden",),
            None,
            "reads 32 dims",
        ),
    ],
)
def test_a_new_head_that_does_not_fit_is_refused_in_one_sentence(which, auto, units, rank, part, tmp_path):
    save(small(which, *units, embedding_rank=rank), tmp_path / "model")
    with pytest.raises(ValueError, match=f"{part}.*: give the dense model its head first, as [A-Z]") as refusal:
        getattr(transformers, auto).from_pretrained(tmp_path / "model")
    assert "\n" not in str(refusal.value)


def test_another_number_of_labels_is_had_or_refused(tmp_path):
    which = "llama", "ForSequenceClassification", 0
    save(small(which, "ffn"), tmp_path / "whole")
    save(small(which, "hidden"), tmp_path / "thin")
    auto, more = transformers.AutoModelForSequenceClassification, {"num_labels": 5, "ignore_mismatched_sizes": True}
    assert auto.from_pretrained(tmp_path / "whole", **more).score.out_features == 5
    with pytest.raises(ValueError, match="asks for 5 outputs of score, and the model was cut with 2"):
        auto.from_pretrained(tmp_path / "thin", **more)


@pytest.mark.parametrize("auto", ["AutoModelForTokenClassification", "AutoModel"])
def test_the_config_names_the_code_of_all_heads_of_the_family(auto, tmp_path):
    save(small(("bert", "ForSequenceClassification", 0), "ffn"), tmp_path / "first")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    words = {"AutoTokenizer": ["words.Slow", None]}
    (tmp_path / "first" / "config.json").write_text(json.dumps(config | {"auto_map": config["auto_map"] | words}))
    (tmp_path / "first" / "SHA256SUMS").unlink()
    model = getattr(transformers, auto).from_pretrained(tmp_path / "first")
    heads = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    classes = {AUTO_CLASSES[head]: f"modeling_secateur.PrunedBert{head}" for head in heads}
    model.save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["auto_map"] == words | classes


@pytest.mark.parametrize("which", LEADING)
def test_the_plan_is_saved_and_the_model_in_a_folder_can_be_replaced(which, tmp_path):
    first, second = small(which, "ffn"), small(which, "head", "hidden")
    save(first, tmp_path / "model", card="# a card\n")
    save(second, tmp_path / "model")
    files = {path.name for path in (tmp_path / "model").iterdir()}
    if first.can_generate():
        assert "generation_config.json" in (tmp_path / "model" / "SHA256SUMS").read_text()
        files.remove("generation_config.json")
    own = {"config.json", "model.safetensors", "modeling_secateur.py", "plan.json", "SHA256SUMS"}
    assert files == own | {"README.md"}  # the card stays until another one is given
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = load(tmp_path / "model")
    assert loaded.plan == second.plan
    state, expected = loaded.state_dict(), second.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)
    loaded.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").plan == second.plan


@pytest.mark.parametrize("which", LEADING)
def test_a_folder_is_loaded_with_masks_for_sdpa_whatever_attention_is_asked_for(which, tmp_path):
    model = small(which, "head", "ffn")
    save(model, tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model", attn_implementation="flex_attention").eval()
    (said, _), (known, _) = outputs(loaded, inputs(model)), outputs(model, inputs(model))
    assert all(torch.equal(said[name], known[name]) for name in known)
