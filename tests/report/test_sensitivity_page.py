"""The text and the page of a sensitivity study: a table and a heat map for each kind of groups, and notes."""

from dataclasses import replace

from secateur.measure.sensitivity_result import Reaction, Sensitivity
from secateur.report.sensitivity_page import to_html
from secateur.report.sensitivity_text import notes, score_tables


def reaction(group, kind, size, kept, scores):
    return Reaction(group, kind, int(group[0]), size, kept, scores, saved=tuple(0.0 for _ in kept))


FFN = [reaction("0.ffn", "ffn", 24, (12, 6), (0.80, 0.71)), reaction("1.ffn", "ffn", 24, (12, 6), (0.89, 0.62))]
SUBLAYERS = [
    reaction(f"{layer}.{name}", "sublayer", 1, (0, 0), (score, score))
    for name, scores in (("attention", (0.5, 0.6)), ("mlp", (0.7, 0.9)))
    for layer, score in enumerate(scores)
]
STUDY = Sensitivity(
    metric="accuracy",
    greater_is_better=True,
    dense=0.9,
    standard_error=0.01,
    densities=(0.5, 0.25),
    reactions=(*FFN, *SUBLAYERS),
    by="gradient",
    rows=1024,
    evidence=512,
    split="train",
    seed=3,
    forwards=8,
    seconds=12.0,
)


def test_each_kind_has_a_table_and_groups_of_one_unit_share_one():
    ffn, single = score_tables(STUDY)
    assert (ffn.caption, ffn.head) == ("ffn, 24 units", ("0.5", "0.25"))
    assert ffn.rows == (("0", (0.80, 0.71)), ("1", (0.89, 0.62)))
    assert (single.caption, single.head) == ("whole groups removed", ("attention", "mlp"))
    assert single.rows == (("0", (0.5, 0.7)), ("1", (0.6, 0.9)))


def test_where_no_group_was_removed_there_is_no_table_of_removed_groups():
    whole = [reaction(f"{layer}.attention", "sublayer", 1, (1,), (0.9,)) for layer in (0, 1)]
    study = replace(STUDY, densities=(1.0,), reactions=(reaction("0.ffn", "ffn", 24, (24,), (0.9,)), *whole))
    assert [table.caption for table in score_tables(study)] == ["ffn, 24 units"]
    assert to_html(study, "m").count("<svg") == 1
    assert to_html(replace(study, reactions=tuple(whole)), "m").count("<svg") == 0


def test_the_legend_says_what_the_columns_of_the_maps_are():
    whole = "columns are the groups that were removed whole."
    kept = "columns are the fraction of a group&#39;s units kept."
    assert kept[:-1] + ", or the groups that were removed whole." in to_html(STUDY, "m")
    assert kept in to_html(replace(STUDY, reactions=tuple(FFN)), "m")
    assert whole in to_html(replace(STUDY, reactions=tuple(SUBLAYERS)), "m")


def test_the_legend_is_true_where_less_is_better():
    """The worst score is 1.2 above that of the whole model."""
    reactions = (reaction("0.ffn", "ffn", 24, (12, 6), (2.1, 1.0)),)
    text = to_html(replace(STUDY, metric="mae", greater_is_better=False, reactions=reactions), "m")
    assert "the worse its mae than the whole model&#39;s, by up to 1.200." in text and "below" not in text


def test_the_page_has_a_heat_map_for_each_table_and_every_score():
    text = to_html(STUDY, "<model>")
    assert text.count("<svg") == 2
    assert "<model>" not in text and "<script" not in text
    assert all(f"{score:.3f}" in text for one in STUDY.reactions for score in one.scores)


def test_the_notes_state_the_noise_the_rows_and_the_caveat():
    about_score, caveat, evidence, within, work = notes(STUDY)
    assert "standard error 0.0100" in about_score and "1,024 train rows, sampled" in about_score
    assert "training rows" in caveat and "512 other training rows" in evidence
    assert "at density 0.25, 1 of 6 groups" in within
    assert work == "8 cuts in 12 s"


def test_a_study_without_a_standard_error_says_so():
    about_score, caveat, evidence, work = notes(replace(STUDY, standard_error=None))
    assert about_score.startswith("accuracy of the whole model 0.9000 on 1,024 train rows, sampled with seed 3")
    assert about_score.endswith("its standard error is not known") and "training rows" in caveat
    assert "512 other training rows" in evidence and work == "8 cuts in 12 s"
