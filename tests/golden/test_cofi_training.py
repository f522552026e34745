"""CoFi's golden tests on the loss and on training: G10 (layer matching), G11 (distillation), G13 (optimizer wiring)."""

from types import SimpleNamespace

import pytest
import torch
import two_processes
import two_ranks
from quiet import arguments
from torch.nn import functional
from transformers import TrainerCallback

from secateur.budget.space import Space
from secateur.methods.cofi import Cofi
from secateur.methods.schedules import linear
from secateur.surgery.masking import attached
from secateur.training import hidden_states
from secateur.training.layer_matching import nearest, nearest_ordered, quarters, sampled, windows
from secateur.training.objectives import Hidden, Logits, Step
from secateur.training.trainer import PruningTrainer

FAMILIES = ("hidden", "head", "sublayer", "ffn")


# G10: which of the student's layers answers for a teacher's

COSTS = torch.full((4, 12), 9.0)
for row, cheapest in enumerate([(7, 1, 4), (2, 5, 6), (10, 8, 3), (9, 11, 7)]):
    COSTS[row, list(cheapest)] = torch.tensor([1.0, 2.0, 3.0])
ALL = torch.ones(12, dtype=torch.bool)


def without(*layers):
    """`(12,)` bool: all of the student's layers but these."""
    return ALL.index_fill(0, torch.tensor(layers, dtype=torch.long), False)


def only(*layers):
    """`(12,)` bool: these of the student's layers alone."""
    return ~without(*layers)


@pytest.mark.parametrize("exists", [ALL, without(9, 7), only()])
def test_g10_v3_chooses_the_nearest_existing_layer_in_any_order(exists):
    chosen, found = nearest(COSTS, exists)
    assert chosen.tolist() == [7, 2, 10, 9]
    assert bool(found.all())


@pytest.mark.parametrize(
    ("exists", "expected"),
    [
        (ALL, [1, 2, 8, 9]),
        (without(9), [1, 2, 10, 11]),
        (without(9, 2), [1, 5, 10, 11]),
        (without(1, 2, 8), [0, 0, 3, 9]),
        (only(4), [4, 4, 4, 4]),
        (only(3, 8), [3, 3, 3, 3]),  # equal costs: the lowest
        (only(0, 11), [0, 0, 0, 11]),
        (only(0, 9), [0, 0, 0, 9]),
    ],
)
def test_g10_v4_chooses_existing_layers_in_descending_order(exists, expected):
    """Where no lower layer is left, the previous one is chosen again."""
    chosen, found = nearest_ordered(COSTS, exists)
    assert chosen.tolist() == expected
    assert bool(found.all())


def test_g10_v4_matches_nothing_where_nothing_exists():
    """The published code reads beyond the last layer (issue 27)."""
    chosen, found = nearest_ordered(COSTS, only())
    assert not bool(found.any())
    assert set(chosen.tolist()) <= set(range(12))


def ordered_by_hand(costs, exists):
    bound, chosen = costs.shape[1], []
    for row in reversed(costs.tolist()):
        below = [layer for layer in range(bound) if exists[layer]]
        bound = min(below, key=lambda layer: row[layer], default=bound)
        chosen.insert(0, bound)
    return chosen


@pytest.mark.parametrize(("teacher", "student"), [(4, 12), (3, 6), (4, 4), (1, 1), (5, 3)])
def test_g10_v4_equals_the_rule_spelled_out(teacher, student):
    noise = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs = torch.randint(0, 6, (teacher, student), generator=noise).float()  # with ties
        exists = torch.rand(student, generator=noise) < 0.7
        chosen, found = nearest_ordered(costs, exists)
        if exists.any():
            assert chosen.tolist() == ordered_by_hand(costs, exists) and bool(found.all())
            assert bool((chosen.diff() >= 0).all()) and bool(exists[chosen].all())
        else:
            assert not bool(found.any())


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(12, [3, 6, 9, 12]), (24, [6, 12, 18, 24]), (6, [2, 4, 6]), (5, [2, 4]), (4, [1, 2, 3, 4]), (3, [1, 2, 3])],
)
def test_g10_teachers_layers_are_the_last_of_each_quarter(depth, layers):
    assert quarters(depth) == layers


