"""The paper's Figure 6: an image with its labels, and how MAN's scalars change over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context, rcParamsDefault
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_hypersegnas.atomic import written_atomically


@dataclass(frozen=True)
class View:
    """A slice: across which axis, which one, and its height of a pixel in widths."""

    axis: int
    index: int
    aspect: float

    def of(self, volume: np.ndarray) -> np.ndarray:
        return volume.take(self.index, self.axis)


@dataclass(frozen=True, kw_only=True, eq=False)
class ManDrawing:
    """What is drawn.

    Attributes:
        image: shape (X, Y, Z).
        labels: the same; 0 and below is no label.
        maps: by title, the same.
        spacing_mm: of the axes.
    """

    image: np.ndarray
    labels: np.ndarray
    maps: Mapping[str, np.ndarray]
    spacing_mm: tuple[float, ...]

    @property
    def views(self) -> list[View]:
        """The slice with most labels across each axis, or the middle one; none that is a line."""
        views = []
        for axis in range(3):
            rows, columns = (i for i in range(3) if i != axis)
            if min(self.image.shape[rows], self.image.shape[columns]) < 2:
                continue
            voxels = (self.labels > 0).sum((rows, columns))
            index = int(voxels.argmax()) if voxels.any() else self.image.shape[axis] // 2
            views.append(View(axis, index, self.spacing_mm[rows] / self.spacing_mm[columns]))
        return views


def plot_man(drawing: ManDrawing, path: Path, title: str = "") -> None:
    """Draw into a PNG file: a row for each view; image with the labels' contours, and the maps with their scales."""
    views = drawing.views
    columns = 1 + len(drawing.maps)
    with rc_context(rcParamsDefault):
        figure = Figure(figsize=(3.6 * columns, 3 * len(views) + 0.4), layout="compressed")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(views), columns, squeeze=False)
        for view, (first, *others) in zip(views, grid, strict=True):
            labels = view.of(drawing.labels)
            first.imshow(view.of(drawing.image), cmap="gray", aspect=view.aspect)
            first.set_ylabel(f"slice {view.index + 1} of {drawing.image.shape[view.axis]}", fontsize="small")
            for axes in (first, *others):
                _draw_contours(axes, labels)
                axes.set_xticks([])
                axes.set_yticks([])
            for axes, volume in zip(others, drawing.maps.values(), strict=True):
                axes.imshow(view.of(volume), cmap="viridis", aspect=view.aspect, vmin=volume.min(), vmax=volume.max())
        for axes, name in zip(grid[0], ("image and labels", *drawing.maps), strict=True):
            axes.set_title(name, fontsize="medium")
        for column in range(1, columns):
            figure.colorbar(grid[0, column].get_images()[0], ax=list(grid[:, column]), shrink=0.8)
        figure.suptitle(title, fontsize="medium")
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)


def _draw_contours(axes: object, labels: np.ndarray) -> None:
    for number, label in enumerate(np.unique(labels[labels > 0])):
        axes.contour(labels == label, levels=[0.5], colors=f"C{(number + 1) % 10}", linewidths=0.8)  # type: ignore[attr-defined]
