"""Scoring a network on validation crops with nnU-Net's own sliding window and label rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.sliding_window import SlidingWindow
from nnunet_hypersegnas.nnunet.validation_crops import ValidationCrop
from nnunet_hypersegnas.search import Score


class CropScorer:
    """Predicts the crops patch-wise (no mirroring) and compares with their labels."""

    def __init__(self, dataset: PreprocessedDataset, crops: Sequence[ValidationCrop], device: torch.device) -> None:
        self.crops, self.labels, self.names = crops, dataset.label_manager, dataset.label_names()
        patch_size = dataset.configuration.patch_size
        self.window = SlidingWindow([crop.image for crop in crops], patch_size, device)
        self.references = [torch.from_numpy(crop.labels).to(device) for crop in crops]

    def score(self, network: nn.Module) -> Score:
        """Return the mean over the crops of each label's DSC; `network` gives one tensor of logits."""
        predicted = zip(self.window.logits(network), self.references, strict=True)
        per_crop = [self._dsc(logits, reference) for logits, reference in predicted]
        table = np.array(per_crop)
        means = [float(np.nanmean(column)) if not np.isnan(column).all() else float("nan") for column in table.T]
        return Score(dsc_by_label=dict(zip(self.names, means, strict=True)))

    def _dsc(self, logits: Tensor, reference: Tensor) -> list[float]:
        """Return the DSC of each label or region; NaN where neither prediction nor reference has it, as nnU-Net."""
        valid = torch.ones_like(reference, dtype=torch.bool)
        if self.labels.has_ignore_label:
            valid = reference != self.labels.ignore_label
        values = []
        if self.labels.has_regions:
            # As nnU-Net scores: on the label map that the regions' predictions are written into, in their order.
            segmentation = self.labels.convert_logits_to_segmentation(logits.float())
            wanted = self.labels.foreground_regions
        else:
            segmentation = logits.argmax(0)
            wanted = self.labels.foreground_labels
        for label in wanted:
            members = torch.tensor(label if isinstance(label, tuple) else [label], device=reference.device)
            predicted = torch.isin(segmentation, members) & valid
            true = torch.isin(reference, members) & valid
            size = int(predicted.sum() + true.sum())
            values.append(2 * int((predicted & true).sum()) / size if size else float("nan"))
        return values
