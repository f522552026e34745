"""Compact folders are written whole or not at all, and a folder that is not right is refused in one sentence."""

import copy
import errno
import json
import math
import os
import shutil
import struct
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import ARCHITECTURES, CLASSIFIERS, edge_cases, inputs, of_images, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure import architectures
from secateur.structure.plan import Plan
from secateur.surgery.auto_classes import AUTO_CLASSES
from secateur.surgery.checkpoint import load, save
from secateur.surgery.compact import SUMS, Pruned
from secateur.surgery.cut import cut
from secateur.surgery.factorisation import factorise
from secateur.surgery.uncut import planned_structure
from secateur.system.errors import UserError

ATTENTION = "bert.encoder.layer.0.attention.self"


def small(*units, which=("bert",), density=0.5, seed=0):
    model = tiny(*which, dtype=torch.float32)
    space = Space(model, *units)
    return cut(model, Plan.of(space, random_masks(space, density, seed=seed)))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_refused(folder, *parts):
    with pytest.raises(UserError) as refusal:
        load(folder)
    text = str(refusal.value)
    assert "\n" not in text and str(folder) in text and all(part in text for part in parts), text


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(small("ffn", "qk", "vo"), folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A saved model of its own, to be damaged; without sums, which would tell first (`test_hard_use.py`)."""
    place = shutil.copytree(original, tmp_path / "model")
    (place / SUMS).unlink()
    return place


def change_config(folder, change):
    data = json.loads((folder / "config.json").read_text())
    change(data)
    (folder / "config.json").write_text(json.dumps(data))


def change_weights(folder, change):
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Saving


def full_disk(folder, *args, **kwargs):
    (folder / "model.safetensors").write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("there", [True, False], ids=["over a model", "a new folder"])
@pytest.mark.parametrize("failing", ["model", "tokenizer"])
def test_a_failed_save_leaves_the_folder_unchanged(folder, monkeypatch, failing, there):
    if not there:
        shutil.rmtree(folder)
    before = content(folder) if there else None
    model, tokenizer = small("head"), SimpleNamespace(save_pretrained=full_disk)
    if failing == "model":
        monkeypatch.setattr(model, "save_pretrained", full_disk)
    with pytest.raises(UserError, match=r"No space left on device.*nothing was written"):
        save(model, folder, tokenizer=tokenizer)
    assert [path.name for path in folder.parent.iterdir()] == (["model"] if there else [])
    assert not there or content(folder) == before


def test_a_folder_is_replaced_as_a_whole_where_that_is_asked_for(folder):
    (folder / "left over.txt").write_text("from before")
    save(small("head"), folder, card="# a card\n", replace=True)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    files = content(folder)
    own = {"config.json", "model.safetensors", "modeling_secateur.py", "plan.json"}
    assert set(files) == {"README.md", SUMS, *own}
    assert json.loads(files["plan.json"])["units"] == ["head"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "letter").write_text("dear reader")
    with pytest.raises(UserError, match="letter is a file"):
        save(small("head"), tmp_path / "letter")
    assert content(tmp_path) == {"letter": b"dear reader"}


@pytest.mark.parametrize("writes", [save, lambda model, folder: model.save_pretrained(folder)])
def test_weights_can_be_read_by_those_who_can_read_the_folder(tmp_path, writes):
    before = os.umask(0o022)
    try:
        writes(small("ffn"), tmp_path / "model")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o644}
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_a_copy_of_a_loaded_model_has_its_card_unless_there_is_one(tmp_path):
    save(small("ffn"), tmp_path / "model", card="# ours, à nous\n")
    auto = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    for number, model in enumerate((load(tmp_path / "model"), auto)):
        model.save_pretrained(tmp_path / f"copy {number}")
        assert (tmp_path / f"copy {number}" / "README.md").read_text(encoding="utf-8") == "# ours, à nous\n"
    (tmp_path / "copy 0" / "README.md").write_text("# theirs\n")
    auto.save_pretrained(tmp_path / "copy 0")
    assert (tmp_path / "copy 0" / "README.md").read_text() == "# theirs\n"
    save(auto, tmp_path / "copy 1", card="# new\n")
    assert (tmp_path / "copy 1" / "README.md").read_text() == "# new\n"


# Through AutoModel


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_dense_folders_give_stock_classes(kind, tmp_path):
    for head in architectures.ARCHITECTURES.all()[kind].heads:
        stock, auto = tiny(kind, head, dtype=torch.float32), getattr(transformers, AUTO_CLASSES[head])
        stock.save_pretrained(tmp_path / head)
        assert type(auto.from_pretrained(tmp_path / head)) is type(auto.from_config(stock.config)) is type(stock)
        assert not isinstance(stock, Pruned)


@pytest.mark.parametrize("which", CLASSIFIERS)
def test_saved_again_from_automodel_keeps_the_plan(which, tmp_path):
    model = small(which=which)
    save(model, tmp_path / "first")
    loaded = getattr(transformers, AUTO_CLASSES[which[1]]).from_pretrained(tmp_path / "first")
    assert isinstance(loaded, Pruned) and loaded.plan == model.plan
    loaded.save_pretrained(tmp_path / "second")
    assert content(tmp_path / "second") == content(tmp_path / "first")


def test_an_encoder_without_a_pooler_is_saved_and_loaded_without_one(tmp_path):
    dense = transformers.BertModel(tiny("bert").config, add_pooling_layer=False).float().eval()
    space = Space(dense, "hidden", "ffn")
    small = cut(dense, Plan.of(space, random_masks(space)))
    save(small, tmp_path / "model")
    for loaded in (load(tmp_path / "model"), transformers.AutoModel.from_pretrained(tmp_path / "model")):
        assert loaded.pooler is None and list(loaded.state_dict()) == list(small.state_dict())


def test_a_cut_encoder_is_loaded_without_its_pooler_where_that_is_asked(tmp_path):
    dense = tiny("bert", "Model", dtype=torch.float32)
    space = Space(dense, "hidden", "ffn")
    small = cut(dense, Plan.of(space, random_masks(space)))
    save(small, tmp_path / "model")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    assert small.pooler is not None and loaded.pooler is None
    loaded.save_pretrained(tmp_path / "again")
    for one in (loaded, load(tmp_path / "again")):
        assert list(one.state_dict()) == [name for name in small.state_dict() if not name.startswith("pooler.")]
        assert torch.equal(one(**inputs(dense))[0], small(**inputs(dense))[0])


def test_a_cut_model_is_made_of_a_config_and_a_state_without_a_folder(folder):
    config, state = transformers.AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    saved = load(folder)
    made = type(saved).from_pretrained(None, config=config, state_dict=state).eval()
    assert made.plan is None and made.card is None
    torch.testing.assert_close(made.state_dict(), saved.state_dict(), rtol=0, atol=0)


# What `load` refuses


def test_a_path_that_is_not_a_folder(tmp_path, folder):
    assert_refused(tmp_path / "nothing", "is not a folder")
    assert_refused(folder / "config.json", "is not a folder")
    (tmp_path / "empty").mkdir()
    assert_refused(tmp_path / "empty", "is not a model folder", "config.json cannot be read")


def test_a_dense_folder(tmp_path):
    tiny("bert").save_pretrained(tmp_path)
    assert_refused(tmp_path, "no secateur key", "load it with transformers")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"null", b"[]", b'"bert"'])
def test_a_config_that_is_not_a_config(folder, text):
    (folder / "config.json").write_bytes(text)
    assert_refused(folder, "config.json is damaged")


CONFIGS = {
    "unknown type": (
        lambda c: c.update(model_type="bort"),
        "'bort': supported are bart, bert, camembert, deberta-v2, ",
    ),
    "no type": (lambda c: c.pop("model_type"), "has no model_type"),
    "odd type": (lambda c: c.update(model_type=["bert"]), "supported are bart, bert"),
    "another type": (lambda c: c.update(model_type="roberta"), ""),
    "a word for a size": (lambda c: c.update(hidden_size="big"), "hidden_size"),
    "a negative size": (lambda c: c.update(hidden_size=-4), ""),
    "no heads": (lambda c: c.update(num_attention_heads=0), ""),
    "more layers": (lambda c: c.update(num_hidden_layers=3), "encoder.layer.2"),
    "fewer layers": (lambda c: c.update(num_hidden_layers=1), "does not fit"),
    "more labels": (lambda c: c.update(id2label={"0": "a", "1": "b", "2": "c"}), "do not belong together"),
    "no class": (lambda c: c.pop("architectures"), "do not belong together"),
    "odd class": (lambda c: c.update(architectures=5), ""),
    "another class": (lambda c: c.update(architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_edited_by_hand(folder, name):
    change, part = CONFIGS[name]
    change_config(folder, change)
    assert_refused(folder, part)


DROP = object()
ELSEWHERE = {"query": "q", "key": "k", "value": "v", "output": None, "qk": [1], "vo": [1], "scale": 1.0}
ELSEWHERE |= {
    "buckets": [1],
    "multiple": 1,
    "call": "encoder",
    "causal": False,
    "layer": 0,
    "bias": None,
    "dropout": "dropout",
    "after": None,
    "norms": [],
    "queries": None,
    "pairs": None,
    "heads": None,
}
KEYS = [
    ((), None, "no secateur key"),
    ((), [], "version"),
    ((), {}, "version None"),
    (("version",), DROP, "version None"),
    (("version",), 6, "version 6"),
    (("version",), "1", "version '1'"),
    (("linear",), DROP, "exactly"),
    (("linear",), [], "exactly"),
    (("colour",), {}, "exactly"),
    (("linear", "classifier"), [-2, 32], "positive whole number"),
    (("linear", "classifier"), [2, 0], "positive whole number"),
    (("linear", "classifier"), ["2", 32], "positive whole number"),
    (("linear", "classifier"), [2, 32.0], "positive whole number"),
    (("linear", "classifier"), "2 x 32", "positive whole number"),
    (("linear", "classifier"), [2, 32, 1], "two"),
    (("linear", "classifier"), [10**13, 10**13], ""),
    (("linear", "classifier"), [3, 32], "do not belong together"),
    (("linear", "no.such"), [2, 32], "does not fit"),
    (("linear", f"{ATTENTION}.query"), DROP, ""),
    (("norm", "bert.embeddings.LayerNorm"), True, "positive whole number"),
    (("norm", "classifier"), 5, "does not fit"),
    (("norm", ""), 5, "does not fit"),
    (("embedding", "bert.embeddings.word_embeddings"), -1, "positive whole number"),
    (("factorised", "bert.embeddings.word_embeddings"), 4, "do not belong together"),
    (("bias", "no.such"), 32, "does not fit"),
    (("bias", "classifier"), 2, ""),
    (("replaced", "classifier"), "pickle", "something unknown"),
    (("replaced", "classifier"), ["zero"], "something unknown"),
    (("replaced", "classifier"), "identity", "classifier"),
    (("replaced", "no.such"), "empty", "does not fit"),
    (("replaced", "bert.encoder.layer.0.output"), "skip", "replaced.bert.encoder.layer.0.output is nothing"),
    (("attention", ATTENTION), [], "wrongly"),
    (("attention", ATTENTION, "query"), DROP, "wrongly"),
    (("attention", ATTENTION, "colour"), 1, "wrongly"),
    (("attention", ATTENTION, "query"), 5, "names of the modules"),
    (("attention", ATTENTION, "query"), "no such", "does not fit"),
    (("attention", ATTENTION, "query"), "key", ""),
    (("attention", ATTENTION, "output"), "no such", "does not fit"),
    (("attention", ATTENTION, "qk"), "3", "wrongly"),
    (("attention", ATTENTION, "qk"), [-1, 1, 1, 1], "wrongly"),
    (("attention", ATTENTION, "vo"), [0, 1, 1, 1], "wrongly"),
    (("attention", ATTENTION, "qk"), [1, 1, 1, 1, 1], "the number of heads"),
    (("attention", ATTENTION, "buckets"), [4, 1], "the number of heads"),
    (("attention", ATTENTION, "buckets"), [2, 2], "outputs"),
    (("attention", ATTENTION, "buckets"), [4, 0], "buckets"),
    (("attention", ATTENTION, "buckets"), 4, "buckets"),
    (("attention", ATTENTION, "multiple"), 0, "buckets"),
    (("attention", ATTENTION, "multiple"), 7, "outputs"),
    (("attention", ATTENTION, "multiple"), 10**13, ""),
    (("attention", ATTENTION, "call"), "spiral", "the call"),
    (("attention", ATTENTION, "call"), "rotary", "the pairs of rotary dims"),
    (("attention", ATTENTION, "pairs"), [[0], [0], [0], [0]], "the pairs of rotary dims"),
    (("attention", ATTENTION, "dropout"), 5, "names of the modules"),
    (("attention", ATTENTION, "dropout"), "no such", "does not fit"),
    (("attention", ATTENTION, "after"), "no such", "does not fit"),
    (("attention", ATTENTION, "call"), ["encoder"], "the call"),
    (("attention", ATTENTION, "call"), "seq2seq", "call is \"encoder\""),
    (("attention", ATTENTION, "causal"), 1, "the call"),
    (("attention", ATTENTION, "layer"), -1, "the call"),
    (("attention", ATTENTION, "bias"), 1, "names of the modules"),
    (("attention", ATTENTION, "heads"), [0, 1, 2, 2], "the numbers of the heads"),
    (("attention", ATTENTION, "heads"), [0, 1], "the numbers of the heads"),
    (("attention", ATTENTION, "scale"), "0.35", "the scale"),
    (("attention", ATTENTION, "scale"), 0.5, f"{ATTENTION}.scale is 0.353"),
    (("attention", ATTENTION, "scale"), -1.0, "in config.json it is -1.0"),
    (("attention", ATTENTION, "qk"), [6] * 4, f"{ATTENTION}.qk is [4, 6, 3, 5]"),
    (("attention", ATTENTION), DROP, f"{ATTENTION} is {{"),
    (("attention", ATTENTION, "scale"), float("nan"), "the scale"),
    (("attention", ATTENTION, "qk"), [99, 1, 1, 1], "heads"),
    (("attention", ATTENTION, ("qk", "vo")), [6] * 5, "heads"),
    (("attention", ATTENTION, ("qk", "vo")), [6], "heads"),
    (("attention", ATTENTION, ("qk", "vo")), [], ""),
    (("attention", "no.such"), ELSEWHERE, "does not fit"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "part"), KEYS, ids=[f"{p[-1:]}={v!r:.20}" for p, v, _ in KEYS])
def test_a_secateur_key_edited_by_hand(folder, path, value, part):
    def change(config):
        *inside, last = "secateur", *path
        for key in inside:
            config = config[key]
        for key in last if isinstance(last, tuple) else (last,):
            if value is DROP:
                del config[key]
            else:
                config[key] = value

    change_config(folder, change)
    assert_refused(folder, part)


def mutants(structure):
    """Every small change of a `secateur` key, one at a time: (what was changed, the changed key)."""
    for path, value in leaves(structure):
        for other in others(value):
            yield f"{'.'.join(map(str, path))}: {value!r} to {other!r}", edited(structure, path, other)
    for part, entries in structure.items():
        for name in entries if part != "version" else ():
            yield f"no {part}.{name}", edited(structure, (part, name), DROP)
            for twin in [twin for twin in entries if entries[name] != entries[twin]][:1]:
                swapped = {name: entries[twin], twin: entries[name]}
                yield f"{part}: {name} and {twin} swapped", structure | {part: entries | swapped}


def leaves(value, path=()):
    """(path, value) of everything in a JSON value that holds nothing itself, and of every list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def others(value):
    """Values that are near, of the same type or not."""
    if isinstance(value, list):
        shifted = [[value[0] + step, *value[1:]] for step in (-1, 1)] if value else []
        return [other for other in (value[::-1], value[1:], *shifted) if other != value]
    if isinstance(value, float):
        return [value * 1.0001, -value]
    if isinstance(value, int):
        return [value + 1]
    return [name for name in ("key", "k_lin", "zero", "empty", "identity", "skip", None) if name != value][:4]


def edited(structure, path, value):
    changed = copy.deepcopy(structure)
    *inside, last = path
    place = changed
    for key in inside:
        place = place[key]
    if value is DROP:
        del place[last]
    else:
        place[last] = value
    return changed


def test_any_change_of_the_secateur_key_is_refused(tmp_path):
    """Also where the weights' shapes fit: another softmax scale or other sizes of heads would compute something else.

    The key has every part that an encoder's can have: heads of all sizes and none, gates, a narrower stream, word
    embeddings that are factorised and quantised.
    """
    model, plan, _ = edge_cases("distilbert", soft=True, dtype=torch.float32)
    save(cut(model, replace(plan, embedding_rank=5, embedding_rows="int8")), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert [name for name, part in config["secateur"].items() if not part] == ["shared"] and load(tmp_path)
    (tmp_path / SUMS).unlink()
    taken = []
    for what, changed in mutants(config["secateur"]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"secateur": changed}))
        try:
            load(tmp_path)
        except UserError as refusal:
            assert "\n" not in str(refusal) and str(tmp_path) in str(refusal)
        else:
            taken.append(what)
    assert taken == []