def test_g10_v5_samples_four_layers_in_order_none_in_the_first_window():
    torch.manual_seed(0)
    draws = [sampled(12) for _ in range(400)]
    assert all(draw == sorted(set(draw)) and len(draw) == 4 for draw in draws)
    assert {layer for draw in draws for layer in draw} == set(range(3, 13)), "0-based: from 2 on"
    often = torch.tensor(draws).flatten().bincount(minlength=13)[3:] / 400
    torch.testing.assert_close(often, torch.full((10,), 0.4), atol=0.13, rtol=0)


def test_g10_v6_samples_one_layer_of_each_window():
    torch.manual_seed(0)
    draws = [windows(12) for _ in range(300)]
    drawn = [set(column) for column in zip(*draws, strict=True)]
    assert drawn == [{3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}], "the first is forced to the end of its window"
    often = torch.tensor(draws)[:, 1:].flatten().bincount(minlength=13)[4:] / 300
    torch.testing.assert_close(often, torch.full((9,), 1 / 3), atol=0.14, rtol=0)


@pytest.fixture
def spied(monkeypatch):
    """The arguments and results of every call of a matching rule: (costs, exists, chosen, found)."""
    calls = []

    def spy(rule):
        def watched(costs, exists):
            calls.append((costs, exists, *rule(costs, exists)))
            return calls[-1][2:]

        return watched

    monkeypatch.setattr(hidden_states, "MATCHES", {name: spy(rule) for name, rule in hidden_states.MATCHES.items()})
    return calls


def matched_term(student, teacher, match, layers="quarters"):
    """A term with its projections and a fixed random state for `match`."""
    term = Hidden(layers, match=match)
    term.bind(student, teacher)
    return term


@pytest.mark.parametrize("match", ["nearest", "nearest-ordered", "sampled", "windows"])
def test_g10_a_student_like_its_teacher_is_aligned_and_has_no_loss(bert, batch, spied, match):
    model = bert(num_hidden_layers=12)
    outputs = model(**batch, output_hidden_states=True)
    term = matched_term(model, model, match)
    torch.manual_seed(1)
    drawn = hidden_states.SAMPLES.get(match, quarters)(12)
    torch.manual_seed(1)
    assert term(Step(batch, outputs, outputs)).item() == 0.0
    costs, exists, chosen, found = spied[0]
    assert chosen.tolist() == [layer - 1 for layer in drawn]
    assert costs.shape == (4, 12) and bool(exists.all()) and bool(found.all())
    if match in ("nearest", "nearest-ordered"):
        assert chosen.tolist() == [2, 5, 8, 11]
    assert list(term.projections) == ["shared"] and term.projections["shared"].weight.shape == (32, 32)


