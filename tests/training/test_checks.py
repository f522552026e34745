"""What the trainer refuses before it trains; more in `test_trainer.py`."""

from types import SimpleNamespace

import pytest

from secateur.system.errors import UserError
from secateur.training import checks


def test_rows_seen_need_an_order_by_length():
    args = SimpleNamespace(train_sampling_strategy="random")
    checks.check_order(args, 0)
    with pytest.raises(UserError, match="continues an order by length"):
        checks.check_order(args, 8)
