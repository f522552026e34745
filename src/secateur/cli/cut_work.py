"""Cut a model without training: by a method, by a plan, or to the pieces of its vocabulary that texts use."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from secateur.cli.cut_rows import CutRows
from secateur.cli.given_data import check_source, refuse_taken
from secateur.cli.model_output import show_inspection, show_vocabulary
from secateur.cli.output import show_json, show_lines, show_table
from secateur.measure.inspection import inspect, with_stored_bytes
from secateur.report.report_text import score_text, target_table
from secateur.run.calibration import ROWS
from secateur.run.post_training import (
    changes_weights,
    check_target,
    cut_by_plan,
    cut_without_training,
    only_thinner,
    says_what_is_cut,
    thinner,
)
from secateur.run.recipe import make_group, places_of
from secateur.run.recipe_rules import AMOUNTS, check_svd
from secateur.run.recipe_target import TargetRecipe
from secateur.structure.plan import Plan
from secateur.structure.plan_file import vocabulary_of
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery import checkpoint, compact
from secateur.surgery.opening import open_model, open_tokenizer, tokenizer_if_any
from secateur.surgery.storage import as_stored, narrowest_type, stored_bytes
from secateur.surgery.vocabulary.counting import coverage, text_counts
from secateur.surgery.vocabulary.pruning import used_pieces
from secateur.surgery.vocabulary.texts import read_texts
from secateur.surgery.vocabulary.tokenizer import backend_of, cut_tokenizer
from secateur.surgery.word_embeddings import quantised_tables
from secateur.system.errors import UserError
from secateur.tasks.origin import rows_of

log = logging.getLogger(__name__)

Counted = Callable[[Vocabulary | None], Tensor | None]
"""How often each piece that is kept occurs, given these pieces."""


class Cut(NamedTuple):
    """A model that was cut.

    Attributes:
        pieces: those of the model before that it keeps, None if all.
        target: of a latency or a speed-up, what was reached.
    """

    model: PreTrainedModel
    pieces: Vocabulary | None
    target: dict[str, Any] | None = None


def cut_model(
    *,
    model: str,
    output: Path,
    given: dict[str, Any],
    plan: Path | None,
    vocabulary: list[Path] | None,
    min_count: int,
    calibration_rows: int,
    refit: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What `secateur cut` does; the options are described where it is declared."""
    refuse_taken(output, overwrite, [model, plan, *(vocabulary or []), *places_of(given)])
    _check_needed(given, plan, vocabulary, min_count, calibration_rows, refit)
    texts = read_texts(vocabulary or [])
    _check_plan(plan, given, texts)
    all_units = plan is None and only_thinner(given, bool(texts))
    if plan is None and not all_units:
        check_target(_target(given))
    set_seed(given.get("seed", 0))
    whole = open_model(model)
    _check_rows_of_embeddings(whole, given)
    rows = CutRows.of(given, whole, model, calibration_rows, refit)
    given.setdefault("method.name", "magnitude" if rows is None else rows.method)
    tokenizer = _tokenizer(model, texts)
    pieces = _used(whole, tokenizer, texts, min_count, only_pieces=all_units and not changes_weights(given))
    counted = partial(_counts, rows, tokenizer, texts, make_group("target", given).embedding_svd)
    if all_units:
        done = Cut(_thinner(whole, pieces, given, counted), pieces)
    else:
        done = _cut(whole, pieces, plan, given, rows, counted)
    came, storage = narrowest_type(whole), make_group("storage", given)
    store = _store(given, came, all_units=all_units)
    scored_too = done.model is whole and rows is not None  # as it was, so that a copy is rounded
    own = copy.deepcopy(whole) if scored_too else done.model
    done = done._replace(model=as_stored(own, dtype=store, embeddings=storage.embeddings))
    before, tokenizer = tokenizer, _cut_tokenizer(tokenizer, done.pieces)
    written: dict[str, Any] = {"tokenizer": tokenizer, "plan": _own_plan(whole, done), "store": store}
    checkpoint.save(done.model, output, **written, replace=True)
    facts = {} if done.pieces is None else _vocabulary_facts(whole, done, before, tokenizer, texts, (came, store))
    scored = None if rows is None else rows.scores(whole, done.model, done.pieces)
    _show(done, output, facts, scored, as_json)