@pytest.mark.parametrize("match", ["nearest", "nearest-ordered"])
def test_g10_loss_is_the_sum_of_the_chosen_errors_on_real_tokens(bert, batch, spied, match):
    """A sum and not a mean; every error is a mean over real tokens and dims; the projection gets the gradient."""
    student, teacher = (bert(num_hidden_layers=12, seed=seed) for seed in (0, 1))
    mine, theirs = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    term = matched_term(student, teacher, match)
    loss = term(Step(batch, mine, theirs))
    costs, _, chosen, _ = spied[0]
    assert len(set(chosen.tolist())) > 1
    real = batch["attention_mask"].bool()
    errors = [
        (mine.hidden_states[1 + layer][real] - theirs.hidden_states[number][real]).square().mean()
        for number, layer in zip([3, 6, 9, 12], chosen.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, sum(errors))
    torch.testing.assert_close(costs[range(4), chosen].sum(), loss)
    assert not costs.requires_grad, "the choice is not differentiated"
    by_weight, by_student = torch.autograd.grad(
        loss, [term.projections["shared"].weight, student.bert.encoder.layer[0].output.dense.weight]
    )
    assert by_weight.abs().max() > 0 and by_student.abs().max() > 0


def close(space, *names):
    """`(N,)` of ones, and 0 for the sublayers named."""
    masks = space.ones()
    for name in names:
        masks[space.slices[name]] = 0.0
    return masks


@pytest.mark.parametrize("match", ["nearest-ordered", "sampled", "windows"])
def test_g10_a_layer_exists_while_attention_or_ffn_is_open(bert, batch, spied, match):
    """Issue 53: the published code reads the gate of the attention alone.

    Layers 8 and 11 (0-based) are removed, 2 and 5 keep one sublayer.
    """
    model = bert(num_hidden_layers=12)
    space, teacher = Space(model, *FAMILIES), model(**batch, output_hidden_states=True)
    masks = close(space, "2.attention", "5.mlp", "8.attention", "8.mlp", "11.attention", "11.mlp")
    term = matched_term(model, model, match)
    with attached(model, space, masks) as attachment:
        student = model(**batch, output_hidden_states=True)
        loss = term(Step(batch, student, teacher, attachment.masks, attachment.at_sites))
    _, exists, chosen, found = spied[0]
    assert exists.tolist() == without(8, 11).tolist()
    assert not {8, 11} & set(chosen.tolist()) and bool(found.all())
    assert bool((chosen.diff() >= 0).all()) and loss.item() > 0


def test_g10_nothing_matched_is_no_loss(bert, batch):
    """All layers closed in a sample: the loss is 0 and its gradient is finite."""
    model = bert(num_hidden_layers=4)
    space, teacher = Space(model, *FAMILIES), model(**batch, output_hidden_states=True)
    masks = close(space, *(f"{layer}.{part}" for layer in range(4) for part in ("attention", "mlp")))
    with attached(model, space, masks) as attachment:
        student = model(**batch, output_hidden_states=True)
        step = Step(batch, student, teacher, attachment.masks, attachment.at_sites)
        losses = {m: matched_term(model, model, m)(step) for m in ("nearest", "nearest-ordered", "windows")}
    assert losses["nearest"].item() > 0, "v3 does not ask who exists"
    for match in ("nearest-ordered", "windows"):
        assert losses[match].item() == 0.0
        losses[match].backward(retain_graph=True)


def test_g10_a_term_that_was_restricted_never_chooses_layers_that_were_cut(bert, batch, spied):
    """Only the input columns of the projection are cut: the target is the whole residual stream of the teacher."""
    student, teacher = bert(num_hidden_layers=12, hidden_size=24), bert(num_hidden_layers=12)
    kept = torch.arange(32)[torch.arange(32) % 4 > 0]
    term = Hidden("quarters", match="nearest-ordered")
    term.bind(teacher, teacher)
    before = term.projections["shared"].weight.detach().clone()
    term.restrict(kept, without(9, 10, 11))
    after = term.projections["shared"]
    assert torch.equal(after.weight, before[:, kept]) and after.weight.shape == (32, 24)
    mine, theirs = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    term(Step(batch, mine, theirs)).backward()
    _, exists, chosen, _ = spied[0]
    assert exists.tolist() == without(9, 10, 11).tolist()
    assert chosen.max() <= 8
    assert after.weight.grad.abs().max() > 0


# G11: distillation of logits


def taught(student, teacher, temperature):
    """The loss of CoFi's term and its gradient at the student's logits."""
    logits = student.clone().requires_grad_()
    step = Step({}, SimpleNamespace(logits=logits), SimpleNamespace(logits=teacher))
    loss = Logits(temperature, divergence=True)(step)
    return loss.item(), torch.autograd.grad(loss, logits)[0]


@pytest.fixture
def logits():
    """Student's and teacher's logits, `(16, 3)` each."""
    noise = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, generator=noise), torch.randn(16, 3, generator=noise)


