"""Terms of sentence embeddings: values by hand, and what a cut of the residual stream does not change."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import inputs, random_masks, tiny

from secateur.budget.space import Space
from secateur.structure.plan import Plan
from secateur.surgery.cut import cut
from secateur.surgery.masking import attached
from secateur.surgery.sentence.attach import SentenceOutput, attach_head, head_of, replace_head
from secateur.surgery.sentence.head import Dense, SentenceHead, Settings
from secateur.system.errors import UserError
from secateur.training.evidence import heard
from secateur.training.objectives import Contrastive, Embedding, Hidden, Logits, Similarity, Step

S = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
T = torch.tensor([[0.0, 1.0], [0.6, 0.8]])


def step(student, teacher=None, examples=None):
    outputs = [None if own is None else SentenceOutput(own) for own in (student, teacher)]
    return Step({}, *outputs, examples=None if examples is None else torch.tensor(examples))


def test_embedding_is_one_minus_the_mean_cosine_or_the_squared_error_of_an_entry():
    assert float(Embedding()(step(3 * S, T))) == pytest.approx((1 + 0) / 2)
    assert float(Embedding(loss="mse")(step(S, T))) == pytest.approx((1 + 1) / 4)


def test_the_distance_is_that_of_the_lengths_too_and_one_minus_the_cosine_for_length_1():
    assert float(Embedding(loss="distance")(step(S, T))) == pytest.approx(float(Embedding(loss="cosine")(step(S, T))))
    assert float(Embedding(loss="distance")(step(3 * T, T))) == pytest.approx((2**2 + 2**2) / 2 / (2 * 1))
    assert float(Embedding(loss="distance")(step(3 * S, 3 * T))) == pytest.approx((1 + 0) / 2), "of any scale"


def compared_by(similarity, normalise=False):
    """An encoder whose folder says how its vectors are compared."""
    head = SentenceHead(["mean"], normalise=normalise, width=32, settings=Settings(similarity=similarity))
    return attach_head(tiny("bert", "Model"), head)


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_lengths_of_vectors_count_where_the_model_compares_by_them(similarity):
    """With all of a student's vectors three times as long, as only cosines do not notice."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 8, generator=generator)
    for term in (Embedding(), Similarity(), Similarity(loss="mse")):
        assert float(term(step(3 * rows, rows))) == pytest.approx(0, abs=1e-5), "a term that is not bound"
        term.bind(compared_by(similarity), None)
        assert float(term(step(3 * rows, rows))) > 0.01
        assert float(term(step(rows, rows))) == pytest.approx(0, abs=1e-6)
        scaled = [float(term(step(30 * rows, 10 * rows))), float(term(step(3 * rows, rows)))]
        assert scaled[0] == pytest.approx(scaled[1], rel=1e-4), "the scale of the model does not count"


@pytest.mark.parametrize("similarity", [None, "cosine", "dot", "euclidean", "manhattan"])
def test_of_normalised_vectors_the_directions_are_compared(similarity):
    term = Embedding()
    term.bind(compared_by(similarity, normalise=True), None)
    assert term.loss == "cosine"
    term = Embedding(loss="mse")
    term.bind(compared_by(similarity), None)
    assert term.loss == "mse", "what is asked for"


def test_similarities_of_dot_products_by_hand():
    """Those of three texts with the others, over the mean squared length of the teacher's vectors, (4 + 1 + 9) / 3."""
    one, other = torch.tensor([[1.0, 0], [0, 1.0], [2.0, 2.0]]), torch.tensor([[2.0, 0], [1.0, 0], [0, 3.0]])
    term = Similarity(loss="mse")
    term.bind(compared_by("dot"), None)
    squares = 2 * ((0 - 2) ** 2 + (2 - 0) ** 2 + (2 - 0) ** 2) / (14 / 3) ** 2
    assert float(term(step(one, other))) == pytest.approx(squares / 6, rel=1e-5)


def test_contrastive_compares_as_the_model_does():
    rows, own = torch.tensor([[1.0, 0], [4.0, 0], [0, 1.0], [0, 2.0]]), [[0, 0], [0, 1], [1, 0], [1, 1]]
    term = Contrastive(temperature=0.5)
    term.bind(compared_by("dot"), None)
    scale = (1 + 16 + 1 + 4) / 4
    expected = sum(math.log(1 + math.exp(-right / scale / 0.5)) for right in (4, 2)) / 2
    assert float(term(step(rows, examples=own))) == pytest.approx(expected, rel=1e-5)


def test_similarity_compares_the_cosines_of_each_text_with_the_others():
    one, other = torch.tensor([[1.0, 0], [0, 1.0], [0.6, 0.8]]), torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    cosines = {"s": [(0, 0.6), (0, 0.8), (0.6, 0.8)], "t": [(0.8, 0), (0.8, 0), (0, 0)]}  # of the other two, by text

    def softmax(pair):
        parts = [math.exp(value / 0.5) for value in pair]
        return [part / sum(parts) for part in parts]

    expected = 0.0
    for mine, theirs in zip(cosines["s"], cosines["t"], strict=True):
        expected += sum(t * math.log(t / s) for s, t in zip(softmax(mine), softmax(theirs), strict=True)) / 3
    assert float(Similarity(temperature=0.5)(step(one, other))) == pytest.approx(expected, rel=1e-5)
    squares = 2 * (0.8**2 + 0.6**2 + 0.8**2)  # of the differences of the three cosines, each counted from both texts
    assert float(Similarity(loss="mse")(step(one, other))) == pytest.approx(squares / 6, rel=1e-5)


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_one_text_alone_has_no_similarity(loss):
    alone = S[:1].clone().requires_grad_()
    value = Similarity(loss=loss)(step(alone, T[:1]))
    value.backward()
    assert value.item() == 0.0 and not bool(alone.grad.any())


