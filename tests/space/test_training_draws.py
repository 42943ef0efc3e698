"""What a super-net's training draws: the same in every run, and, where that is asked for, fair or biased."""

from collections import Counter

import numpy as np
import pytest

from nnunet_hypersegnas.space import OFF, SAMPLERS, Operation, TrainingDraws, rng_for, sample, sample_all_edges
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
