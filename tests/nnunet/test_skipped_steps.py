"""Steps that are left out: when a run goes on, and when it ends."""

import pytest
import torch
from torch import nn

from nnunet_hypersegnas.nnunet.skipped_steps import (
    FiniteLoss,
    NotFiniteError,
    SkippedStepsError,
    loss_not_finite,
    out_of_memory,
)
from nnunet_hypersegnas.space import rng_for, sample
from tests.spaces import TINY

SUB_NET = sample(TINY, rng_for(0, "test"))


@pytest.mark.parametrize(
    ("counter", "advice"), [(out_of_memory(), "set memory_limit"), (loss_not_finite(), "look for NaN")]
)
def test_steps_are_counted_in_a_row(counter, advice):
    error = RuntimeError("CUDA out of memory. Tried\nto allocate")
    for _ in range(3):  # a step that goes well begins anew
        for i in range(counter.most - 1):
            line = counter.skipped(7 + i, SUB_NET, error)
            assert line.startswith(f"WARNING: {counter.reason} in iteration {7 + i} with sub-net {SUB_NET.id} (")
        counter.passed()
    for i in range(counter.most - 1):
        counter.skipped(i, SUB_NET, error)
    with pytest.raises(SkippedStepsError, match=rf"in {counter.most} steps in a row.*{advice}") as raised:
        counter.skipped(9, SUB_NET, error)
    assert raised.value.__cause__ is error and "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_is_checked_only_where_gradients_follow_from_it(value):
    loss, target = FiniteLoss(nn.MSELoss()), torch.zeros(2)
    output = torch.full((2,), value, requires_grad=True)
    with pytest.raises(NotFiniteError, match=r"the loss is (nan|inf)"):
        loss(output, target)
    with torch.no_grad():
        assert not torch.isfinite(loss(output, target))
    assert loss(torch.ones(2, requires_grad=True), target) == 1