def test_contrastive_is_the_cross_entropy_of_the_positive_among_all_but_anchors():
    """Two pairs, one with a negative: anchors 0 and 3; the logits are cosines over the temperature 0.5."""
    rows = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0], [0, 1.0], [0.6, 0.8]])
    own = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]  # anchor, positive, negative; anchor, positive

    def loss(cosines, right):
        return -cosines[right] / 0.5 + math.log(sum(math.exp(value / 0.5) for value in cosines))

    expected = (loss([0.8, 0.0, 0.6], 0) + loss([0.6, 1.0, 0.8], 2)) / 2
    assert float(Contrastive(temperature=0.5)(step(rows, examples=own))) == pytest.approx(expected, rel=1e-5)
    apart = [[0, 0], [1, 1], [1, 2], [2, 0], [3, 1]]
    assert float(Contrastive()(step(rows, examples=apart))) == 0.0, "no anchor is with its positive"


@pytest.mark.parametrize("loss", ["cosine", "distance", "mse"])
@pytest.mark.parametrize("poolings", [["mean"], ["mean", "cls"]])
def test_a_cut_of_the_residual_stream_does_not_change_the_term(loss, poolings):
    model, teacher = (
        attach_head(m, SentenceHead(poolings, width=32)) for m in (tiny("bert", "Model", seed=n) for n in (0, 1))
    )
    space, batch = Space(model, "hidden", "ffn"), inputs(model)
    masks = random_masks(space, 0.5)
    term = Embedding(loss=loss)
    term.bind(model, teacher)
    with torch.no_grad(), attached(model, space, masks.double()) as attachment:
        outputs = model(**batch)
        masked = term(Step(batch, outputs, teacher(**batch), attachment.masks, attachment.at_sites))
    plan = Plan.of(space, masks)
    small = cut(model, plan)
    reading = plan.read(space)
    term.restrict(reading.indices("hidden"), reading.layers_left())
    with torch.no_grad():
        after = term(Step(batch, small(**batch), teacher(**batch)))
    assert small(**batch).sentence_embedding.shape[1] < 32 * len(poolings)
    assert float(after) == pytest.approx(float(masked), rel=1e-6)  # vectors are compared in single


def test_with_a_way_back_all_dims_of_the_teacher_count():
    model, teacher = (
        attach_head(m, SentenceHead(["mean"], width=32)) for m in (tiny("bert", "Model", seed=n) for n in (0, 1))
    )
    replace_head(model, head_of(model).with_way_back())
    term = Embedding()
    term.bind(model, teacher)
    term.restrict(torch.arange(3), torch.ones(2, dtype=torch.bool))
    assert float(term(step(S, T))) == pytest.approx(0.5)


def with_heads(*widths):
    """A student and a teacher of one width of states, whose vectors have these numbers of dims."""
    models = [tiny("bert", "Model", seed=n) for n in range(len(widths))]
    dense = [[] if width == 32 else [Dense(32, width)] for width in widths]
    return [attach_head(m, SentenceHead(["mean"], own, width=32)) for m, own in zip(models, dense, strict=True)]


def test_a_teacher_of_another_width_is_refused_when_the_models_are_known():
    with pytest.raises(UserError, match="the student's vectors have 32 dims and the teacher's 48"):
        Embedding().bind(*with_heads(32, 48))


@pytest.mark.parametrize("cut_before", [False, True])
def test_a_teacher_of_another_width_is_refused_with_hidden_dims_pruned(cut_before):
    """Of a cached teacher only the vectors are known."""
    model, _ = with_heads(32, 32)
    term = Embedding()
    term.bind(model, SimpleNamespace(config=None))
    if cut_before:
        term.restrict(torch.arange(20), torch.ones(2, dtype=torch.bool))
    student = SentenceOutput(torch.ones(2, 20 if cut_before else 32))
    sites = {} if cut_before else {"hidden": torch.ones(32)}
    with pytest.raises(UserError, match="the student's vectors have 32 dims and the teacher's 48"):
        term(Step({}, student, SentenceOutput(torch.ones(2, 48)), sites=sites))


def test_vectors_of_other_widths_are_refused_with_what_to_do():
    with pytest.raises(UserError, match="--output-dim teacher, or take the term similarity"):
        Embedding()(step(S, torch.eye(3)[:2]))
    with pytest.raises(UserError, match="needs a model that returns them"):
        Similarity()(Step({}, object(), object()))


@pytest.mark.parametrize(
    ("weights", "terms", "expected"),
    [
        ({"logits": 2.0}, [Logits(), Hidden()], {"logits": 2.0}),
        ({"logits": 2.0}, [Embedding(), Similarity(), Hidden()], {"embedding": 2.0, "similarity": 2.0}),
        ({"labels": 1.0}, [Embedding(), Hidden()], {"embedding": 1.0}),
        ({"logits": 1.0, "embedding": 0.0}, [Embedding(), Similarity()], {"similarity": 1.0}),
        ({"labels": 1.0}, [Contrastive(), Similarity()], {"contrastive": 1.0}),
    ],
)
def test_a_method_hears_what_stands_for_the_terms_that_it_names(weights, terms, expected):
    assert heard(weights, terms) == expected


def test_a_method_that_hears_no_term_is_refused():
    with pytest.raises(UserError, match="observes the gradient of the terms logits, and the loss has only hidden"):
        heard({"logits": 1.0}, [Hidden()])
