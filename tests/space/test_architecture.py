import itertools
import json

import numpy as np
import pytest

from nnunet_hypersegnas.space import (
    Architecture,
    ArchitectureError,
    Operation,
    SearchSpace,
    architecture_from_dints,
    largest,
    reference_architectures,
    smallest,
    u_net,
)
from tests.spaces import FULL_RESOLUTION, PLANE, STEM_STRIDE, TINY


def _edges_on_paths(codes, edges):
    """Brute force: all (layer, column) on some path from the first layer to the last."""
    used = set()
    for path in itertools.product(range(len(edges)), repeat=len(codes)):
        if all(codes[layer][column] for layer, column in enumerate(path)) and all(
            edges[a].target == edges[b].source for a, b in itertools.pairwise(path)
        ):
            used |= set(enumerate(path))
    return used


def test_exhaustive_round_trip_over_a_tiny_space():
    rows = list(itertools.product((0, 1, 2), repeat=len(TINY.edges)))
    by_id = {}
    refused = 0
    for codes in itertools.product(rows, repeat=TINY.layers):
        expected = _edges_on_paths(codes, TINY.edges)
        if not expected:
            refused += 1
            with pytest.raises(ArchitectureError, match="no path through all 2 layers"):
                Architecture(codes)
            continue
        architecture = Architecture(codes)
        assert {(layer, column) for layer, column, *_ in architecture.active()} == expected
        assert all(codes[layer][column] == op for layer, column, _, op in architecture.active())
        assert Architecture(architecture.codes) == architecture
        again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
        assert again == architecture and hash(again) == hash(architecture)
        assert by_id.setdefault(architecture.id, architecture) == architecture
    assert refused > 0
    assert len(set(by_id.values())) == len(by_id)  # equal ids if and only if equal architectures


def test_pruning_is_exact_on_a_larger_space():
    edges = SearchSpace.from_stages([[1, 1]] * 3, [[3, 3]] * 3, [2] * 3, layers=4).edges
    rng = np.random.default_rng(0)
    n_pruned = 0
    for _ in range(40):
        codes = (rng.integers(1, 3, (4, len(edges))) * (rng.random((4, len(edges))) < 0.4)).tolist()
        expected = _edges_on_paths(codes, edges)
        if expected:
            active = {(layer, column): int(op) for layer, column, _, op in Architecture(codes).active()}
            assert active == {(layer, column): codes[layer][column] for layer, column in expected}
            n_pruned += len(expected) < sum(bool(c) for row in codes for c in row)
        else:
            with pytest.raises(ArchitectureError, match="no path"):
                Architecture(codes)
    assert n_pruned > 10


