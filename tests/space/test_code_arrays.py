import numpy as np
import pytest

from nnunet_hypersegnas.space import (
    Architecture,
    ArchitectureError,
    canonical,
    mutate,
    rng_for,
    sample,
    sample_codes,
    to_architectures,
    to_codes,
)
from tests.spaces import FULL_RESOLUTION, IDS, SPACES, TINY


@pytest.mark.parametrize("space", [space for space, _ in SPACES], ids=IDS)
def test_pruning_many_gives_what_pruning_one_gives(space):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (500, space.layers, len(space.edges))).astype(np.int8)
    codes *= rng.random(codes.shape) < rng.random((500, 1, 1))
    pruned, valid = canonical(space, codes)
    assert 50 < valid.sum() < 500
    for before, after, is_valid in zip(codes, pruned, valid, strict=True):
        try:
            expected = Architecture(tuple(map(tuple, before.tolist())))
        except ArchitectureError:
            assert not is_valid
        else:
            assert is_valid and to_codes([expected])[0].tolist() == after.tolist()


@pytest.mark.parametrize("space", [space for space, _ in SPACES], ids=IDS)
def test_drawn_codes_are_canonical_architectures(space):
    codes = sample_codes(space, 300, np.random.default_rng(1))
    assert to_codes(to_architectures(codes)).tolist() == codes.tolist()


def test_draws_are_distributed_as_those_of_one_at_a_time():
    many = sample_codes(TINY, 20_000, np.random.default_rng(2))
    ones = to_codes([sample(TINY, rng_for(0, "t", i)) for i in range(4000)])
    for codes in range(3):
        np.testing.assert_allclose((many == codes).mean(0), (ones == codes).mean(0), atol=0.03)


def test_probabilities_are_those_of_edges_and_convolutions():
    rng = np.random.default_rng(3)
    dense = sample_codes(FULL_RESOLUTION, 500, rng, edge_probability=0.95, conv_probability=0.1)
    sparse = sample_codes(FULL_RESOLUTION, 500, rng, edge_probability=0.05, conv_probability=0.9)
    assert (dense > 0).mean() > 0.85 > 0.3 > (sparse > 0).mean()
    assert (dense == 2).sum() / (dense > 0).sum() == pytest.approx(0.1, abs=0.02)
    assert (sparse == 2).sum() / (sparse > 0).sum() == pytest.approx(0.9, abs=0.02)
    each = sample_codes(FULL_RESOLUTION, 2, rng, edge_probability=np.array([0.0, 1.0]))
    assert (each > 0).sum((1, 2)).tolist() == [6, 60]


def test_a_neighbour_differs_in_few_codes():
    codes = sample_codes(FULL_RESOLUTION, 400, np.random.default_rng(4))
    near = mutate(FULL_RESOLUTION, codes, np.random.default_rng(5))
    changed = (codes != near).sum((1, 2))
    assert changed.max() == 3 and (changed > 0).mean() > 0.5
    assert set(np.unique(near)) == {0, 1, 2}
    assert (near == mutate(FULL_RESOLUTION, codes, np.random.default_rng(5))).all()
