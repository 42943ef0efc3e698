"""What a super-net's training draws: the same in every run, and, where that is asked for, fair or biased."""

from collections import Counter

import numpy as np
import pytest

from nnunet_hypersegnas.space import (
    OFF,
    SAMPLERS,
    DrawError,
    Operation,
    TrainingDraws,
    canonical,
    rng_for,
    sample,
    sample_all_edges,
    to_architectures,
    to_codes,
)
from nnunet_hypersegnas.space.training_draws import swapped_operations
from tests.spaces import FULL_RESOLUTION, TINY


def _draws(sampler="uniform", space=FULL_RESOLUTION, **more):
    return TrainingDraws(space=space, seed=3, iterations_per_epoch=5, sampler=sampler, **more)


def test_uniform_draws_are_those_of_epoch_and_step():
    draws = _draws(warmup=2)
    for iteration in range(12):
        rng = rng_for(3, "training architecture", iteration // 5, iteration % 5)
        expected = (sample_all_edges if iteration < 2 else sample)(FULL_RESOLUTION, rng)
        assert draws.architecture(iteration) == expected
    assert draws.architecture(7) != draws.architecture(7, 1)  # another rank's


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_depends_on_nothing_before_it(sampler):
    whole = [_draws(sampler, warmup=3).architecture(i) for i in range(20)]
    for start in (4, 5, 13):  # odd ones too, and epochs end at odd iterations
        assert [_draws(sampler, warmup=3).architecture(i) for i in range(start, 20)] == whole[start:]
    assert len(set(whole)) == 20


@pytest.mark.parametrize("warmup", [0, 3])
def test_strictly_fair_draws_train_both_operations_of_an_edge_equally_often(warmup):
    draws = _draws("strictly fair", TINY, warmup=warmup)
    counts = {Operation.SKIP: Counter(), Operation.CONV: Counter()}
    for first in range(0, 200, 2):
        pair = [draws.architecture(first), draws.architecture(first + 1)]
        assert all((a == OFF) == (b == OFF) for a, b in zip(*(np.ravel(p.codes) for p in pair), strict=True))
        for architecture in pair:
            for layer, column, _, operation in architecture.active():
                counts[operation][layer, column] += 1
        assert counts[Operation.SKIP] == counts[Operation.CONV]
    assert len(counts[Operation.SKIP]) == 8  # every edge had its turns
    uniform = _draws(space=TINY, warmup=warmup)
    assert all(draws.architecture(i) == uniform.architecture(i) for i in range(0, 20, 2))


def test_important_paths_have_the_most_convolutions_of_the_candidates():
    rng = rng_for(3, "training architecture", 1, 2)
    candidates = [sample(FULL_RESOLUTION, rng) for _ in range(4)]
    drawn = _draws("important paths", path_candidates=4).architecture(7)
    assert drawn in candidates and drawn.n_convolutions == max(c.n_convolutions for c in candidates)

    def mean(count):
        draws = _draws("important paths", path_candidates=count)
        return np.mean([draws.architecture(i).n_convolutions for i in range(200)])

    assert mean(1) == np.mean([_draws().architecture(i).n_convolutions for i in range(200)])
    assert mean(1) + 1 < mean(2) < mean(4)
    warm = _draws("important paths", warmup=1).architecture(0)
    assert warm == _draws(warmup=1).architecture(0)


def _fewer_than(edges, convolutions=10**9):
    """A limit such as memory sets: both more edges and more convolutions need more."""
    return lambda codes: ((codes != OFF).sum((1, 2)) < edges) & ((codes == Operation.CONV).sum((1, 2)) < convolutions)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_that_all_fit_are_those_without_a_limit(sampler):
    limited, free = _draws(sampler, warmup=3, fits=_fewer_than(10**9)), _draws(sampler, warmup=3)
    assert [limited.architecture(i) for i in range(20)] == [free.architecture(i) for i in range(20)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_does_not_fit_is_drawn_again(sampler):
    fits = _fewer_than(28, 15)
    limited, free = _draws(sampler, warmup=3, fits=fits), _draws(sampler, warmup=3)
    found = [limited.architecture(i) for i in range(60)]
    assert fits(to_codes(found)).all() and len(set(found)) == 60
    without = [free.architecture(i) for i in range(60)]
    pairs = zip(range(0, 60, 2), without[::2], strict=True)
    as_before = {
        i: a
        for i, a in (pairs if sampler == "strictly fair" else enumerate(without))
        if i >= 4 and fits(to_codes([a]))[0]
    }
    if sampler == "strictly fair":
        as_before = {i: a for i, a in as_before.items() if fits(to_codes([swapped_operations(a)]))[0]}
    assert 0 < len(as_before) < len(without)
    assert all(found[i] == architecture for i, architecture in as_before.items())  # what fits stays what it was
    assert [_draws(sampler, warmup=3, fits=fits).architecture(i) for i in range(31, 60)] == found[31:]


def test_ranks_draw_again_each_for_itself():
    draws = _draws(fits=_fewer_than(28))
    assert draws.architecture(7, 1) != draws.architecture(7, 2)
    assert _fewer_than(28)(to_codes([draws.architecture(i, 1) for i in range(20)])).all()


@pytest.mark.parametrize("warmup", [0, 4])
def test_strictly_fair_pairs_stay_pairs_under_a_limit(warmup):
    fits = _fewer_than(28, 14)
    draws = _draws("strictly fair", warmup=warmup, fits=fits)
    for first in range(0, 40, 2):
        pair = [draws.architecture(first), draws.architecture(first + 1)]
        assert pair[1] == swapped_operations(pair[0]) and fits(to_codes(pair)).all()


def test_a_warm_up_that_does_not_fit_leaves_out_as_few_edges_as_it_can():
    """With one edge fewer left out, in the same random order, it would not fit."""
    fits = _fewer_than(40, 22)
    full_edges = sample_all_edges(FULL_RESOLUTION, rng_for(0, "test")).n_edges
    for iteration in range(6):
        found = _draws(warmup=6, fits=fits).architecture(iteration)
        assert found == _draws(warmup=6, fits=fits).architecture(iteration) and fits(to_codes([found]))[0]
        rng = rng_for(3, "training architecture", *divmod(iteration, 5))
        full = to_codes([sample_all_edges(FULL_RESOLUTION, rng)])
        assert (full != OFF).sum() == full_edges and not fits(full)[0]
        order, thinned = rng.permutation(full[0].size), []
        for count in range(full[0].size):
            left = full.copy()
            left.reshape(-1)[order[:count]] = OFF
            pruned, valid = canonical(FULL_RESOLUTION, left)
            if not valid[0]:
                break
            thinned.append(to_architectures(pruned)[0])
        fitting = [bool(fits(to_codes([architecture]))[0]) for architecture in thinned]
        fewest = fitting.index(True)
        assert found == thinned[fewest] and not fitting[fewest - 1]
        assert found.n_edges > 20  # dense, as the warm-up wants it


def test_a_limit_that_nothing_meets_is_an_error(monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.space.training_draws.MOST_DRAWS", 20)
    for warmup in (0, 9):
        with pytest.raises(DrawError, match="none of 20 sub-nets drawn for iteration 8 fits the memory limit"):
            _draws(warmup=warmup, fits=_fewer_than(0)).architecture(8)
