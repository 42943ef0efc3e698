import itertools

import numpy as np
import pytest

from nnunet_hypersegnas.space import (
    Operation,
    SearchSpace,
    derive_seed,
    encode,
    feasible_edges,
    rng_for,
    sample,
    sample_all_edges,
)
from tests.spaces import FULL_RESOLUTION, PLANE, STEM_STRIDE, TINY


@pytest.mark.parametrize("space", [SearchSpace.paper(), FULL_RESOLUTION, STEM_STRIDE, PLANE, TINY])
def test_every_sample_is_feasible_and_uses_all_layers(space):
    rng = np.random.default_rng(0)
    for _ in range(1000):
        architecture = sample(space, rng)
        architecture.check_fits(space)
        assert len(architecture.codes) == space.layers
        previous = None
        for row in architecture.codes:
            active = [column for column, code in enumerate(row) if code]
            assert active
            assert set(active) <= set(feasible_edges(space.edges, previous))
            previous = row


def test_edges_and_operations_are_drawn_with_uniform_likelihood():
    space = SearchSpace.from_stages([[1, 1, 1]] + [[2, 2, 2]] * 3, [[3, 3, 3]] * 4, layers=1, channels=[2] * 4)
    rng = np.random.default_rng(0)
    codes = np.array([sample(space, rng).codes[0] for _ in range(4000)])  # one layer: nothing is pruned
    assert np.abs((codes > 0).mean(0) - 0.5).max() < 0.03
    assert np.abs((codes == Operation.CONV).sum(0) / (codes > 0).sum(0) - 0.5).max() < 0.05


def test_every_layer_is_drawn_uniformly_from_what_is_feasible(monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.space.sampling.Architecture", lambda codes: codes)  # before pruning
    rng = np.random.default_rng(0)
    on, off, convolutions = 0, 0, 0
    for _ in range(500):
        codes = sample(FULL_RESOLUTION, rng)
        for previous, row in itertools.pairwise(codes):
            feasible = set(feasible_edges(FULL_RESOLUTION.edges, previous))
            assert any(row) and {column for column, code in enumerate(row) if code} <= feasible
            on += sum(bool(row[column]) for column in feasible)
            off += sum(not row[column] for column in feasible)
            convolutions += row.count(Operation.CONV)
    assert 0.49 < on / (on + off) < 0.52  # a layer that stayed empty gets an edge, hence a little more than half
    assert abs(convolutions / on - 0.5) < 0.02


def test_warm_up_draws_every_edge():
    codes = np.array(sample_all_edges(FULL_RESOLUTION, np.random.default_rng(0)).codes)
    assert (codes > 0).all() and len(np.unique(codes)) == 2


def test_a_draw_depends_on_seed_purpose_and_identity_alone():
    first = [sample(PLANE, rng_for(3, "training architecture", 5, i)).id for i in range(10)]
    backwards = [sample(PLANE, rng_for(3, "training architecture", 5, i)).id for i in reversed(range(10))]
    assert first == backwards[::-1]
    others = {derive_seed(3, "a", 1, 2), derive_seed(3, "a", 12), derive_seed(4, "a", 1, 2), derive_seed(3, "b", 1, 2)}
    assert len(others) == 4
    assert derive_seed(0, "x") == derive_seed(0, "x") < 2**63


def test_the_architecture_vector_marks_edges_and_operations():
    architecture = sample(FULL_RESOLUTION, np.random.default_rng(1))
    matrix = encode(architecture, FULL_RESOLUTION).reshape(6, 10, 2)
    assert matrix.sum() == architecture.n_edges
    for layer, column, _, operation in architecture.active():
        assert matrix[layer, column].tolist() == [operation is Operation.SKIP, operation is Operation.CONV]
