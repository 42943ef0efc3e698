"""The number of architectures, against all of them."""

from contextlib import suppress
from itertools import product

import pytest

from nnunet_hypersegnas.space import Architecture, ArchitectureError, SearchSpace, count_architectures


def space(layers, n_scales):
    return SearchSpace(
        layers=layers,
        channels=(4,) * n_scales,
        strides=((1, 1, 1), *((2, 2, 2),) * (n_scales - 1)),
        kernel_sizes=((3, 3, 3),) * n_scales,
    )


def every_architecture(found):
    rows = list(product((0, 1, 2), repeat=len(found.edges)))
    for codes in product(rows, repeat=found.layers):
        with suppress(ArchitectureError):
            yield Architecture(codes)


@pytest.mark.parametrize(("layers", "n_scales"), [(1, 1), (5, 1), (1, 2), (2, 2), (1, 3)])
def test_it_is_the_number_of_different_ones(layers, n_scales):
    found = space(layers, n_scales)
    assert count_architectures(found) == len(set(every_architecture(found)))


def test_the_papers_space():
    assert count_architectures(SearchSpace.paper()) == pytest.approx(6.2e54, rel=0.01)
