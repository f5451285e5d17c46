"""The epoch's means: exact over unequal batches, NaN kept, nothing left over from one epoch to the next."""

import pytest
import torch

from lightning_modules.metrics import Mean


def test_a_mean_over_unequal_batches():
    mean = Mean()
    for batch in (torch.tensor([1.0, 2.0, 6.0]), torch.tensor([11.0])):
        mean.add(batch.sum(), len(batch))
    assert mean.compute() == 5
    mean.reset()
    assert not mean.update_called
    mean.add(torch.tensor(3.0, requires_grad=True), 1)
    assert mean.compute() == 3 and not mean.total.requires_grad


def test_nan_stays():
    mean = Mean()
    mean.add(torch.tensor(float("nan")), 4)
    mean.add(torch.tensor(1.0), 4)
    assert mean.compute().isnan()


@pytest.mark.parametrize("first", [True, False])
def test_reset_in_inference_mode(first):
    """`trainer.validate` before `trainer.fit`."""
    mean = Mean()
    with torch.inference_mode(first):
        mean.add(torch.tensor(1.0), 1)
        mean.reset()
    mean.add(torch.tensor(2.0), 1)
    assert mean.compute() == 2