@pytest.mark.parametrize("temperature", [2 / 3, 1.0, 2.0, 8.0])
def test_g11_divergence_is_zero_where_logits_agree(logits, temperature):
    loss, gradient = taught(logits[0], logits[0], temperature)
    assert loss == pytest.approx(0.0, abs=1e-6)
    assert gradient.abs().max() < 1e-6
    assert taught(logits[0], logits[0] + 5.0, temperature)[0] == pytest.approx(0.0, abs=1e-5), "a shift is no change"


@pytest.mark.parametrize("temperature", [2 / 3, 1.0, 2.0, 8.0])
def test_g11_divergence_is_that_of_teacher_to_student_times_the_square_of_tau(logits, temperature):
    student, teacher = logits
    mine, theirs = (functional.log_softmax(x / temperature, dim=-1) for x in logits)
    expected = functional.kl_div(mine, theirs, log_target=True, reduction="batchmean") * temperature**2
    assert taught(student, teacher, temperature)[0] == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() > 0.1


def test_g11_gradient_does_not_fade_as_the_temperature_rises(logits):
    """Small logits: KL is quadratic in the difference over tau, which tau^2 compensates. Without it, 1/64 at 8."""
    student, teacher = (0.01 * x for x in logits)
    sizes = [taught(student, teacher, tau)[1].norm().item() for tau in (1.0, 2.0, 8.0)]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.02)
    assert sizes[0] > 1e-5


def test_g11_a_regression_is_distilled_by_the_squared_error():
    """Defect B4: the divergence of one output is 0 whatever it is."""
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    loss, gradient = taught(student, teacher, 2.0)
    assert loss == (1 + 9) / 2
    assert gradient.flatten().tolist() == [1.0, -3.0]


# G13: the trainer


@pytest.fixture
def run(bert, rows, tmp_path):
    """Prune a student of four layers, its embeddings frozen, with a teacher; give back the trainer.

    The gates start around 1, `half_open`, so that the task has a say in the first step already.
    """

    def train(
        folder="run",
        *,
        steps=6,
        begin=0.3,
        callbacks=(),
        dropout=0.0,
        resume=None,
        half_open=True,
        seed=0,
        constraint="lagrangian",
        evidence=None,
        **args,
    ):
        student = bert(seed=seed, dropout=dropout, num_hidden_layers=4)
        student.bert.embeddings.requires_grad_(False)
        schedule = linear(1.0, 0.4, begin=begin, end=0.8)
        method = Cofi(
            Space(student, *FAMILIES), schedule, learning_rate=0.01, seed=7, constraint=constraint, evidence=evidence
        )
        if half_open:
            with torch.no_grad():
                method.log_alpha.normal_(1.0, 1.0, generator=torch.Generator().manual_seed(seed))
        options = {"weight_decay": 0.01} | args
        trainer = PruningTrainer(
            student,
            method=method,
            teacher=bert(seed=1, num_hidden_layers=4),
            objective=[Logits(2.0, 0.1, divergence=True), Hidden("quarters", 0.9, match="windows")],
            args=arguments(tmp_path / folder, steps, **options),
            train_dataset=rows,
            callbacks=list(callbacks),
        )
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


class Wiring(TrainerCallback):
    """Records learning rates, gradients and changes of every optimizer step."""

    trainer: PruningTrainer

    def __init__(self):
        self.rates, self.gradients, self.norms, self.moves = [], [], [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        method = self.trainer.method
        own = {"gates": method.log_alpha, "multipliers": method.multipliers}
        own = {name: parameter for name, parameter in own.items() if parameter is not None}
        self.before = {name: parameter.detach().clone() for name, parameter in own.items()}
        self.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in own.items()})
        gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
        self.norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        self.rates.append([group["lr"] for group in self.trainer.optimizer.param_groups])

    def on_optimizer_step(self, args, state, control, **kwargs):
        method = self.trainer.method
        after = {"gates": method.log_alpha, "multipliers": method.multipliers}
        self.moves.append({name: after[name].detach() - value for name, value in self.before.items()})


