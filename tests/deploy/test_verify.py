"""`verify` says yes to a right folder and no to any other."""

import copy
from importlib import import_module

import pytest
import torch
from kept_pieces import SHARING, every_second, in_both_numbers
from safetensors.torch import load_file, save_file
from tiny_models import ENCODERS, LEADING, inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.deploy.compared_pieces import ComparedPieces, compared_pieces
from secateur.deploy.export import export
from secateur.deploy.verification import Verification
from secateur.deploy.verify import verify, verify_folder
from secateur.structure.plan import Plan
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.checkpoint import save
from secateur.surgery.compact import SUMS
from secateur.surgery.cut import cut
from secateur.surgery.storage import as_stored
from secateur.surgery.uncut import uncut
from secateur.surgery.vocabulary.pruning import with_pieces
from secateur.system.errors import UserError


def world(which, folder, *units, dtype=torch.float32, **options):
    """(batches, what `verify` takes) of a model, its plan, its cut and the folder of that."""
    dense = tiny(*which, dtype=dtype)
    space = Space(dense, *units)
    plan = Plan.of(space, random_masks(space, soft=True), **options)
    small = cut(dense, plan)
    save(small, folder)
    return [inputs(dense, seed=seed) for seed in range(2)], {
        "dense": dense,
        "plan": plan,
        "compact": small,
        "folder": folder,
    }


@pytest.fixture
def bert(tmp_path):
    return world(("bert",), tmp_path / "small")


@pytest.mark.parametrize(("units", "rank"), [(("ffn", "qk", "vo"), None), (("hidden", "head"), 5)])
@pytest.mark.parametrize("which", LEADING)
def test_a_correct_folder_passes(which, units, rank, tmp_path):
    rank = rank if which[0] in ENCODERS else None  # an encoder-decoder's embeddings are not factorised
    batches, given = world(which, tmp_path / "small", *units, embedding_rank=rank)
    before = {name: value.clone() for name, value in given["dense"].state_dict().items()}
    result = verify(batches, **given)
    assert result.passed and result.masked_compact < 1e-4 * max(1.0, result.scale)
    assert result.compact_loaded <= 1e-6 * result.scale  # products depend on where in memory loaded weights begin
    assert result.examples == 6 and result.scale > 0
    assert result.to_dict()["passed"] is True
    assert all(torch.equal(value, before[name]) for name, value in given["dense"].state_dict().items())


def test_no_rows_are_refused_before_anything_is_opened(bert, tmp_path):
    empty = {"input_ids": torch.zeros(0, 4, dtype=torch.long)}
    for none in ([], iter([]), [empty]):
        with pytest.raises(UserError, match="expected batches of inputs to compare outputs on, got no rows"):
            verify(none, **bert[1] | {"folder": tmp_path / "missing"})
        with pytest.raises(UserError, match="expected batches of inputs to compare outputs on, got no rows"):
            verify_folder(tmp_path / "missing", none)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_low_precision_is_judged_by_its_own_rounding(dtype, tmp_path):
    batches, given = world(("bert",), tmp_path / "small", "hidden", "head", dtype=dtype)
    result = verify(batches, **given)
    assert result.passed and result.compact_loaded == 0.0 and result.masked_compact > 1e-4 * result.scale
    assert result.to_dict()["tolerance"] == result.tolerance == 8 * torch.finfo(dtype).eps
    with torch.no_grad():
        given["compact"].classifier.weight.mul_(1.5)
    assert not verify(batches, compact=given["compact"], folder=given["folder"]).passed


def test_verification_leaves_the_mode_of_each_module_as_it_was(bert):
    batches, given = bert
    for model in (given["dense"], given["compact"]):
        model.train()
        model.classifier.eval()
    verify(batches, **given)
    for model in (given["dense"], given["compact"]):
        assert model.training and model.base_model.training and not model.classifier.training


def test_only_the_given_models_are_compared(bert):
    batches, given = bert
    assert verify(batches, compact=given["compact"], folder=given["folder"]).masked_compact is None
    assert verify(batches, dense=given["dense"], plan=given["plan"]).compact_loaded is None


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_an_export_is_compared_with_its_model(bert, dtype, tmp_path):
    pytest.importorskip("onnxruntime")
    batches, given = bert
    path = export(given["compact"], tmp_path / "model.onnx", dtype=dtype).path
    result = verify(batches, compact=given["compact"], exported=path)
    assert result.passed and result.masked_compact is result.compact_loaded is None
    assert (result.dtype, result.examples) == (dtype, 6)
    assert result.scale > 0 and (result.compact_exported < 1e-4 * max(1.0, result.scale)) == (dtype == "fp32")
    everything = verify(batches, **given, exported=path)
    assert everything.passed and None not in everything.to_dict().values()