def test_the_last_bit_of_the_scale_may_differ(folder):
    def change(config):
        spec = config["secateur"]["attention"][ATTENTION]
        spec["scale"] = math.nextafter(spec["scale"], 1.0)

    change_config(folder, change)
    assert load(folder)


def test_weights_cut_short(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) - 40):
        file.write_bytes(whole[:length])
        assert_refused(folder, "model.safetensors is damaged")


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(folder):
    file = folder / "model.safetensors"
    whole, expected = file.read_bytes(), load_file(file)
    (length,) = struct.unpack("<Q", whole[:8])
    for place in (*range(8), *range(8, 8 + length, 251)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        try:
            state = load(folder).state_dict()
        except UserError as refusal:
            assert "\n" not in str(refusal)
        else:
            assert set(state) == set(expected) and all(torch.equal(state[name], expected[name]) for name in state)


WEIGHTS = {
    "one is missing": (lambda w: w.pop("classifier.weight"), "classifier.weight"),
    "one too many": (lambda w: w.update(stranger=torch.ones(2)), "stranger"),
    "another name": (lambda w: w.update({"classifier.wait": w.pop("classifier.weight")}), "classifier.wai"),
    "another shape": (lambda w: w.update({"classifier.bias": torch.ones(5)}), "do not belong together"),
    "not a number": (lambda w: w["classifier.weight"][0, :1].fill_(float("nan")), "classifier.weight holds values"),
    "infinite": (lambda w: w["classifier.bias"].fill_(float("inf")), "not finite"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit(folder, name):
    change, part = WEIGHTS[name]
    change_weights(folder, change)
    assert_refused(folder, part)


@pytest.mark.parametrize("units", ["ffn", "hidden", "sublayer"])
def test_weights_of_another_plan(folder, tmp_path, units):
    save(small(units, seed=5), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    assert_refused(folder, "do not belong together")


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_plan_that_is_not_json(folder, text):
    (folder / "plan.json").write_text(text)
    assert_refused(folder, "plan.json is damaged")


def test_no_plan(folder):
    (folder / "plan.json").unlink()
    assert_refused(folder, "plan.json cannot be read")


PLANS = {
    "null": (lambda p: None, "expected an object"),
    "a list": (lambda p: [p], "expected an object"),
    "no groups": (lambda p: {key: value for key, value in p.items() if key != "groups"}, "different are groups"),
    "another version": (lambda p: p | {"version": 3}, "version 3"),
    "another family": (lambda p: p | {"model_type": "roberta"}, "for a 'roberta' model"),
    "other units": (lambda p: p | {"units": ["ffn"]}, "'0.qk' is on one side only"),
    "no such unit": (lambda p: p | {"units": ["fnn"]}, "'fnn' are not known"),
    "factorised": (lambda p: p | {"embedding_rank": 5}, "factorised.bert.embeddings.word_embeddings is 5"),
    "a neuron more": (lambda p: edited(p, ("groups", "0.ffn", "kept"), [[0, 47]]), "0.intermediate.dense is nothing"),
    "out of range": (lambda p: edited(p, ("groups", "0.ffn", "kept"), [[0, 48]]), "within it"),
    "half a mask": (lambda p: edited(p, ("groups", "0.ffn", "masks"), [0.5]), "one mask value for each"),
    "no attention": (lambda p: edited(p, ("groups", "1.vo", "kept"), []), "every kept head in one bucket"),
    "no layouts": (lambda p: p | {"layouts": None}, "must be a list"),
    "a layout too few": (lambda p: p | {"layouts": p["layouts"][:1]}, "every kept head in one bucket"),
    "a head twice": (lambda p: edited(p, ("layouts", 0, "buckets"), [[0, 1, 2, 2]]), "every kept head in one bucket"),
    "an empty bucket": (lambda p: edited(p, ("layouts", 0, "buckets"), [[0, 1, 2, 3], []]), "no empty bucket"),
    "another multiple": (lambda p: edited(p, ("layouts", 0, "multiple"), 7), "multiple is 7"),
    "no multiple": (lambda p: edited(p, ("layouts", 0, "multiple"), True), "whole numbers"),
    "another layout": (lambda p: edited(p, ("layouts", 0), [[0, 1, 2, 3]]), "expected buckets"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_edited_by_hand(folder, name):
    change, part = PLANS[name]
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(change(plan)))
    assert_refused(folder, part)


def test_the_plan_of_another_cut(folder, tmp_path):
    save(small("ffn", "qk", "vo", seed=5), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "plan.json", folder)
    assert_refused(folder, "by plan.json secateur.")


@pytest.mark.parametrize("rank", [None, 5])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("which", CLASSIFIERS)
def test_the_structure_follows_from_the_plan_without_weights(which, soft, rank):
    kind, _, shape = which
    model, plan, _ = edge_cases(kind, shape, soft=soft, dtype=torch.float32)
    compact = cut(model, plan if of_images(model) else replace(plan, embedding_rank=rank))
    assert planned_structure(compact.to("meta")).to_dict() == json.loads(compact.config.to_json_string())["secateur"]


def test_embeddings_factorised_before_the_plan_are_in_the_plan(tmp_path):
    model = factorise(tiny("bert", dtype=torch.float32), 5)
    space = Space(model, "ffn")
    masks = random_masks(space)
    compact = cut(model, Plan.of(space, masks))
    assert compact.plan["embedding_rank"] == 5
    save(compact, tmp_path / "model")
    assert load(tmp_path / "model").plan == compact.plan
    with pytest.raises(UserError, match="to rank 4, and the model's are factorised to rank 5 already"):
        cut(model, Plan.of(space, masks, embedding_rank=4))


@pytest.mark.parametrize("decoy", [False, True], ids=["pickle alone", "beside other safetensors"])
def test_a_pickle_is_never_opened(folder, monkeypatch, decoy):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / ("other.safetensors" if decoy else "weights"))

    def opened(*args, **kwargs):
        raise AssertionError("a pickle is opened")

    monkeypatch.setattr(torch, "load", opened)
    assert_refused(folder, "" if decoy else "has no model.safetensors")