def _check_plan(plan: Path | None, given: dict[str, Any], texts: Sequence[str]) -> None:
    """Refuse beside a plan what it says already."""
    if plan is None:
        return
    if said := says_what_is_cut(given):
        raise UserError(
            f"{plan} says what is kept, and by what method: leave {' and '.join(said)} out, or cut without a plan"
        )
    if texts and vocabulary_of(plan) is not None:
        raise UserError(f"{plan} says which pieces are kept: leave --vocabulary out, or cut by a plan without them")


def _check_needed(
    given: dict[str, Any],
    plan: Path | None,
    vocabulary: list[Path] | None,
    min_count: int,
    calibration_rows: int,
    refit: bool,
) -> None:
    """Refuse an option without the one that it belongs to."""
    if min_count > 1 and not vocabulary:
        raise UserError("--min-count says which pieces of the texts of --vocabulary are kept: give these, or drop it")
    if "data.source" not in given and (calibration_rows != ROWS or not refit):
        raise UserError(
            "--calibration-rows and --no-refit say what is done with the rows of --data: give it, or drop them"
        )
    check_source(given)
    if plan is None:  # which may have a rank
        check_svd(make_group("target", given))


def _check_rows_of_embeddings(whole: PreTrainedModel, given: dict[str, Any]) -> None:
    """Refuse rows of word embeddings in fp32 that the model has no more."""
    if given.get("storage.embeddings") == "fp32" and quantised_tables(whole):
        raise UserError(
            "the word embeddings of this model are in int8, and what they were before is lost: leave "
            "storage.embeddings out, or cut the model that they were made from"
        )


