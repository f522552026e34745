"""What the trainer refuses before it trains; more in `test_trainer.py`."""

from types import SimpleNamespace

import pytest
import tiny_training
import torch
from quiet import arguments
from tiny_models import tiny

from secateur.budget.space import Space
from secateur.methods.grain import Grain
from secateur.methods.schedules import cubic
from secateur.system.errors import UserError
from secateur.training import checks
from secateur.training.objectives import Hidden, Logits
from secateur.training.trainer import PruningTrainer


def test_rows_seen_need_an_order_by_length():
    args = SimpleNamespace(train_sampling_strategy="random")
    checks.check_order(args, 0)
    with pytest.raises(UserError, match="continues an order by length"):
        checks.check_order(args, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_16_bits_are_trained_in_float32_and_it_is_said(tmp_path, dtype, caplog):
    """As they come from a checkpoint in 16 bits, with a projection of hidden states in float32."""
    models = [tiny("bert", "ForSequenceClassification").to(dtype) for _ in range(2)]
    method = Grain(Space(models[0], "ffn"), cubic(1.0, 0.7, begin=0.2, end=0.4))
    rows = tiny_training.examples()[:8]
    with caplog.at_level("WARNING", "secateur"):
        trainer = PruningTrainer(
            models[0],
            method=method,
            teacher=models[1],
            objective=[Logits(temperature=4.0), Hidden(layers="every 1")],
            args=arguments(tmp_path, 1),
            train_dataset=rows,
            data_collator=tiny_training.collate,
        )
    trainer.train()
    name = str(dtype).removeprefix("torch.")
    assert [record.getMessage() for record in caplog.records] == [
        f"the {role} has weights in {name}: they are cast to float32, in which it is trained"
        for role in ("teacher", "model")
    ]
    assert {weight.dtype for model in models for weight in model.parameters()} == {torch.float32}