def test_an_export_of_other_weights_is_refused(bert, tmp_path):
    pytest.importorskip("onnxruntime")
    batches, given = bert
    path = export(given["dense"], tmp_path / "model.onnx").path
    with pytest.raises(UserError, match="made from other weights"):
        verify(batches, compact=given["compact"], exported=path)


def test_an_export_is_judged_by_the_tolerance_of_its_dtype():
    far = {"masked_compact": None, "compact_loaded": None, "examples": 1, "scale": 1.0, "compact_exported": 0.01}
    assert Verification(**far, dtype="int8").passed and not Verification(**far, dtype="fp32").passed
    lost = far | {"compact_exported": float("nan")}
    assert not Verification(**lost, dtype="int8").passed and not Verification(**lost, dtype="fp32").passed


@pytest.mark.parametrize("names", [(), ("folder",), ("compact",), ("dense",), ("plan", "folder")], ids=str)
def test_a_verification_without_two_models_is_refused(bert, names):
    batches, given = bert
    with pytest.raises(UserError, match="nothing to compare"):
        verify(batches, **{name: given[name] for name in names})


@pytest.mark.parametrize(
    ("names", "others", "message"),
    [
        (("compact", "folder"), {"dtype": "bf16"}, "the dtype 'bf16' is what an exported file runs in: give exported"),
        (("compact", "folder", "dense"), {}, "dense is given without plan"),
        (("compact", "folder", "plan"), {}, "plan is given without dense"),
        (("dense", "plan", "folder"), {}, "folder is compared with the compact model"),
        (("dense", "plan"), {"exported": "small.onnx"}, "exported is compared with the compact model"),
    ],
    ids=str,
)
def test_what_nothing_is_compared_with_is_refused(bert, names, others, message):
    batches, given = bert
    with pytest.raises(UserError, match=message):
        verify(batches, **{name: given[name] for name in names}, **others)


def test_changed_weights_in_the_folder_fail(bert):
    batches, given = bert
    file = given["folder"] / "model.safetensors"
    weights = {name: value.clone() for name, value in load_file(file).items()}
    weights["classifier.bias"][0] += 1.0
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not the file that was saved"):
        verify(batches, **given)
    (given["folder"] / SUMS).unlink()
    result = verify(batches, **given)
    assert not result.passed and result.compact_loaded == pytest.approx(1.0, abs=1e-4)
    assert result.masked_compact < 1e-4 * max(1.0, result.scale)


def test_a_wrong_cut_fails(bert, monkeypatch):
    def wrong(model, plan):
        small = cut(model, plan)
        with torch.no_grad():
            small.classifier.weight[0] *= 1.5
        return small

    batches, given = bert
    monkeypatch.setattr(import_module("secateur.deploy.verify"), "cut", wrong)  # the package gives the function
    result = verify(batches, **given)
    assert not result.passed and result.masked_compact > 1e-3 and result.compact_loaded == 0.0


def test_what_fp32_rounds_too_coarsely_is_compared_in_float64(bert, monkeypatch):
    """As where activations are so large that a cut that is right misses the tolerance."""
    batches, given = bert
    cut_alone = {name: given[name] for name in ("dense", "plan")}
    assert verify(batches, **cut_alone).masked_compact > 1e-9
    monkeypatch.setattr(import_module("secateur.deploy.verify"), "_tolerance", lambda dtype: 1e-9)
    result = verify(batches, **cut_alone)
    assert result.passed and result.masked_compact < 1e-9 and given["dense"].dtype == torch.float32


def test_a_difference_that_is_not_a_number_fails_in_any_batch(bert):
    batches, given = bert
    batches[1]["input_ids"][0, 1] = 4  # a word that `inputs` never draws
    with torch.no_grad():
        given["compact"].get_input_embeddings().weight[4] = float("nan")
    assert not verify(batches, compact=given["compact"], folder=given["folder"]).passed
    assert not verify(batches[::-1], compact=given["compact"], folder=given["folder"]).passed


@pytest.mark.parametrize("which", SHARING)
def test_a_folder_with_fewer_pieces_is_compared_with_the_model_with_all(which, tmp_path):
    dense = tiny(*which, dtype=torch.float32)
    space, vocabulary = Space(dense), every_second(dense)
    small = cut(dense, Plan.of(space, random_masks(space), vocabulary=vocabulary))
    save(small, tmp_path / "small")
    batches = [in_both_numbers(inputs(dense), vocabulary)[1]]
    alone = verify_folder(tmp_path / "small", batches)
    assert alone.passed and alone.whole_kept is None and "whole_kept" not in alone.to_dict()
    whole = verify_folder(tmp_path / "small", batches, dense)
    assert whole.passed and whole.whole_kept < 1e-6 * whole.scale and whole.compact_loaded == 0.0
    assert whole.same_weights and whole.dense_masked < 1e-4 * whole.scale


