"""Scoring a network on validation crops with nnU-Net's own sliding window and label rules."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, nn

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.validation_crops import ValidationCrop
from nnunet_hypersegnas.search import Score


class CropScorer:
    """Predicts the crops patch-wise (no mirroring) and compares with their labels."""

    def __init__(self, dataset: PreprocessedDataset, crops: Sequence[ValidationCrop], device: torch.device) -> None:
        self.dataset, self.crops = dataset, crops
        self.labels = dataset.label_manager
        self.names = dataset.label_names()
        with redirect_stdout(io.StringIO()):  # on CPU it prints a remark that is none
            self.predictor = nnUNetPredictor(
                tile_step_size=0.5,
                use_gaussian=True,
                use_mirroring=False,
                perform_everything_on_device=device.type == "cuda",
                device=device,
                allow_tqdm=False,
            )

    def score(self, network: nn.Module) -> Score:
        """Return the mean over the crops of each label's DSC; `network` gives one tensor of logits."""
        self.predictor.manual_initialization(
            network,
            self.dataset.plans_manager,
            self.dataset.configuration,
            None,
            dict(self.dataset.dataset_json),
            "",
            None,
        )
        per_crop = []
        for crop in self.crops:
            logits = self.predictor.predict_sliding_window_return_logits(torch.from_numpy(crop.image))
            per_crop.append(self._dsc(logits.float().cpu(), torch.from_numpy(crop.labels)))
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
            segmentation = self.labels.convert_logits_to_segmentation(logits)
            wanted = self.labels.foreground_regions
        else:
            segmentation = logits.argmax(0)
            wanted = self.labels.foreground_labels
        for label in wanted:
            members = torch.tensor(label if isinstance(label, tuple) else [label])
            predicted = torch.isin(segmentation, members) & valid
            true = torch.isin(reference, members) & valid
            size = int(predicted.sum() + true.sum())
            values.append(2 * int((predicted & true).sum()) / size if size else float("nan"))
        return values
