"""PNG and BMP files, read as nnU-Net reads them (`NaturalImage2DIO`)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from skimage.io import imread

from nnunet_hypersegnas.evaluation.geometry import Geometry, Placement
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError, because, check_holds_labels, check_is_file

ENDINGS = (".png", ".bmp")
PIXEL = Placement((1.0, 1.0, 1.0))


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a picture: labels of shape (1, Y, X), and its geometry, pixels of 1 mm.

    Raises:
        UnreadableImageError: the file is missing, no picture, or one in colours.
    """
    check_is_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what cannot be read either way, or is large
            labels = np.asarray(imread(str(path)))
    except Exception as error:  # each of Pillow's decoders raises what comes
        raise because(error) from error
    if labels.ndim == 3:
        raise UnreadableImageError(f"it has {labels.shape[-1]} values for each pixel; a label map has one number")
    check_holds_labels(labels.shape[::-1], labels.dtype)
    return labels[None], Geometry((*labels.shape[::-1], 1), (PIXEL,))
