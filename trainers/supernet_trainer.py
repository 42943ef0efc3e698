"""The super-net as an nnU-Net trainer: nnU-Net's data, augmentation and loss, one sampled architecture a step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_hypersegnas.architectures import OneShotNetwork, scalar_statistics, spread_architectures
from nnunet_hypersegnas.atomic import sweep, written_atomically
from nnunet_hypersegnas.nnunet.cascade import FirstStage
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_limit import MemoryLimit
from nnunet_hypersegnas.nnunet.optimizers import make_optimizer
from nnunet_hypersegnas.nnunet.recipes import departures_of_plans
from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.nnunet.seeded_batches import ForgetfulTransforms, SeededBatches
from nnunet_hypersegnas.nnunet.settings import BLOCK, NO_VALIDATION, SuperNetSettings, space_in_block
from nnunet_hypersegnas.nnunet.skipped_steps import (
    FiniteLoss,
    NotFiniteError,
    lacks_memory,
    loss_not_finite,
    out_of_memory,
)
from nnunet_hypersegnas.nnunet.space_report import space_report
from nnunet_hypersegnas.nnunet.space_trainer import SpaceTrainer
from nnunet_hypersegnas.nnunet.supernet_checkpoint import (
    LOG_PREFIX,
    TRAINING_SECONDS,
    CheckpointError,
    SuperNetRecord,
    data_changes,
    load_training,
)
from nnunet_hypersegnas.nnunet.variants import Variant
from nnunet_hypersegnas.report.training_curves import TrainingCurves, plot_training_curves
from nnunet_hypersegnas.space import (
    Architecture,
    SearchSpace,
    TrainingDraws,
    derive_seed,
    reference_architectures,
    u_net,
)
from nnunet_hypersegnas.trainers.augmentation import rotation_and_flip
from nnunet_hypersegnas.trainers.distributed import wrap
from nnunet_hypersegnas.trainers.learning_rate import ScheduledLearningRate
from nnunet_hypersegnas.trainers.optimizers import JointOptimizer
from nnunet_hypersegnas.trainers.sandwich import SandwichStep
from nnunet_hypersegnas.trainers.unfound_labels import UnfoundLabels
from nnunet_hypersegnas.trainers.validation_patches import Batch, ValidationPatches, copy_of

MAX_VALIDATION_PATCHES = 16
VALIDATION_SHARE = 0.1  # of an epoch's time


class HyperSegNASSupernetTrainer(SpaceTrainer):
    """Trains a super-net, with a Meta-Assistant Network where the settings ask for one (paper section 3.2).

    Settings stand in the `hypersegnas` block of the plans' configuration, see `SuperNetSettings`. What is drawn in an
    iteration, lambda and the learning rate follow from seed, epoch and iteration alone, so `--c` continues a run as if
    it had not been interrupted.
    """

    network: Any
    grad_scaler: Any
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    total_epochs: int | None = None  # short trainings: train this many epochs instead of the plans' setting
    variant: Variant | None = None  # of the ablation: its settings stand in place of the plans'

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's own signature, checked by name)
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.take_predictions_of(FirstStage.of(plans, configuration))
        self.settings = self.settings_of(self.configuration_manager.configuration)
        self.schedule = Schedule.from_settings(self.settings)
        self.memory_limit: MemoryLimit | None = None  # settled when the training begins, or by a checkpoint
        self.out_of_memory, self.loss_not_finite = out_of_memory(), loss_not_finite()
        self._use_space(self.settings.space(self.configuration_manager.configuration))
        self.enable_deep_supervision = self.settings.deep_supervision
        if self.settings.oversample_foreground is not None:
            self.oversample_foreground_percent = self.settings.oversample_foreground
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations_per_epoch
        self.num_val_iterations_per_epoch = 1  # a "batch" of it is all cached patches, see get_dataloaders
        self.initial_lr = self.settings.base_lr
        self.weight_decay = self.settings.weight_decay
        self.save_every = self.settings.save_every
        self.iteration = 0  # global, of the step under way
        self.unfound_labels: UnfoundLabels | None = None
        self.validation_patches: int | None = None  # how many of them are scored; settled in the first validation
        self._prepare_logs()

    # -- what is trained ---------------------------------------------------------------------------------------------

    @classmethod
    def settings_of(cls, configuration: Mapping[str, Any]) -> SuperNetSettings:
        """Return the settings with which this class trains a plans configuration."""
        settings = SuperNetSettings.from_configuration(configuration)
        if cls.variant is not None:
            settings = replace(settings, **cls.variant.settings)
        return settings if cls.total_epochs is None else settings.shortened(cls.total_epochs)

    @classmethod  # nnU-Net's is static, and called in ways that allow both
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        configuration = configuration_manager.configuration
        settings = cls.settings_of(configuration)
        space = settings.space(configuration)
        network = OneShotNetwork(
            space,
            num_input_channels,
            num_output_channels,
            configuration_manager.patch_size,
            deep_supervision=enable_deep_supervision,
            man=settings.man,
            recompute=settings.recompute,
            scalar_position=settings.scalar_position,
            fixed_scalar=settings.fixed_scalar,
        )
        network.take(u_net(space), settings.final_lambda)  # for whoever predicts without choosing a sub-net
        return network

    def _use_space(self, space: SearchSpace) -> None:
        """Train this search space, and name it in the plans that nnU-Net keeps beside the checkpoints.

        Whoever builds the network from these plans then gets this space, whatever rule gives a space to other plans.
        """
        plans = deepcopy(self.plans_manager.plans)
        block = self.configuration_manager.configuration.get(BLOCK, {})
        plans["configurations"][self.configuration_name][BLOCK] = {**block, **space_in_block(space)}
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)
        configuration = self.configuration_manager.configuration
        self.space = self.settings_of(configuration).space(configuration)
        self.references = reference_architectures(self.space, self.settings.seed)
        self.draws = self._draws()

    def _draws(self) -> TrainingDraws:
        limit = self.memory_limit
        return TrainingDraws(
            space=self.space,
            seed=self.settings.seed,
            iterations_per_epoch=self.settings.iterations_per_epoch,
            warmup=self.schedule.warmup,
            sampler=self.settings.sampler,
            path_candidates=self.settings.path_candidates,
            fits=None if limit is None else limit.fits,
        )

    def initialize(self) -> None:
        # nnU-Net leaves weights unseeded; a super-net's start belongs to its seed.
        torch.manual_seed(self.settings.seed)
        if self.memory_limit is None:
            self.memory_limit = MemoryLimit.at_start(self._dataset(), self.space, self.settings, self.device)
        self.draws = self._draws()
        super().initialize()
        if self.is_ddp:
            self.network = wrap(
                self.network.module, self.device, average_over_users=self.settings.architecture_per_rank
            )

    def one_shot_network(self) -> OneShotNetwork:
        """Return super-net and MAN; on several GPUs `network` wraps them."""
        return self.network.module if self.is_ddp else self.network

    def configure_optimizers(self) -> tuple[JointOptimizer, Any]:
        settings, network = self.settings, self.network
        decay = self.weight_decay
        optimizers = {"super_net": make_optimizer(settings.optimizer, network.super_net, settings.base_lr, decay)}
        if network.man is not None:
            optimizers["man"] = make_optimizer(settings.man_optimizer, network.man, settings.man_base_lr, decay)
        joint = JointOptimizer(optimizers)
        return joint, ScheduledLearningRate(joint, self.schedule, self.num_iterations_per_epoch)

    def _dataset(self) -> PreprocessedDataset:
        return PreprocessedDataset(
            name=self.plans_manager.dataset_name,
            plans=self.plans_manager.plans,
            configuration_name=self.configuration_name,
            dataset_json=self.dataset_json,
        )

    def on_train_start(self) -> None:
        if not self.was_initialized:  # the log tells of the memory limit, which is settled there
            self.initialize()
        if self.local_rank == 0:
            sweep(Path(self.output_folder))  # checkpoints that a killed training was writing
            for line in space_report(self._dataset(), self.space, self.settings, self.device.type):
                self.print_to_log_file(line)
            if self.memory_limit is not None:
                self.print_to_log_file(self.memory_limit.line())
        super().on_train_start()
        self.print_to_log_file(
            f"Super-net: search space {self.space.digest} with {self.space.layers} layers, channels "
            f"{list(self.space.channels)} at strides {[list(s) for s in self.space.cumulative_strides]}; "
            f"{self.schedule.iterations} iterations, {self._course_of_man()}"
        )
        if self.settings.recipe == "paper" and (
            departures := departures_of_plans(self.configuration_manager.configuration)
        ):
            self.print_to_log_file(f"Recipe 'paper', but these plans have {'; '.join(departures)}")

    def _course_of_man(self) -> str:
        if not self.settings.has_man:
            return "no MAN"
        told = "" if self.settings.man == "image and architecture" else f" (told the {self.settings.man} alone)"
        share, last = self.settings.annealing_share, self.schedule.annealing
        return {
            "linear": f"MAN{told} annealed away in the first {share:.0%} of the last {last}",
            "none": f"MAN{told} in all of them, and in predictions",
            "at once": f"MAN{told} in all of them, and in no prediction",
        }[self.settings.annealing]

    def architecture_of(self, iteration: int) -> Architecture:
        """Return the sub-net that is trained in a global iteration, by this process."""
        rank = [self.local_rank] if self.settings.architecture_per_rank and self.local_rank else []
        return self.draws.architecture(iteration, *rank)

    def on_train_epoch_start(self) -> None:
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
        super().on_train_epoch_start()
        self._training_started = time()

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        seconds = time() - self._training_started
        taken = [output for output in train_outputs if output["loss"] is not None]
        super().on_train_epoch_end(taken or [{"loss": np.nan}])
        self._log(TRAINING_SECONDS.removeprefix(LOG_PREFIX), seconds)

    def train_step(self, batch: Batch) -> dict:
        sub_net = self.architecture_of(self.iteration)
        self.lr_scheduler.step_iteration(self.iteration)
        try:
            result = self._train_sub_net(batch, sub_net)
            self.out_of_memory.passed()
            self.loss_not_finite.passed()
        except NotFiniteError as error:
            self.optimizer.zero_grad(set_to_none=True)
            self.print_to_log_file(self.loss_not_finite.skipped(self.iteration, sub_net, error))
            result = {"loss": None}
        except RuntimeError as error:
            if self.is_ddp or not lacks_memory(error):  # other ranks would wait for this one's gradients
                raise
            self._forget_step()
            self.print_to_log_file(self.out_of_memory.skipped(self.iteration, sub_net, error))
            result = {"loss": None}
        if result["loss"] is None and self.device.type == "cuda":  # here the error no longer holds the step's tensors
            torch.cuda.empty_cache()
        self.iteration += 1
        return result

    def _train_sub_net(self, batch: Batch, sub_net: Architecture) -> dict:
        network, annealing = self.one_shot_network(), self.schedule.annealing_lambda(self.iteration)
        if self.schedule.is_sandwich(self.iteration):
            result = SandwichStep(self, network).take(batch, sub_net, annealing)
        else:
            network.take(sub_net, annealing)
            result = super().train_step(batch)
        if not np.isfinite(result["loss"]):  # GradScaler has left the weights as they were
            raise NotFiniteError(f"the loss is {result['loss']}")
        return result

    def _forget_step(self) -> None:
        """Undo what a step has begun that the device had no memory for."""
        self.optimizer.drop_incomplete_states()
        self.optimizer.zero_grad(set_to_none=True)
        if self.grad_scaler is not None:  # it may have unscaled the gradients already
            state, self.grad_scaler = self.grad_scaler.state_dict(), type(self.grad_scaler)()
            self.grad_scaler.load_state_dict(state)

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        alone_without_scaler = self.grad_scaler is None and not self.is_ddp  # other ranks would wait for its gradients
        return FiniteLoss(loss) if alone_without_scaler else loss

    @property
    def annealing_lambda(self) -> float:
        """Lambda as the last training step left it."""
        return self.schedule.annealing_lambda(self.iteration - 1)

    # -- validation: fixed sub-nets on fixed patches -----------------------------------------------------------------

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ForgetfulTransforms:
        if self.settings.augmentation == "nnunet":
            return super().get_training_transforms(*args, **kwargs)
        return ForgetfulTransforms(rotation_and_flip(nnUNetTrainer.get_training_transforms(*args, **kwargs)))

    def get_dataloaders(self) -> tuple[Any, Any]:
        training, validation = super().get_dataloaders()
        seed = self.settings.seed if not self.local_rank else derive_seed(self.settings.seed, "rank", self.local_rank)
        if hasattr(training, "data_loader"):  # in this process; nnU-Net's background processes draw unseeded
            first = self.current_epoch * self.num_iterations_per_epoch
            training = SeededBatches(training.data_loader, derive_seed(seed, "training batches"), first)
        return training, ValidationPatches(validation, MAX_VALIDATION_PATCHES, seed)

    def validation_step(self, batch: list[Batch]) -> dict:
        """Score every reference sub-net on every patch: with MAN, if there is one, as it stands, and without it."""
        started = time()
        if self.validation_patches is None:
            self.validation_patches = self._affordable_patches(started)
        variants = [(name, annealing) for name in self.references for annealing in {self.annealing_lambda, 1.0}]
        scores = []
        patches = batch[: self.validation_patches]
        for patch in patches:
            for name, annealing in variants:
                scores.append({"name": name, "lambda": annealing, **self._score(patch, name, annealing)})
        self._keep_to_a_tenth(len(patches), started)
        self._log_references(scores)
        self._warn_of_unfound_labels(scores)
        self._log_spread(patches)
        as_it_stands = [s for s in scores if s["lambda"] == self.annealing_lambda]
        collated = collate_outputs([{k: s[k] for k in ("loss", "tp_hard", "fp_hard", "fn_hard")} for s in as_it_stands])
        return {"loss": np.mean(collated["loss"])} | {k: collated[k].sum(0) for k in ("tp_hard", "fp_hard", "fn_hard")}

    def _score(self, patch: Batch, name: str, annealing: float) -> dict:
        self.one_shot_network().take(self.references[name], annealing)
        return super().validation_step(copy_of(patch))

    def _keep_to_a_tenth(self, count: int, started: float) -> None:
        """Score fewer patches from now on where so many took more than a tenth of the epoch's time."""
        share = (time() - started) / (time() - self._epoch_started())
        self.print_to_log_file(f"Reference sub-nets: {count} patches scored in {share:.1%} of the epoch's time")
        if share > VALIDATION_SHARE:
            self.validation_patches = max(1, int(count * VALIDATION_SHARE / share))

    def _affordable_patches(self, started: float) -> int:
        """Return how many patches can be scored in a tenth of the epoch's time."""
        durations = []
        for _ in ("to warm up", "to measure"):
            before = time()
            for name in self.references:
                for annealing in (0.0, 1.0) if self.settings.has_man else (1.0,):
                    self._score(self.dataloader_val.patches[0], name, annealing)
            durations.append(time() - before)
        affordable = VALIDATION_SHARE * (started - self._epoch_started()) / durations[-1]
        return max(1, min(MAX_VALIDATION_PATCHES, int(affordable)))

    def _epoch_started(self) -> float:
        return self.logger.get_value("epoch_start_timestamps", step=-1)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        if os.environ.get(NO_VALIDATION) == "1":
            self.print_to_log_file(f"No validation, since {NO_VALIDATION} is 1; nnUNetv2_train ... --val does it later")
            return
        self.one_shot_network().take(u_net(self.space), self.settings.final_lambda)
        with_man = "with" if self.settings.final_lambda < 1 else "without"
        self.print_to_log_file(f"Validating the super-net's U-Net sub-net {with_man} MAN")
        super().perform_actual_validation(save_probabilities)

    # -- logs --------------------------------------------------------------------------------------------------------

    def _prepare_logs(self) -> None:
        """Register our keys with nnU-Net's logger, which takes one value of each in every epoch."""
        keys = ["lambda", "spread_images", "spread_architectures", TRAINING_SECONDS.removeprefix(LOG_PREFIX)]
        keys += [f"dsc_{name}{suffix}" for name in self.references for suffix in ("", "_without_man")]
        logging = self.logger.local_logger.my_fantastic_logging
        epochs = len(logging["train_losses"])
        for key in keys:
            logging.setdefault(LOG_PREFIX + key, [float("nan")] * epochs)

    def _log(self, key: str, value: float) -> None:
        self.logger.log(LOG_PREFIX + key, float(value), self.current_epoch)

    def _log_references(self, scores: list[dict]) -> None:
        self._log("lambda", self.annealing_lambda)
        line = []
        for name in self.references:
            values = []
            for suffix, annealing in (("", self.annealing_lambda), ("_without_man", 1.0)):
                chosen = [s for s in scores if s["name"] == name and s["lambda"] == annealing]
                tp, fp, fn = (sum(s[key] for s in chosen) for key in ("tp_hard", "fp_hard", "fn_hard"))
                with np.errstate(invalid="ignore"):
                    dsc = 2 * tp / (2 * tp + fp + fn)
                values.append(np.nanmean(dsc) if not np.isnan(dsc).all() else float("nan"))
                self._log(f"dsc_{name}{suffix}", values[-1])
            line.append(f"{name} {values[0]:.4f}" + (f" ({values[1]:.4f})" if self.settings.has_man else ""))
        with_man = f" with MAN at lambda {self.annealing_lambda:.3f} (and without MAN)" if self.settings.has_man else ""
        self.print_to_log_file(f"Pseudo dice of sub-nets{with_man}: {', '.join(line)}")

    def _warn_of_unfound_labels(self, scores: list[dict]) -> None:
        if self.unfound_labels is None:
            self.unfound_labels = UnfoundLabels(self._dataset().label_names())
        found, missed = (sum(np.asarray(score[key]) for score in scores) for key in ("tp_hard", "fn_hard"))
        in_warmup = self.iteration <= self.schedule.warmup
        if not in_warmup and (warning := self.unfound_labels.after_epoch(found, missed)):
            self.print_to_log_file(f"WARNING: {warning}")

    def _log_spread(self, patches: list[Batch]) -> None:
        man = self.one_shot_network().man
        if man is None:
            self._log("spread_images", float("nan"))
            self._log("spread_architectures", float("nan"))
            return
        images = torch.cat([patch["data"] for patch in patches]).to(self.device)
        if len(images) < 2:  # the spread over one patch is not defined
            images = torch.cat([images, images.flip(2)])
        architectures = spread_architectures(self.space, self.settings.seed)
        found = scalar_statistics(man, images, architectures)
        self._log("spread_images", found.spread_images)
        self._log("spread_architectures", found.spread_architectures)
        self.print_to_log_file(
            f"Spread of MAN's scalars (of 0 to 2) over images {found.spread_images:.4f}, over architectures "
            f"{found.spread_architectures:.4f}; {found.line()}"
        )
        warning = found.warning(told_architecture=man.told_architecture, told_image=man.told_image)
        if self.annealing_lambda < 1 and warning:
            self.print_to_log_file(f"WARNING: {warning}")

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank != 0:
            return
        logging = self.logger.local_logger.my_fantastic_logging
        plot_training_curves(
            TrainingCurves.from_log({k.removeprefix(LOG_PREFIX): v for k, v in logging.items()}, list(self.references)),
            Path(self.output_folder) / "progress_supernet.png",
        )

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with our record in it, under a temporary name first."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return super().save_checkpoint(filename)
        record = SuperNetRecord(
            space=self.space,
            settings=self.settings,
            iteration=self.iteration,
            annealing_lambda=self.annealing_lambda,
            validation_patches=self.validation_patches,
            memory_limit=self.memory_limit,
        )
        with written_atomically(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)  # of this process
            torch.save({**checkpoint, SuperNetRecord.KEY: record.to_json()}, temporary)
        return None

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: the checkpoint is no super-net's, or that of another search space, other settings or other
                data, or another version's whose weights have other names.
        """
        checkpoint = load_training(filename_or_checkpoint)
        record = SuperNetRecord.from_checkpoint(checkpoint, filename_or_checkpoint)
        if self.settings.leaves_open(record.space) and not self.was_initialized:
            self._use_space(record.space)
        record.check_continues(self.space, self.settings)
        self.memory_limit = record.memory_limit
        self.draws = self._draws()
        configuration = self.configuration_manager.configuration
        if changes := data_changes(checkpoint["init_args"], configuration, self.dataset_json):
            raise CheckpointError(
                f"{filename_or_checkpoint} was trained with other data: {'; '.join(changes)}; restore plans and "
                "dataset.json, or train anew without --c"
            )
        self.validation_patches = record.validation_patches
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except RuntimeError as error:  # torch lists every weight
            raise record.misfit(filename_or_checkpoint) from error
        self._prepare_logs()
        self.iteration = self.current_epoch * self.num_iterations_per_epoch