def test_g13_groups_have_their_own_rates_and_signs(run):
    """Weights and projections follow the linear decay, gates and multipliers do not; multipliers alone ascend."""
    wiring = Wiring()
    trainer = run(callbacks=[wiring], warmup_steps=2)
    groups, method = trainer.optimizer.param_groups, trainer.method
    decayed, others, projections, gates, multipliers = groups
    assert [p is q for p, q in zip(projections["params"], trainer.terms.parameters(), strict=True)] == [True, True]
    assert gates["params"][0] is method.log_alpha and multipliers["params"][0] is method.multipliers
    trained = {id(p) for p in trainer.model.parameters() if p.requires_grad}
    assert {id(p) for group in (decayed, others) for p in group["params"]} == trained
    assert [group.get("maximize", False) for group in groups] == [False] * 4 + [True]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.0, 0.0]
    assert all(tuple(group["betas"]) == (0.9, 0.999) and group["eps"] == 1e-8 for group in groups)
    weights = [0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4]
    assert wiring.rates == [pytest.approx([lr, lr, lr, 0.01, 0.01]) for lr in weights]


def test_g13_gates_descend_and_multipliers_ascend_once_pruning_has_begun(run):
    """Steps 0 and 1 are before it (progress 0 and 1/6 of 0.3).

    The first update of Adam has the size of the learning rate.
    """
    wiring = Wiring()
    run(callbacks=[wiring], half_open=False)
    assert [g["gates"] is None and g["multipliers"] is None for g in wiring.gradients] == [True, True] + [False] * 4
    assert all(move["gates"].eq(0).all() and move["multipliers"].eq(0).all() for move in wiring.moves[:2])
    gradient, move = wiring.gradients[2], wiring.moves[2]
    torch.testing.assert_close(move["multipliers"], 0.01 * gradient["multipliers"].sign(), atol=1e-5, rtol=0)
    assert gradient["multipliers"][0, 0] < 0 < gradient["multipliers"][1, 0], "too dense: lambda 1 falls"
    clear = gradient["gates"].abs() > 1e-4
    torch.testing.assert_close(move["gates"][clear], -0.01 * gradient["gates"][clear].sign(), atol=1e-5, rtol=0)
    assert int(clear.sum()) > 2


def test_an_exact_constraint_moves_the_gates_by_the_loss_alone_and_is_met_in_every_step(run):
    """The gates differ after six steps, and their gradients are in the log."""
    wiring = Wiring()
    trainer = run(constraint="exact", evidence=0.0, callbacks=[wiring], logging_strategy="steps", logging_steps=1)
    method, lines = trainer.method, [line for line in trainer.state.log_history if "loss" in line]
    assert [group.get("maximize", False) for group in trainer.optimizer.param_groups] == [False] * 4
    assert lines[0]["density_expected"] == 1.0 and "open_ffn" not in lines[0], "before pruning begins"
    for line in lines[1:]:
        assert line["density_target"] - 1e-6 < line["density_expected"] <= line["density_target"]
    assert lines[-1]["density_target"] == 0.4
    last = wiring.gradients[-1]["gates"].abs()
    for kind in FAMILIES:
        own = torch.cat([values for group, values in method.space.by_group(last) if group.kind == kind])
        assert lines[-1][f"gradient_{kind}"] == pytest.approx(own.mean().item(), rel=1e-5) and own.mean() > 0
    assert method.log_alpha.detach().std() > 0.1


def test_g13_gates_are_clamped_after_every_step_before_pruning_begins_too(run):
    trainer = run(steps=1, half_open=False)
    assert trainer.method.log_alpha.max().item() == pytest.approx(4.6052, abs=5e-5)


