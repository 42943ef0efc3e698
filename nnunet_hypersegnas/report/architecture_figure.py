"""A picture of one architecture as the paper draws it: layers from left to right, the finest scale on top."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_hypersegnas.atomic import written_atomically
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace

COLOURS = {Operation.CONV: "#c0392b", Operation.SKIP: "#2471a3"}
LABELS = {Operation.CONV: "convolution", Operation.SKIP: "skip connection"}


@dataclass(frozen=True)
class ArrowSpec:
    """An active edge: from (column, scale) to (column, scale), and its operation."""

    start: tuple[int, int]
    end: tuple[int, int]
    operation: Operation


@dataclass(frozen=True)
class ArchitectureDrawing:
    """What is drawn: feature maps at (column, scale), column 0 the stems; arrows; and a label for each scale."""

    nodes: frozenset[tuple[int, int]]
    arrows: tuple[ArrowSpec, ...]
    scale_labels: tuple[str, ...]

    @classmethod
    def of(cls, architecture: Architecture, space: SearchSpace) -> ArchitectureDrawing:
        """Lay an architecture out.

        Raises:
            ArchitectureError: it is none of the space.
        """
        architecture.check_fits(space)
        arrows = tuple(
            ArrowSpec((layer, edge.source), (layer + 1, edge.target), operation)
            for layer, _, edge, operation in architecture.active()
        )
        labels = tuple(
            f"1/{'x'.join(map(str, stride)) if len(set(stride)) > 1 else stride[0]}\n{channels} channels"
            for stride, channels in zip(space.cumulative_strides, space.channels, strict=True)
        )
        return cls(frozenset(point for a in arrows for point in (a.start, a.end)), arrows, labels)


def plot_architecture(drawing: ArchitectureDrawing, path: Path, title: str = "") -> None:
    """Draw into a PNG file."""
    columns = max(column for column, _ in drawing.nodes) + 1
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(1.1 * columns + 1.5, 1.0 * len(drawing.scale_labels) + 1.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for arrow in drawing.arrows:
            axes.annotate(
                "",
                xy=arrow.end,
                xytext=arrow.start,
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": COLOURS[arrow.operation],
                    "linestyle": "-" if arrow.operation is Operation.CONV else (0, (4, 2)),
                    "linewidth": 1.6,
                    "shrinkA": 9,
                    "shrinkB": 9,
                },
            )
        for column, scale in drawing.nodes:
            axes.plot(column, scale, "o", markersize=15, color="white", markeredgecolor="black")
        for operation in Operation:
            style = "-" if operation is Operation.CONV else "--"
            axes.plot([], [], style, color=COLOURS[operation], label=LABELS[operation])
        axes.set_xticks(range(columns), ["stem", *map(str, range(1, columns))])
        axes.set_xlabel("layer")
        axes.set_yticks(range(len(drawing.scale_labels)), drawing.scale_labels)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(len(drawing.scale_labels) - 0.5, -0.5)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        axes.set_title(title, fontsize="medium")
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
