from nnunet_hypersegnas.report.architecture_figure import ArchitectureDrawing, plot_architecture
from nnunet_hypersegnas.report.training_curves import TrainingCurves, plot_training_curves
from nnunet_hypersegnas.space import Operation, SearchSpace, u_net
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


def test_pictures_are_written_whole(tmp_path):
    plot_architecture(ArchitectureDrawing.of(u_net(TINY), TINY), tmp_path / "architecture.png")
    log = {"train_losses": [1, 0.5], "val_losses": [1, 0.6], "lambda": [0, 1], "dsc_unet": [0.1, 0.2]}
    log |= {"dsc_unet_without_man": [0.1, 0.2], "spread_images": [0.1, 0.1], "spread_architectures": [0.1, 0.1]}
    curves = TrainingCurves.from_log(log, ["unet"])
    assert curves.dsc_without_man["unet"] == [0.1, 0.2]
    plot_training_curves(curves, tmp_path / "curves.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["architecture.png", "curves.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in tmp_path.iterdir())
