import numpy as np
import pytest

from nnunet_hypersegnas.space import Edge, SearchSpace, SearchSpaceError
from tests.spaces import PLANE, STEM_STRIDE


def test_the_papers_space_has_the_papers_numbers():
    space = SearchSpace.paper()
    assert space.n_man_outputs == 27_648  # c_tot, section 4
    assert space.n_architecture_entries == 240  # L x E x O, section 3.2
    assert len(space.edges) == 10


def test_edges_are_dints_columns():
    edges = SearchSpace.paper().edges
    assert [edge.source for edge in edges] == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3]
    assert [edge.target for edge in edges] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    kinds = np.sign([target - source for source, target in edges])
    assert (list(kinds).count(0), list(kinds).count(1), list(kinds).count(-1)) == (4, 3, 3)


def stages(n_stages):
    """Strides, kernels and features of nnU-Net's stages."""
    strides = [[1, 1, 1]] + [[2, 2, 2]] * (n_stages - 1)
    return strides, [[3, 3, 3]] * n_stages, [min(320, 32 << stage) for stage in range(n_stages)]


@pytest.mark.parametrize("n_stages", range(1, 8))
def test_by_default_the_scales_are_all_stages_from_full_resolution(n_stages):
    space = SearchSpace.from_stages(*stages(n_stages))
    assert space.n_scales == n_stages and space.layers == 12
    assert space.finest_is_full_resolution and set(space.strides[1:]) <= {(2, 2, 2)}
    assert space.channels == (32, 64, 128, 256, 320, 320, 320)[:n_stages]


@pytest.mark.parametrize(("layers", "n_stages", "n_scales"), [(12, 8, 7), (12, 9, 7), (14, 8, 8), (4, 6, 3), (1, 6, 1)])
def test_layers_can_go_down_and_up_again_through_so_many_scales(layers, n_stages, n_scales):
    space = SearchSpace.from_stages(*stages(n_stages), layers=layers)
    assert space.n_scales == n_scales and space.finest_is_full_resolution
    assert space.channels == tuple(stages(n_stages)[2][:n_scales])


@pytest.mark.parametrize(("n_stages", "stem"), [(4, 1), (5, 2), (6, 2), (7, 2)])
def test_fewer_scales_than_stages_start_at_half_resolution(n_stages, stem):
    """As in the paper, and in all earlier versions."""
    strides, kernels, features = stages(n_stages)
    by_channels = SearchSpace.from_stages(strides, kernels, features, channels=(32, 64, 128, 256))
    assert by_channels.strides == ((stem,) * 3,) + ((2, 2, 2),) * 3
    assert by_channels == SearchSpace.from_stages(strides, kernels, features, n_scales=4)
    assert by_channels.finest_is_full_resolution == (stem == 1)


def test_full_resolution_can_be_asked_for_and_left_out():
    fine = SearchSpace.from_stages(*stages(6), channels=(8, 16), full_resolution=True)
    assert fine.strides == ((1, 1, 1), (2, 2, 2)) and fine.channels == (8, 16)
    coarse = SearchSpace.from_stages(*stages(6), full_resolution=False)
    assert coarse.strides == ((2, 2, 2),) * 5 and coarse.channels == (32, 64, 128, 256, 320)
    with pytest.raises(SearchSpaceError, match="6 scales are asked for, the plans have 5 stages below full resolution"):
        SearchSpace.from_stages(*stages(6), n_scales=6, full_resolution=False)


@pytest.mark.parametrize("features", [[], [32, 64, 128, 256, 320]])
def test_without_features_channels_have_to_be_named(features):
    strides, kernels, _ = stages(6)
    with pytest.raises(SearchSpaceError, match=f"features of {len(features)} stages, 6 scales need as many; name the"):
        SearchSpace.from_stages(strides, kernels, features)
    assert SearchSpace.from_stages(strides, kernels, features, channels=[4] * 6).channels == (4,) * 6


def test_scales_follow_anisotropic_plans():
    strides = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    kernels = [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]
    space = SearchSpace.from_stages(strides, kernels, [2] * 6)
    assert space.cumulative_strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16), (4, 32, 32))
    assert space.kernel_sizes == tuple(map(tuple, kernels))
    space = SearchSpace.from_stages(strides, kernels, n_scales=4, channels=[2] * 4)
    assert space.cumulative_strides == ((1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16))
    assert space.kernel_sizes == ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_depth_width_and_scales_can_be_overridden():
    strides, kernels, features = [[1, 1]] + [[2, 2]] * 5, [[3, 3]] * 6, [4] * 6
    space = SearchSpace.from_stages(strides, kernels, layers=7, channels=(8, 16), n_scales=2)
    assert (space.layers, space.channels, space.dimension, space.strides) == (7, (8, 16), 2, ((2, 2), (2, 2)))
    assert SearchSpace.from_stages(strides, kernels, features, n_scales=6).finest_is_full_resolution
    with pytest.raises(SearchSpaceError, match="7 scales are asked for, the plans have 6 stages"):
        SearchSpace.from_stages(strides, kernels, features, n_scales=7)
    with pytest.raises(SearchSpaceError, match="channels, strides and kernel_sizes describe 2, 3 and 3 scales"):
        SearchSpace.from_stages(strides, kernels, channels=(8, 16), n_scales=3)
    with pytest.raises(SearchSpaceError, match="6 strides and 5 kernel sizes"):
        SearchSpace.from_stages(strides, kernels[1:])


def test_every_fault_is_named_at_once():
    with pytest.raises(SearchSpaceError) as error:
        SearchSpace(layers=0, channels=(8, -1), strides=((0, 1, 1),), kernel_sizes=((2, 3, 3),))
    for part in ("layers is 0", "channels is [8, -1]", "2, 1 and 1 scales", "strides is", "odd positive"):
        assert part in str(error.value)


@pytest.mark.parametrize("space", [SearchSpace.paper(), STEM_STRIDE, PLANE])
def test_json_round_trip(space):
    again = SearchSpace.from_json(space.to_json())
    assert again == space
    assert again.digest == space.digest


def test_digests_tell_spaces_apart():
    assert len({SearchSpace.paper().digest, STEM_STRIDE.digest, PLANE.digest}) == 3
    # Written down: a digest names spaces in files, so it must never change between versions.
    assert SearchSpace.paper().digest == "cf206b59e91e"


@pytest.mark.parametrize("broken", [{}, {"layers": 1}, 3, {**SearchSpace.paper().to_json(), "more": 1}])
def test_json_of_something_else_is_refused(broken):
    with pytest.raises(SearchSpaceError, match="exactly the keys"):
        SearchSpace.from_json(broken)


@pytest.mark.parametrize("change", [{"layers": None}, {"layers": "many"}, {"strides": 3}, {"channels": [None] * 4}])
def test_json_values_of_the_wrong_form_are_refused(change):
    with pytest.raises(SearchSpaceError, match="not a search space"):
        SearchSpace.from_json({**SearchSpace.paper().to_json(), **change})


def test_edges_are_ordered_pairs_of_neighbouring_scales():
    assert all(isinstance(edge, Edge) and abs(edge.source - edge.target) <= 1 for edge in PLANE.edges)