def test_g13_frozen_embeddings_do_not_change(run, bert):
    trainer = run()
    before, changed = bert(num_hidden_layers=4).state_dict(), set()
    for name, value in trainer.model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == name.startswith("bert.embeddings."), name
        changed |= set() if same else {name}
    assert "bert.encoder.layer.3.output.LayerNorm.weight" in changed
    assert trainer.method.log_alpha[trainer.method.space.slices["hidden"]].std() > 0


def test_g13_gates_are_not_in_the_clipped_norm(run):
    """The first step's gradients of gates and multipliers do not depend on the clipping of the weights to 0.001."""
    free, clipped = Wiring(), Wiring()
    trainer = run(steps=1, begin=0.0, callbacks=[free], max_grad_norm=0.0, logging_strategy="steps", logging_steps=1)
    run(steps=1, begin=0.0, callbacks=[clipped], max_grad_norm=1e-3)
    assert free.norms[0] > 0.1
    assert clipped.norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(free.norms[0], rel=1e-5), "of the weights alone"
    for name in ("gates", "multipliers"):
        assert torch.equal(free.gradients[0][name], clipped.gradients[0][name])
    assert free.gradients[0]["gates"].abs().max() > 1e-3


def test_g13_resumed_is_uninterrupted(run, tmp_path):
    """Six steps with dropout, sampled gates and sampled layers.

    Interrupted before pruning, at its start and on the ramp.
    """
    same = {"dropout": 0.1, "logging_strategy": "steps", "logging_steps": 1, "gradient_accumulation_steps": 2}
    whole = run("whole", save_strategy="steps", save_steps=1, **same)
    assert whole.method.draws == 4, "once in each of the four steps after the start, for both micro-batches"
    for step in (1, 2, 4):
        # other weights and gates at first
        resumed = run("again", resume=str(tmp_path / f"whole/checkpoint-{step}"), seed=2, **same)
        assert resumed.state.global_step == 6
        for part in ("model", "method", "terms"):
            expected = getattr(whole, part).state_dict()
            found = getattr(resumed, part).state_dict()
            assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
        losses = [
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)
        ]
        assert losses[0] == losses[1] and len(losses[0]) == 6


def test_g13_the_noise_continues_after_a_restart(bert):
    """A checkpoint holds the seed and the number of samples taken."""
    space = Space(bert(), *FAMILIES)
    whole, resumed = (Cofi(space, seed=seed).train() for seed in (1, 2))
    with torch.no_grad():
        whole.log_alpha.zero_()
    before = whole.masks()
    resumed.load_state_dict(whole.state_dict())
    after = whole.masks()
    assert not torch.equal(before, after)
    assert torch.equal(resumed.masks(), after)


def test_g13_two_processes_are_one_with_the_same_batch(tmp_path):
    """Same masks, gates, multipliers and weights on both ranks though their data differ, and those of one process.

    The noise is that of the step, and gradients are averaged. The published code does neither (B18).
    """
    first, second = two_ranks.of_script(two_processes.__file__, tmp_path)
    assert first.keys() == second.keys() >= {"method.log_alpha", "method.multipliers", "masks", "tokens"}
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"tokens"}
    assert any(name.startswith("terms.") for name in first)
    assert len(first["masks"].unique(dim=0)) == two_processes.STEPS, "new masks at every step"
    tokens = torch.cat([first["tokens"], second["tokens"]], dim=1)
    assert len(tokens.flatten(0, 1).unique(dim=0)) == 8 * two_processes.STEPS, "no row was seen twice"

    whole = two_processes.run(tmp_path / "one", batch=8)
    assert torch.equal(tokens, whole["tokens"])
    for name, value in first.items():
        if name != "tokens" and "key.bias" not in name:  # what softmax does not see has no gradient but noise
            torch.testing.assert_close(value, whole[name], atol=1e-5, rtol=0)
