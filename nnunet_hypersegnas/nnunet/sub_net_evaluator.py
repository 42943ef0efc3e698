"""What a worker does: a super-net's sub-nets are scored, with shared weights and after fine-tuning."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from nnunet_hypersegnas.architectures import OneShotNetwork, SearchedNet, inherit_weights, searched_net_kwargs
from nnunet_hypersegnas.cost.measuring import is_out_of_memory
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.plans import write_inherited_weights
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.search import Rung, Score, SearchSettings, Way
from nnunet_hypersegnas.space import Architecture, SearchSpace, derive_seed

log = logging.getLogger(__name__)


class FinalistFiles:
    """Where the fine-tuned weights of a search are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, rung: Rung, architecture: Architecture) -> Path:
        return self.folder / f"{architecture.id}_{rung.amount}_iterations.pth"

    def unfinished(self, rung: Rung, architecture: Architecture) -> Path:
        return self.folder / f"{architecture.id}_{rung.amount}_iterations_unfinished.pth"


class SubNetEvaluator:
    """Evaluates sub-nets on a device; the super-net and the crops are loaded once.

    Args:
        dataset: data set and configuration of the super-net.
        fold: the super-net's fold.
        network: the super-net as `load_super_net` gives it, on `device`.
        scorer: the fold's validation crops.
        files: where fine-tuned weights are kept.
        settings: learning rate and seed of fine-tuning.
        device: where all this runs.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        network: OneShotNetwork,
        scorer: CropScorer,
        files: FinalistFiles,
        settings: SearchSettings,
        device: torch.device,
    ) -> None:
        self.dataset, self.fold, self.network, self.scorer = dataset, fold, network, scorer
        self.files, self.settings, self.device = files, settings, device
        self._fine_tuner: FineTuner | None = None

    @property
    def annealing(self) -> float:
        """Lambda of Eq. 5: a super-net that is searched has its MAN only where that stays, as constants of sub-nets."""
        return 1.0 if self.network.man is None else 0.0

    @property
    def space(self) -> SearchSpace:
        return self.network.super_net.space

    def evaluate(self, rung: Rung, architecture: Architecture) -> Score:
        """Return the architecture's score on a rung; without any label where the device has too little memory."""
        try:
            return self._evaluate(rung, architecture)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.warning("%s: architecture %s does not fit the device", rung.title, architecture.id)
            torch.cuda.empty_cache()
            return Score(dsc_by_label={})

    def _evaluate(self, rung: Rung, architecture: Architecture) -> Score:
        if rung.way is Way.FINE_TUNING:
            return self._fine_tuned(rung, architecture)
        self.network.take(architecture, self.annealing)
        if rung.way is Way.PATCHES:
            return self.scorer.score_patches(self.network, rung.amount)
        return self.scorer.score(self.network)

    def _fine_tuned(self, rung: Rung, architecture: Architecture) -> Score:
        if self._fine_tuner is None:
            self._fine_tuner = FineTuner(self.dataset, self.space, self.fold, self.device, self.files.folder / "log")
        network, unfinished = self.inherited(architecture), self.files.unfinished(rung, architecture)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):  # as nnU-Net trains
            self._fine_tuner.fine_tune(
                network,
                iterations=rung.amount,
                learning_rate=self.settings.finetune_lr,
                seed=derive_seed(self.settings.seed, "fine-tuning", architecture.id),
                unfinished=unfinished,
            )
        score = self.scorer.score(network)
        weights = self.files.weights(rung, architecture)
        write_inherited_weights(weights, network, fold=self.fold, stage=rung.name)
        unfinished.unlink(missing_ok=True)
        return score

    def inherited(self, architecture: Architecture) -> SearchedNet:
        """Return the stand-alone network with the super-net's weights."""
        network = SearchedNet(
            self.dataset.input_channels,
            self.dataset.label_manager.num_segmentation_heads,
            **searched_net_kwargs(self.space, architecture, self.network.super_net.fixed_scalar),
        ).to(self.device)
        man = self.network.man
        constants = None if man is None else man(None, architecture, self.annealing)
        inherit_weights(self.network.super_net, network, constants)
        return network
