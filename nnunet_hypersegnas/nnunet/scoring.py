"""Scoring a network on validation crops with nnU-Net's own sliding window and label rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.sliding_window import Patch, SlidingWindow
from nnunet_hypersegnas.nnunet.validation_crops import ValidationCrop
from nnunet_hypersegnas.search import Score

OUTSIDE = -2  # label of voxels that only pad a crop
FEWEST_VOXELS = 50  # of a label that patches are said to show


def score_reproducibly(device: torch.device) -> None:
    """Let this process compute one score for one network, however often and whoever computes it."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


class CropScorer:
    """Predicts the crops patch-wise (no mirroring) and compares with their labels.

    Attributes:
        patches: of the sliding window, those first that show most of each label, of every crop one before a second:
            so few patches tell as much as few can.
    """

    def __init__(self, dataset: PreprocessedDataset, crops: Sequence[ValidationCrop], device: torch.device) -> None:
        self.crops, self.labels, self.names = crops, dataset.label_manager, dataset.label_names()
        self.device = device
        self.window = SlidingWindow([crop.image for crop in crops], dataset.configuration.patch_size, device)
        wanted = self.labels.foreground_regions if self.labels.has_regions else self.labels.foreground_labels
        self.members = [torch.tensor(w if isinstance(w, tuple) else [w], device=device) for w in wanted]
        self._padded = [self.window.padded(i, crop.labels, OUTSIDE) for i, crop in enumerate(crops)]
        self.patches = self._most_telling_first()

    def score(self, network: nn.Module) -> Score:
        """Return the DSC of whole crops; `network` gives one tensor of logits."""
        by_case = {}
        for crop, logits in zip(self.crops, self.window.logits(network), strict=True):
            counts = self._counts(logits, torch.from_numpy(crop.labels))
            by_case[crop.case] = self._dsc(counts)
        return Score.of_cases(by_case)

    def score_patches(self, network: nn.Module, count: int) -> Score:
        """Return the DSC of all voxels of the first `count` of `patches` together."""
        patches = self.patches[:count]
        counts = [
            self._counts(logits, self._reference(patch))
            for patch, logits in zip(patches, self.window.patch_logits(network, patches), strict=True)
        ]
        return Score(dsc_by_label=self._dsc(np.sum(counts, axis=0)))

    def _reference(self, patch: Patch) -> Tensor:
        return self._padded[patch.image][patch.where[1:]]

    def _counts(self, logits: Tensor, reference: Tensor) -> np.ndarray:
        """Return for each label or region how many voxels are predicted rightly, predicted, and true, shape (n, 3)."""
        reference = reference.to(self.device)
        valid = reference != OUTSIDE
        if self.labels.has_ignore_label:
            valid &= reference != self.labels.ignore_label
        if self.labels.has_regions:
            # As nnU-Net scores: on the label map that the regions' predictions are written into, in their order.
            segmentation = self.labels.convert_logits_to_segmentation(logits.float())
        else:
            segmentation = logits.argmax(0)
        counts = []
        for members in self.members:
            predicted, true = _among(segmentation, members) & valid, _among(reference, members) & valid
            counts.append(torch.stack([(predicted & true).sum(), predicted.sum(), true.sum()]))
        return torch.stack(counts).cpu().numpy()

    def _dsc(self, counts: np.ndarray) -> dict[str, float]:
        """Return the DSC of each label or region; NaN where neither prediction nor reference has it, as nnU-Net."""
        sizes = counts[:, 1] + counts[:, 2]
        with np.errstate(invalid="ignore"):
            values = np.where(sizes > 0, 2 * counts[:, 0] / sizes, np.nan)
        return dict(zip(self.names, values.tolist(), strict=True))

    def labels_shown(self, patches: int | None = None) -> list[str]:
        """Return the labels or regions that the first of `patches` show, or all of them, the crops whole.

        A few voxels do not count: that no sub-net finds them says nothing of the super-net.
        """
        voxels = np.array([self._shown(self._reference(patch)) for patch in self.patches[:patches]])
        return [name for name, count in zip(self.names, voxels.sum(axis=0), strict=True) if count >= FEWEST_VOXELS]

    def _shown(self, reference: Tensor) -> list[int]:
        """Return how many voxels of each label or region there are."""
        by_value = torch.bincount(reference.flatten().long() - OUTSIDE, minlength=max(self.labels.all_labels) + 3)
        return [int(by_value[members.cpu() - OUTSIDE].sum()) for members in self.members]

    def _most_telling_first(self) -> list[Patch]:
        voxels = np.array([self._shown(self._reference(patch)) for patch in self.window.patches])
        shown = (voxels / np.maximum(voxels.sum(axis=0), 1)).sum(axis=1)
        firsts: list[int] = []
        others: list[int] = []
        seen: set[int] = set()
        for i in np.argsort(-shown, kind="stable").tolist():
            image = self.window.patches[i].image
            (others if image in seen else firsts).append(i)
            seen.add(image)
        return [self.window.patches[i] for i in firsts + others]


def _among(labels: Tensor, members: Tensor) -> Tensor:
    """Return where labels are one of some values; comparing with a single one is many times faster than `isin`."""
    return labels == members[0] if len(members) == 1 else torch.isin(labels, members)
