"""The paper's Figure 4: DSC of networks trained from scratch over what predicts it, one panel a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nnunet_hypersegnas.atomic import written_atomically

MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
COLUMNS = 3
CONTROL = ""  # in a super-net's place
GREY = "0.45"
THOUSAND = 1000  # from here on an axis has units of thousands, millions, ...


@dataclass(frozen=True, kw_only=True)
class CorrelationDrawing:
    """What is drawn.

    Attributes:
        truth: DSC of each network; NaN where it is not trained.
        windows: of each network, its marker.
        panels: values of the networks by the prediction's title and then, its colour, the super-net; `CONTROL` where
            there is none.
    """

    truth: Sequence[float]
    windows: Sequence[str]
    panels: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def super_nets(self) -> list[str]:
        return list(dict.fromkeys(name for panel in self.panels.values() for name in panel if name != CONTROL))

    def label(self, super_net: str, window: str) -> str:
        """Return what the legend calls a super-net's networks of a window."""
        return window if super_net == CONTROL or len(self.super_nets) == 1 else f"{super_net}, {window}"

    def points(self, title: str, super_net: str, window: str) -> tuple[list[float], list[float]]:
        """Return the predictions and truths of a window's networks that have both."""
        rows = zip(self.panels[title][super_net], self.truth, self.windows, strict=True)
        there = [(x, y) for x, y, of in rows if of == window and math.isfinite(x) and math.isfinite(y)]
        return [x for x, _ in there], [y for _, y in there]


def plot_correlation(drawing: CorrelationDrawing, path: Path) -> None:
    """Draw into a PNG file."""
    windows = list(dict.fromkeys(drawing.windows))
    colours = {CONTROL: GREY, **{name: f"C{number}" for number, name in enumerate(drawing.super_nets)}}
    rows = math.ceil(len(drawing.panels) / COLUMNS)
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(3.6 * COLUMNS, 3.2 * rows + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).ravel()
        for axes, (title, panel) in zip(grid, drawing.panels.items(), strict=False):
            for name in panel:
                for number, window in enumerate(windows):
                    axes.scatter(
                        *drawing.points(title, name, window),
                        color=colours[name],
                        marker=MARKERS[number % len(MARKERS)],
                        s=28,
                        alpha=0.75,
                        linewidths=0,
                        label=drawing.label(name, window),
                    )
            axes.set_xlabel(title)
            axes.locator_params(axis="x", nbins=5)
            if axes.get_xlim()[1] >= THOUSAND:
                axes.xaxis.set_major_formatter(EngFormatter())
            axes.grid(alpha=0.3)
        for axes in grid[len(drawing.panels) :]:
            axes.set_axis_off()
        for axes in grid[::COLUMNS]:
            axes.set_ylabel("DSC, trained from scratch")
        entries: dict[str, Artist] = {}
        for axes in grid:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