def test_ids_do_not_change_between_versions():
    assert largest(SearchSpace.paper()).id == "e050f30be2"
    assert smallest(SearchSpace.paper()).id == "14043b8880"


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (((1, 1), (1, 1)), "rows of equal length 3 S - 2"),
        (((1,), (1, 1, 1, 1)), "rows of equal length"),
        (((3,),), r"unknown codes \[3\]"),
        (((0,), (1,)), "no path"),
    ],
)
def test_what_is_no_architecture_is_refused(codes, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture(codes)


def test_json_edited_by_hand_is_refused():
    value = smallest(TINY).to_json()
    with pytest.raises(ArchitectureError, match="the file was edited by hand"):
        Architecture.from_json({**value, "codes": largest(TINY).to_json()["codes"]})
    assert Architecture.from_json({"codes": value["codes"]}) == smallest(TINY)
    with pytest.raises(ArchitectureError, match="needed are the keys"):
        Architecture.from_json({"id": "x"})


@pytest.mark.parametrize(
    "broken",
    [None, [], {}, {"codes": 5}, {"codes": [5]}, {"codes": [["x"]]}, {"codes": []}, {"codes": [[1]], "more": 1}],
)
def test_json_of_something_else_is_refused(broken):
    with pytest.raises(ArchitectureError, match=r"not an architecture|an architecture needs"):
        Architecture.from_json(broken)


def test_an_architecture_of_another_space_does_not_fit():
    with pytest.raises(ArchitectureError, match="2 layers and 2 scales, the search space has 6 and 4"):
        smallest(TINY).check_fits(FULL_RESOLUTION)


@pytest.mark.parametrize("name", ["tutorial_ram0.2", "tutorial_ram0.8", "cvpr_ram0.8"])
def test_published_dints_codes_load(test_data, name):
    code = json.loads((test_data / "anchors" / "dints_codes.json").read_text())[name]
    architecture = architecture_from_dints(code["arch_code_a"], code["arch_code_c"])
    architecture.check_fits(SearchSpace.paper())
    for layer, column, _, operation in architecture.active():
        assert code["arch_code_a"][layer][column] == 1
        assert operation == (Operation.CONV if code["arch_code_c"][layer][column] else Operation.SKIP)
    on = sum(map(sum, code["arch_code_a"]))
    assert 0.5 * on < architecture.n_edges <= on  # pruned, not rewritten


def test_dints_codes_of_other_values_are_refused():
    with pytest.raises(ArchitectureError, match="same shape"):
        architecture_from_dints([[1]], [[1, 1]])
    with pytest.raises(ArchitectureError, match="0 to 4"):
        architecture_from_dints([[1]], [[5]])


@pytest.mark.parametrize("space", [SearchSpace.paper(), FULL_RESOLUTION, STEM_STRIDE, PLANE, TINY])
def test_reference_architectures(space):
    references = reference_architectures(space, seed=0)
    assert list(references) == ["largest", "smallest", "unet", "random0", "random1", "random2"]
    for architecture in references.values():
        architecture.check_fits(space)
    assert references["largest"].n_convolutions == space.layers * len(space.edges)
    assert references["smallest"].n_convolutions == 0
    assert references["smallest"].n_edges == space.layers
    assert references == reference_architectures(space, seed=0)


@pytest.mark.parametrize("space", [SearchSpace.paper(), FULL_RESOLUTION, STEM_STRIDE, PLANE, TINY])
def test_u_net_goes_down_and_up_once_with_skips_across(space):
    architecture = u_net(space)
    convolutions = [(layer, edge) for layer, _, edge, op in architecture.active() if op is Operation.CONV]
    assert [layer for layer, _ in convolutions] == list(range(space.layers))  # one main path
    path = [convolutions[0][1].source, *(edge.target for _, edge in convolutions)]
    depth = min(space.n_scales - 1, space.layers // 2)
    assert path[0] == path[-1] == 0 and max(path) == depth
    turn = path.index(depth)
    assert path[: turn + 1] == sorted(path[: turn + 1]) and path[turn:] == sorted(path[turn:], reverse=True)
    skips = [(layer, edge) for layer, _, edge, op in architecture.active() if op is Operation.SKIP]
    assert all(edge.source == edge.target for _, edge in skips)
    for scale in range(depth):  # at each scale an unbroken skip from where the path leaves to where it comes back
        layers = [layer for layer, edge in skips if edge.source == scale]
        assert layers == list(range(path[: turn + 1].count(scale) - 1 + path.index(scale), layers[-1] + 1))
        assert path[layers[-1] + 1] == scale
    assert architecture.outputs == (0,)


@pytest.mark.parametrize(("layers", "n_scales"), [(12, 4), (6, 4), (4, 3), (2, 2)])
def test_u_net_has_a_skip_at_each_scale(layers, n_scales):
    stages = [[1, 1, 1]] * n_scales, [[3, 3, 3]] * n_scales
    architecture = u_net(SearchSpace.from_stages(*stages, [2] * n_scales, layers=layers))
    skips = [edge.source for *_, edge, operation in architecture.active() if operation is Operation.SKIP]
    assert set(skips) == set(range(n_scales - 1))
    assert architecture.stems == (0,)


def test_u_net_of_a_tiny_space_written_down():
    assert u_net(TINY).codes == ((1, 0, 2, 0), (1, 2, 0, 0))


@pytest.mark.parametrize("layers", [1, 3])
def test_u_net_of_a_single_scale_is_a_chain_of_convolutions(layers):
    space = SearchSpace.from_stages([[1, 1, 1]], [[3, 3, 3]], [2], layers=layers)
    assert u_net(space).codes == largest(space).codes == ((2,),) * layers
    assert smallest(space).codes == ((1,),) * layers
