import math
from dataclasses import replace

import numpy as np

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.report.architecture_figure import ArchitectureDrawing, plot_architecture
from nnunet_hypersegnas.report.correlation_figure import CorrelationDrawing, plot_correlation
from nnunet_hypersegnas.report.man_figure import ManDrawing, plot_man
from nnunet_hypersegnas.report.pareto_figure import ParetoDrawing, plot_pareto
from nnunet_hypersegnas.report.training_curves import TrainingCurves, plot_training_curves
from nnunet_hypersegnas.search import Budget, Candidate, Contest, Interval, Limits, Rung, Score, Way
from nnunet_hypersegnas.space import Operation, SearchSpace, rng_for, sample, u_net
from tests.spaces import PLANE, TINY


def test_a_drawing_shows_every_active_edge():
    drawing = ArchitectureDrawing.of(u_net(TINY), TINY)
    arrows = {(a.start, a.end, a.operation) for a in drawing.arrows}
    conv, skip = Operation.CONV, Operation.SKIP
    # One convolution down, one up, and a skip across at full resolution.
    assert arrows == {
        ((0, 0), (1, 1), conv),
        ((1, 1), (2, 0), conv),
        ((0, 0), (1, 0), skip),
        ((1, 0), (2, 0), skip),
    }
    assert drawing.nodes == {(0, 0), (1, 0), (1, 1), (2, 0)}


def test_scales_are_labelled_with_stride_and_channels():
    paper = SearchSpace.paper()
    assert ArchitectureDrawing.of(u_net(paper), paper).scale_labels[3] == "1/16\n256 channels"
    assert ArchitectureDrawing.of(u_net(PLANE), PLANE).scale_labels[0] == "1/1x2\n4 channels"


def test_the_front_is_drawn_with_all_that_was_fine_tuned(tmp_path):
    rung = Rung(way=Way.FINE_TUNING, amount=5, keep=4, cost_patches=40)
    architectures = [sample(TINY, rng_for(0, "figure", i)) for i in range(4)]

    def contest(label, high, *points):
        candidates = [
            Candidate(architecture=a, predicted_memory_bytes=memory, parameters=1, multiply_adds=1).scored(
                rung, Score(dsc_by_label={"organ": dsc})
            )
            for a, (memory, dsc) in zip(architectures, points, strict=False)
        ]
        budget = Budget(label, Limits({Quantity.MEMORY: Interval(0, high)}))
        return Contest(budget, None, candidates)

    contests = [contest("small", 5e6, (4e6, 0.5), (3e6, 0.6)), contest("large", 9e6, (8e6, 0.7), (7e6, 0.4))]
    contests[1].candidates = [
        replace(c, architecture=a) for c, a in zip(contests[1].candidates, architectures[2:], strict=True)
    ]
    drawing = ParetoDrawing.of(contests, rung, "predicted")
    assert drawing.networks == {"small": [(4e6, 0.5), (3e6, 0.6)], "large": [(8e6, 0.7), (7e6, 0.4)]}
    assert drawing.front == [(3e6, 0.6), (8e6, 0.7)] and drawing.budgets == {"small": 5e6, "large": 9e6}
    plot_pareto(drawing, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_are_written_whole(tmp_path):
    plot_architecture(ArchitectureDrawing.of(u_net(TINY), TINY), tmp_path / "architecture.png")
    log = {"train_losses": [1, 0.5], "val_losses": [1, 0.6], "lambda": [0, 1], "dsc_unet": [0.1, 0.2]}
    log |= {"dsc_unet_without_man": [0.1, 0.2], "spread_images": [0.1, 0.1], "spread_architectures": [0.1, 0.1]}
    curves = TrainingCurves.from_log(log, ["unet"])
    assert curves.dsc_without_man["unet"] == [0.1, 0.2]
    plot_training_curves(curves, tmp_path / "curves.png")
    without = TrainingCurves.from_log({**log, "spread_images": [math.nan, math.nan]}, ["unet"])
    assert curves.have_man and not without.have_man
    plot_training_curves(without, tmp_path / "without_man.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["architecture.png", "curves.png", "without_man.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in tmp_path.iterdir())


def test_the_views_of_a_volume_are_those_with_most_labels(tmp_path):
    labels = np.zeros((6, 8, 10), np.int16)
    labels[2, 3:6, 4:9] = 1
    labels[2:4, 5, 7] = 2
    labels[0] = -1  # nnU-Net's mark of what was empty
    volume = np.random.default_rng(0).normal(size=labels.shape)
    drawing = ManDrawing(image=volume, labels=labels, maps={"a": volume, "b": 0 * volume}, spacing_mm=(3.0, 1.0, 0.5))
    assert [(view.axis, view.index, view.aspect) for view in drawing.views] == [(0, 2, 2), (1, 5, 6), (2, 7, 3)]
    plot_man(drawing, tmp_path / "man.png", "case")
    assert (tmp_path / "man.png").read_bytes().startswith(b"\x89PNG")
    one_slice = ManDrawing(image=volume[:1], labels=0 * labels[:1], maps={"a": volume[:1]}, spacing_mm=(3.0, 1.0, 0.5))
    assert [(view.axis, view.index) for view in one_slice.views] == [(0, 0)]
    plot_man(one_slice, tmp_path / "slice.png")


def test_networks_that_are_not_trained_are_not_drawn(tmp_path):
    nan = float("nan")
    drawing = CorrelationDrawing(
        truth=[0.7, nan, 0.8],
        windows=["5GB", "5GB", "7GB"],
        panels={"shared": {"Plans": [0.1, 0.2, nan], "Others": [0.3, 0.4, 0.5]}, "memory": {"": [4e9, 5e9, 7e9]}},
    )
    assert drawing.points("shared", "Plans", "5GB") == ([0.1], [0.7])
    assert drawing.points("shared", "Plans", "7GB") == ([], [])
    assert drawing.points("memory", "", "7GB") == ([7e9], [0.8])
    assert drawing.label("Others", "7GB") == "Others, 7GB" and drawing.label("", "7GB") == "7GB"
    plot_correlation(drawing, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