def foreign(model, factor=1.0):
    """A model of the same shape with other weights; larger ones by a factor."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(weight.flatten().roll(7).reshape(weight.shape) * factor)
    return other


def test_a_folder_is_not_the_model_of_which_it_has_no_weights(bert):
    """Masks and a cut agree for any weights: only the folder's own tell whose model it is."""
    batches, given = bert
    own = verify_folder(given["folder"], batches, given["dense"])
    assert own.passed and own.same_weights and own.dense_compact <= 1e-6 * own.scale
    other = verify_folder(given["folder"], batches, foreign(given["dense"]))
    assert other.passed and other.same_weights is False and other.dense_compact > 1e-2
    assert other.dense_masked < 1e-4 * max(1.0, other.scales["dense_masked"])
    assert (other.masked_compact, other.compact_loaded) == (own.masked_compact, own.compact_loaded)
    assert other.to_dict()["same_weights"] is False
    assert "same_weights" not in verify_folder(given["folder"], batches).to_dict()
    in_memory = verify(batches, **given | {"dense": foreign(given["dense"])})
    assert in_memory.passed and in_memory.same_weights is False


def test_the_weights_of_a_folder_are_checked_beside_a_dense_model(bert, monkeypatch):
    """A wrong folder stays wrong, whatever it is compared with."""

    def half(model):
        dense, plan = uncut(model)
        with torch.no_grad():
            dense.classifier.bias += 1.0
        return dense, plan

    batches, given = bert
    monkeypatch.setattr(import_module("secateur.deploy.verify"), "uncut", half)
    result = verify_folder(given["folder"], batches, given["dense"])
    assert not result.passed and result.compact_loaded == pytest.approx(1.0, abs=1e-4) and result.same_weights


def test_each_difference_is_relative_to_the_outputs_that_it_is_of():
    """A dense model with large logits does not excuse a folder with small ones."""
    found = {"masked_compact": 0.01, "compact_loaded": 0.0, "examples": 1, "dense_masked": 0.01}
    scales = {"masked_compact": 1.0, "dense_masked": 1000.0}
    assert not Verification(**found, scale=1000.0, scales=scales).passed
    assert Verification(**found | {"masked_compact": 1e-5}, scale=1.0, scales=scales).passed


@pytest.mark.parametrize("store", ["bf16", "fp16"])
def test_a_folder_in_16_bits_has_the_weights_that_were_rounded(bert, store, tmp_path):
    batches, given = bert
    save(as_stored(given["compact"], dtype=store), tmp_path / store, store=store)
    assert verify_folder(tmp_path / store, batches, given["dense"]).same_weights
    assert not verify_folder(tmp_path / store, batches, foreign(given["dense"])).same_weights


def test_a_dense_model_with_another_head_is_refused(bert):
    batches, given = bert
    with pytest.raises(UserError, match=r"outputs of the shape \(.*\) and the cut model of .*with its head"):
        verify_folder(given["folder"], batches, given["dense"].base_model)


def test_an_ordinary_folder_with_fewer_pieces_is_compared_with_the_model_with_all(tmp_path):
    dense = tiny("bert", dtype=torch.float32)
    vocabulary = every_second(dense)
    small, plan = with_pieces(dense, vocabulary), Plan.of_all_units(dense, vocabulary=vocabulary)
    save(small, tmp_path / "small", plan=plan.to_dict(plan.space(dense)))
    batches = [in_both_numbers(inputs(dense), vocabulary)[1]]
    result = verify_folder(tmp_path / "small", batches, dense)
    assert result.passed and (result.whole_kept, result.compact_loaded, result.masked_compact) == (0.0, 0.0, None)
    with torch.no_grad():
        small.classifier.bias += 1.0
    save(small, tmp_path / "other", plan=plan.to_dict(plan.space(dense)))
    assert not verify_folder(tmp_path / "other", batches, dense).passed
    with pytest.raises(UserError, match=r"not a compact folder.* with all of its pieces by --dense"):
        verify_folder(tmp_path / "small", batches)


def test_texts_of_kept_pieces_must_be_split_as_before():
    vocabulary = Vocabulary(6, (0, 1, 4))
    before = [[0, 4], [1, 2], [], [4]]
    right = compared_pieces(vocabulary, before, [[0, 2], [1, 1, 1], [], [2]])
    assert right == ComparedPieces(texts=4, kept=3, equal=3) and right.passed
    wrong = compared_pieces(vocabulary, before, [[0, 2], [1, 1, 1], [], [1]])
    assert wrong.equal == 2 and not wrong.passed
    same = {"masked_compact": 0.0, "compact_loaded": 0.0, "examples": 1, "scale": 1.0}
    assert Verification(**same, pieces=right).passed and not Verification(**same, pieces=wrong).passed