def _tokenizer(model: str, texts: Sequence[str]) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, which must be a fast one if its vocabulary will be cut."""
    if not texts:
        return tokenizer_if_any(model)
    tokenizer = open_tokenizer(model)
    backend_of(tokenizer)  # raises
    return tokenizer


def _cut_tokenizer(
    tokenizer: PreTrainedTokenizerBase | None, pieces: Vocabulary | None
) -> PreTrainedTokenizerBase | None:
    return tokenizer if tokenizer is None or pieces is None else cut_tokenizer(tokenizer, pieces)


def _used(
    whole: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[str],
    min_count: int,
    *,
    only_pieces: bool,
) -> Vocabulary | None:
    """The pieces that are kept; None if all are.

    Args:
        only_pieces: whether nothing else is changed.

    Raises:
        UserError: all are, and nothing else is cut.
    """
    if tokenizer is None or not texts:
        return None
    pieces = used_pieces(whole, tokenizer, texts, min_count)
    if len(pieces) < pieces.size:
        return pieces
    nothing = f"all {pieces.size:,} pieces of the model are in the texts or needed by its tokenizer"
    if only_pieces:
        raise UserError(f"{nothing}: there is nothing to cut; raise --min-count, or cut units too (--density)")
    log.info("%s: the vocabulary stays as it is", nothing)
    return None


def _thinner(
    whole: PreTrainedModel, pieces: Vocabulary | None, given: dict[str, Any], counted: Counted
) -> PreTrainedModel:
    """The model with all its units, with the pieces that are kept and word embeddings as asked for."""
    rank = make_group("target", given).embedding_rank
    counts = None if rank is None else counted(pieces)
    return thinner(whole, rank, pieces, counts, compact=make_group("storage", given).embeddings != "fp32")


def _cut(
    whole: PreTrainedModel,
    pieces: Vocabulary | None,
    plan: Path | None,
    given: dict[str, Any],
    rows: CutRows | None,
    counted: Counted,
) -> Cut:
    """The model cut by a plan or by a method, and to the pieces that are kept."""
    if plan is None:
        counts = None if make_group("target", given).embedding_rank is None else counted(pieces)
        recipes = (_target(given), *(make_group(name, given) for name in ("method", "storage")))
        calibration = None if rows is None else rows.calibration(pieces)
        small, target = cut_without_training(whole, *recipes, vocabulary=pieces, calibration=calibration, counts=counts)
        return Cut(small, pieces, target)
    planned = Plan.load(plan, whole)
    if pieces is not None:
        planned = planned.with_vocabulary(whole, pieces)
    kept = planned.pieces_left_to_cut(whole)
    counts = counted(kept) if planned.embedding_rank else None
    return Cut(cut_by_plan(whole, planned, None if rows is None else rows.calibration, counts), kept)


def _target(given: dict[str, Any]) -> TargetRecipe:
    """The target, which is a density of 0.5 where no amount is given."""
    amount = {} if any(f"target.{name}" in given for name in AMOUNTS) else {"target.density": 0.5}
    target: TargetRecipe = make_group("target", amount | given)
    return target


def _counts(
    rows: CutRows | None,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[str],
    svd: str,
    pieces: Vocabulary | None,
) -> Tensor | None:
    """How often each piece that is kept occurs in the data, or else in the texts of the vocabulary; None without.

    A plan of such a cut has the vocabulary and not its texts, so that with the same data it gives the same rows.
    """
    if svd == "plain":
        return None
    if rows is not None:
        return rows.piece_counts(pieces)
    kept = _cut_tokenizer(tokenizer, pieces)
    return text_counts(kept, texts, len(kept)) if kept is not None and texts else None


def _store(given: dict[str, Any], came: str, *, all_units: bool) -> str:
    """The type in which weights are written: the one that was asked for, or that they came in where none is computed.

    Args:
        came: of the weights before.
        all_units: whether nothing is pruned, so that nothing is refitted either.
    """
    asked = make_group("storage", given).dtype
    if "storage.dtype" in given or came == asked or not all_units or make_group("target", given).embedding_rank:
        return str(asked)
    log.info("the weights come in %s and are written so: --store fp32 writes them in fp32", came)
    return came


def _own_plan(whole: PreTrainedModel, done: Cut) -> dict[str, Any] | None:
    """The plan of an ordinary model of which only the vocabulary was cut; a compact one has its plan."""
    if done.pieces is None or isinstance(done.model, compact.Pruned):
        return None
    plan = Plan.of_all_units(whole, vocabulary=done.pieces)
    return plan.to_dict(plan.space(whole))


def _vocabulary_facts(
    whole: PreTrainedModel,
    done: Cut,
    before: PreTrainedTokenizerBase | None,
    after: PreTrainedTokenizerBase | None,
    texts: Sequence[str],
    types: tuple[str, str],
) -> dict[str, Any]:
    """What a cut vocabulary changes: pieces, bytes of weights, and how the texts are split.

    Args:
        types: of the weights before, as they came, and after.
    """
    counts = {"size": whole.config.vocab_size, "kept": done.model.config.vocab_size}
    sizes = [stored_bytes(model, dtype) for model, dtype in zip((whole, done.model), types, strict=True)]
    facts: dict[str, Any] = {**counts, "bytes_before": sizes[0], "bytes_after": sizes[1]}
    if before is not None and after is not None and done.pieces is not None and texts:
        facts["coverage"] = coverage(before, after, done.pieces, texts).to_dict()
    return facts


def _show(done: Cut, output: Path, facts: dict[str, Any], scored: dict[str, Any] | None, as_json: bool) -> None:
    inspection = with_stored_bytes(inspect(done.model), done.model, output)
    if as_json:
        more = {"target": done.target, "vocabulary": facts or None, "scores": scored}
        kept = {name: value for name, value in more.items() if value is not None or name == "target"}
        show_json({"folder": str(output), **inspection.to_dict(), **kept})
        return
    if isinstance(done.model, compact.Pruned):
        show_inspection(inspection)
    if facts:
        show_vocabulary(facts)
    if done.target is not None:
        show_table(("", "before pruning", "cut"), target_table(done.target))
    if scored is not None:
        values = [score_text(scored[name]) for name in ("before", "after")]
        show_table(("", "dense", "cut"), [(scored["metric"], *values)])
        show_lines(f"on {scored['rows']:,} {rows_of(scored['split'])}, without training")
    show_lines(f"The model is in {output}.")
