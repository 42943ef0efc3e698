import numpy as np
import pytest
import torch

from nnunet_hypersegnas.architectures import (
    MetaAssistantNetwork,
    ScalarMoments,
    all_scalars,
    scalar_spread,
    scalar_statistics,
    spread_over_architectures,
)
from nnunet_hypersegnas.architectures.man import EveryRow
from nnunet_hypersegnas.space import Operation, rng_for, sample
from tests.awake import awake, saturated
from tests.spaces import FULL_RESOLUTION as SPACE

ARCHITECTURES = [sample(SPACE, rng_for(0, "test", i)) for i in range(4)]


@pytest.fixture
def man():
    torch.manual_seed(0)
    return awake(MetaAssistantNetwork(SPACE, 1, (16, 24, 16))).eval()


@pytest.fixture
def images():
    return torch.randn(5, 1, 16, 24, 16, generator=torch.Generator().manual_seed(1))


def test_all_scalars_are_those_that_every_architecture_gets(man, images):
    """The rows of an architecture, found among all of them, are what the network itself is given."""
    for architecture in ARCHITECTURES:
        parts = all_scalars(man, images, architecture).split(
            [SPACE.channels[edge.target] for _, _, edge, _ in EveryRow(SPACE, "output").active()], dim=1
        )
        found = {row[:2] + row[3:]: part for row, part in zip(EveryRow(SPACE, "output").active(), parts, strict=True)}
        assert len(found) == 2 * SPACE.layers * len(SPACE.edges)
        modulation = man(images, architecture)
        for layer, column, _, operation in architecture.active():
            torch.testing.assert_close(found[layer, column, operation], modulation[layer, column])


def test_layers_are_cut_where_their_rows_are(man, images):
    """A row changes the numbers of the layer that it belongs to."""
    before = scalar_statistics(man, images, ARCHITECTURES).layers
    saturated(man, 1)
    after = scalar_statistics(man, images, ARCHITECTURES).layers
    assert [layer.layer for layer in after] == list(range(1, SPACE.layers + 1))
    changed = [a.layer for a, b in zip(before, after, strict=True) if a != b]
    assert changed == [2] and after[1].sd > before[1].sd and after[1].saturated > before[1].saturated


def test_moments_by_batch_are_those_of_all_together():
    values = torch.rand(11, 7, generator=torch.Generator().manual_seed(0)) * 2
    values[:, 3] = 1.5 + 1e-6 * torch.arange(11)  # a small spread far from zero
    moments = ScalarMoments()
    for batch in values.split([4, 1, 6]):
        moments.add(batch)
    expected = values.double()
    torch.testing.assert_close(moments.mean, expected.mean(0))
    torch.testing.assert_close(moments.variance, expected.var(0))
    assert torch.equal(moments.least, expected.amin(0)) and torch.equal(moments.most, expected.amax(0))
    assert moments.saturated.tolist() == ((expected < 0.04) | (expected > 1.96)).sum(0).tolist()


def test_statistics_by_hand(man, images):
    found = scalar_statistics(man, images, ARCHITECTURES)
    scalars = all_scalars(man, images, ARCHITECTURES[0]).double()
    over_architectures = torch.cat([all_scalars(man, images[:1], a) for a in ARCHITECTURES]).double().std(0)
    assert found.spread_images == pytest.approx(float(scalars.std(0).median()))
    assert found.spread_architectures == pytest.approx(float(over_architectures.median()))
    assert scalar_spread(man, images, ARCHITECTURES) == (found.spread_images, found.spread_architectures)
    torch.testing.assert_close(spread_over_architectures(man, images[:1], ARCHITECTURES), over_architectures)
    n = EveryRow(SPACE, "output").sizes[0]
    assert n == len(Operation) * sum(SPACE.channels[edge.target] for edge in SPACE.edges)
    first = scalars[:, :n].numpy()
    layer = found.layers[0]
    assert (layer.scalars, layer.least, layer.most) == (n, first.min(), first.max())
    assert layer.mean == pytest.approx(first.mean()) and layer.sd == pytest.approx(first.std(), rel=0.1)
    assert layer.saturated == pytest.approx(np.mean((first < 0.04) | (first > 1.96)))
    assert layer.spread_images == pytest.approx(float(scalars[:, :n].std(0).median()))
    assert found.warning(told_architecture=True) is None
    assert found.line().count("/") == 4 + 4 * SPACE.layers


def test_a_saturated_layer_is_named(man, images):
    saturated(saturated(man, 0), 2)
    warning = scalar_statistics(man, images, ARCHITECTURES).warning(told_architecture=True)
    assert "more than 50% of MAN's scalars in layers 1, 3 are saturated" in warning and "man_lr" in warning


def test_a_dead_man_has_collapsed(man, images):
    for linear in man.hyper_net.rows.values():
        torch.nn.init.zeros_(linear.weight)
    found = scalar_statistics(man, images, ARCHITECTURES)
    assert (found.spread_images, found.spread_architectures) == (0, 0)
    assert "hardly depend on images and architectures any more" in found.warning(told_architecture=True)


def test_what_man_is_not_told_it_need_not_depend_on(images):
    man = awake(MetaAssistantNetwork(SPACE, 1, (16, 24, 16), told_architecture=False))
    found = scalar_statistics(man, images, ARCHITECTURES)
    assert found.spread_architectures == 0 and found.warning(told_architecture=False) is None
