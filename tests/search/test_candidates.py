import contextlib
import itertools

import pytest

from nnunet_hypersegnas.cost import TrainingMemoryModel, TrainingSetup
from nnunet_hypersegnas.search import BudgetError, MemoryWindow, draw_candidates
from nnunet_hypersegnas.space import Architecture, ArchitectureError, rng_for, sample, skip_path
from tests.spaces import FULL_RESOLUTION, TINY

MODEL = TrainingMemoryModel(
    FULL_RESOLUTION, TrainingSetup(patch_size=(16, 24, 16), batch_size=2, input_channels=1, num_classes=3)
)
SIZES = sorted(MODEL.predict_bytes(sample(FULL_RESOLUTION, rng_for(9, "t", i))) for i in range(200))


def _draw(window, count=30, seed=0):
    return draw_candidates(FULL_RESOLUTION, MODEL.predict_bytes, window, count, seed)


def test_candidates_are_distinct_and_within_the_window():
    window = MemoryWindow.below(SIZES[100], SIZES[100] - SIZES[50])
    found = _draw(window)
    assert len(set(found)) == 30
    assert all(SIZES[50] <= MODEL.predict_bytes(a) <= SIZES[100] for a in found)
    assert found == _draw(window)
    assert found[:10] == _draw(window, count=10)  # asking for more adds to what fewer gave
    assert found != _draw(window, seed=1)


def test_the_papers_window_lies_on_both_sides():
    assert MemoryWindow.around(500, 300) == MemoryWindow(200, 800)
    assert MemoryWindow.below(500, 300) == MemoryWindow(200, 500)
    assert MemoryWindow.below(200, 300) == MemoryWindow(0, 200)
    assert 200 in MemoryWindow(200, 500) and 500 in MemoryWindow(200, 500) and 501 not in MemoryWindow(200, 500)


def test_a_budget_that_nothing_meets_names_the_smallest_possible(monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.search.candidates.MIN_DRAWS", 200)
    with pytest.raises(BudgetError, match=r"200 sampled.*smallest possible needs .* MB.*Choose another --memory"):
        _draw(MemoryWindow(0, 1000), count=2)


def test_fewer_candidates_than_asked_for_is_no_error(monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.search.candidates.MIN_DRAWS", 200)
    monkeypatch.setattr("nnunet_hypersegnas.search.candidates.DRAWS_PER_CANDIDATE", 1)
    assert 0 < len(_draw(MemoryWindow(0, SIZES[5]), count=150)) < 150


def test_the_smallest_possible_is_a_path_of_skips():
    """Exhaustively over a tiny space."""
    setup = TrainingSetup(patch_size=(16, 16, 16), batch_size=2, input_channels=1, num_classes=3)
    model = TrainingMemoryModel(TINY, setup)
    sizes = []
    for codes in itertools.product(itertools.product((0, 1, 2), repeat=4), repeat=2):
        with contextlib.suppress(ArchitectureError):
            sizes.append(model.predict_bytes(Architecture(codes)))
    paths = [skip_path(TINY, stem, output) for stem in range(2) for output in range(stem + 1)]
    assert min(map(model.predict_bytes, paths)) == min(sizes)
