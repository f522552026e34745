"""The best evaluation, kept and restored."""

from torch import nn

from secateur.training.best import BestEvaluation


def test_the_best_weights_are_restored_and_those_left_by_a_crash_do_not_count(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    best = BestEvaluation(tmp_path / "training" / "best.safetensors", "f1", {"model": model})
    best.restore()  # nothing has been kept
    for step, score, weight in ((1, 0.5, 1.0), (2, 0.7, 2.0), (3, 0.6, 3.0)):
        model.weight.data.fill_(weight)
        best.offer({"eval_f1": score}, step)
    best.restore()
    assert model.weight.item() == 2.0
    model.weight.data.fill_(4.0)
    best.offer({"eval_f1": 0.1}, 2)  # training was resumed before step 2
    best.restore()
    assert model.weight.item() == 4.0
