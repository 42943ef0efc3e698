"""The `hypersegnas` block of a plans configuration: the settings of super-net training, and the space they imply."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nnunet_hypersegnas.architectures import MAN_INPUTS, SCALAR_POSITIONS
from nnunet_hypersegnas.cost import check_patch, is_size
from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.nnunet.recipes import AUGMENTATIONS, BLOCK, PAPER_ANNEALING_SHARE, PAPER_EPOCHS, RECIPES
from nnunet_hypersegnas.nnunet.stages import Stages
from nnunet_hypersegnas.search import memory_fault
from nnunet_hypersegnas.space import DEFAULT_LAYERS, SAMPLERS, SearchSpace, SearchSpaceError

OPTIMIZERS = {"AdamW": 0.003, "SGD": 0.01}  # with the learning rate each one starts from by default
MAN_LR = 0.001  # at the network's own, MAN's sigmoids become a static mask, or saturate
# In the environment of a training: 1 leaves out nnU-Net's validation after it, which takes long and scores one sub-net.
NO_VALIDATION = "HSNAS_NO_VALIDATION"
ANNEALINGS = ("linear", "none", "at once")
CHOICES = {
    "optimizer": tuple(OPTIMIZERS),
    "man_optimizer": tuple(OPTIMIZERS),
    "man": MAN_INPUTS,
    "annealing": ANNEALINGS,
    "scalar_position": SCALAR_POSITIONS,
    "sampler": SAMPLERS,
    "augmentation": AUGMENTATIONS,
    "recipe": tuple(RECIPES),
}
PAPER_FIXED_SCALAR = 0.5  # omega_fixed of Eq. 5
WARMUP_SHARE, LONGEST_WARMUP = 1 / 14, 2.0  # 500 of 7,000 iterations, as measured


class SettingsError(HyperSegNASError):
    """The `hypersegnas` block holds something it cannot hold; the message names every fault."""


@dataclass(frozen=True, kw_only=True)
class SuperNetSettings:
    """How a super-net is built and trained.

    Attributes:
        recipe: whose values stand in for settings that the block does not name, see `RECIPES`.
        layers: number of layers of the search space, L.
        channels: feature channels of each scale, finest first; by default the features of the plans' stages, and 1.5
            times as many where the plans' network has a residual encoder.
        scales: number of scales; by default the rule of `SearchSpace.from_stages`.
        full_resolution: whether the finest scale is full resolution; by default the rule of `SearchSpace.from_stages`.
        memory: training-memory budgets that the space is made for, as users write them; a search takes them where
            nothing else is asked for.
        memory_limit: the most memory that training the super-net may take on a GPU, for example "12GB" (by default
            what is free on it at the start).
        epochs: all epochs, annealing included (720).
        annealing_epochs: the last epochs, for which the learning rate restarts and in which MAN, where there is one, is
            annealed away (a ninth of all; fractions are allowed).
        annealing_share: the share of these after which MAN is gone; in the rest the super-net settles without it.
        warmup_epochs: how many of the first epochs train with every edge active (a fourteenth of all, at most 2, as
            was measured, see docs/experiments.md; not in the paper).
        iterations_per_epoch: nnU-Net's 250.
        optimizer: "AdamW" or "SGD" (Nesterov momentum 0.99, as nnU-Net).
        initial_lr: learning rate of the super-net (0.003 for AdamW, 0.01 for SGD).
        annealing_lr: learning rate that annealing restarts from (half of initial_lr).
        man: what MAN is told: "image and architecture" as in the paper, "image", "architecture", or "none", which is a
            super-net without MAN (the default: super-nets rank as well without it, see docs/experiments.md).
        annealing: how MAN goes: "linear" (Eq. 5), "none" (it is kept, for predictions too) or "at once" (it takes part
            in every iteration, and in no prediction). Learning rates are the same for all three.
        man_optimizer: MAN's own, "AdamW" or "SGD" (by default AdamW: gradients of scalars are too small for SGD).
        man_lr: learning rate of MAN (0.001; at the network's its sigmoids become a static mask, or saturate).
        scalar_position: where MAN's scalars act: on an edge's "output", after its norm, or on its "input".
        sampler: how an iteration's sub-net is drawn, one of `SAMPLERS`, see `TrainingDraws`.
        path_candidates: of how many draws "important paths" takes the one with most convolutions.
        sandwich_every: after the warm-up, every so many iterations the largest network is trained on the labels, and
            the smallest and the iteration's sub-net on what the largest says (0: never; not in the paper).
        relative_scalars: MAN's scalars are relative to the paper's fixed 0.5; else every edge is multiplied with 0.5
            where MAN is gone, in what is searched as well.
        augmentation: nnU-Net's, or of it "rotation and flip" alone.
        oversample_foreground: share of the patches that is centred on a label (nnU-Net's 0.33).
        deep_supervision: as nnU-Net, or the loss of the full resolution alone.
        weight_decay: as nnU-Net.
        seed: seed of everything that super-net training draws itself.
        save_every: write checkpoint_latest every so many epochs (nnU-Net's 50).
        architecture_per_rank: on several GPUs, train another sub-net on each in every step (by default, all the same).
        recompute: keep less for the backward pass and run each layer twice; for a super-net that would not fit.
        previous_stage: on a cascade's second stage, the model whose predictions it takes, as TRAINER__PLANS
            (nnUNetTrainer and the plans at hand).
    """

    recipe: str = "nnunet"
    layers: int = DEFAULT_LAYERS
    channels: tuple[int, ...] | None = None
    scales: int | None = None
    full_resolution: bool | None = None
    memory: tuple[str, ...] | None = None
    memory_limit: str | None = None
    epochs: int = PAPER_EPOCHS
    annealing_epochs: float | None = None
    annealing_share: float = 0.5
    warmup_epochs: float | None = None
    iterations_per_epoch: int = 250
    optimizer: str = "AdamW"
    initial_lr: float | None = None
    annealing_lr: float | None = None
    man: str = "none"
    annealing: str = ANNEALINGS[0]
    man_optimizer: str = "AdamW"
    man_lr: float | None = None
    scalar_position: str = SCALAR_POSITIONS[0]
    sampler: str = SAMPLERS[0]
    path_candidates: int = 3
    sandwich_every: int = 0
    relative_scalars: bool = True
    augmentation: str = AUGMENTATIONS[0]
    oversample_foreground: float | None = None
    deep_supervision: bool = True
    weight_decay: float = 3e-5
    seed: int = 0
    save_every: int = 50
    architecture_per_rank: bool = False
    recompute: bool = False
    previous_stage: str | None = None

    def __post_init__(self) -> None:
        faults = [fault for fault in map(self._fault, fields(self)) if fault]
        if not faults:
            for name, allowed in CHOICES.items():
                if getattr(self, name) not in allowed:
                    faults.append(
                        f"{name} is {abbreviated(getattr(self, name))}, allowed are {', '.join(map(repr, allowed))}"
                    )
            if self.scales is not None and self.channels is not None and self.scales != len(self.channels):
                faults.append(f"scales is {self.scales}, but channels names {len(self.channels)} scales")
            if not self.relative_scalars and self.scalar_position == "input":
                faults.append(
                    "relative_scalars is false, but scalar_position is 'input', where norms cancel a fixed scalar"
                )
            annealing, warmup = self.annealing_phase, self.warmup_phase
            if annealing + warmup > self.epochs:
                faults.append(
                    f"annealing_epochs and warmup_epochs ({annealing:g} + {warmup:g}) exceed epochs ({self.epochs})"
                )
        if faults:
            raise SettingsError(f"the {BLOCK!r} block of the plans is wrong: " + "; ".join(faults))

    def _fault(self, field: Any) -> str | None:
        value = getattr(self, field.name)
        optional = "None" in str(field.type)
        if value is None and optional:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        match field.name:
            case "channels":
                ok = isinstance(value, tuple) and value and all(isinstance(c, int) and c > 0 for c in value)
                needed = "a list of positive whole numbers"
            case name if name in CHOICES:
                ok, needed = isinstance(value, str), f"one of {', '.join(map(repr, CHOICES[name]))}"
            case "memory":
                ok = isinstance(value, tuple) and value and all(isinstance(text, str) for text in value)
                needed = "a list of training-memory budgets, such as own, 50% or 5GB"
                if ok and (fault := memory_fault(value)):
                    return f"memory: {fault}"
            case "memory_limit":
                ok, needed = isinstance(value, str) and is_size(value), "a memory size with its unit, such as 12GB"
            case "architecture_per_rank" | "recompute" | "relative_scalars" | "deep_supervision" | "full_resolution":
                ok, needed = isinstance(value, bool), "true or false"
            case "previous_stage":
                ok = isinstance(value, str) and bool(re.fullmatch(r"\w+?__(?!.*__)[\w.-]+", value))
                needed = "a trained model's TRAINER__PLANS"
            case "seed" | "sandwich_every":
                ok, needed = whole and value >= 0, "a whole number, 0 or more"
            case "layers" | "scales" | "epochs" | "iterations_per_epoch" | "save_every" | "path_candidates":
                ok, needed = whole and value > 0, "a positive whole number"
            case "warmup_epochs" | "weight_decay":
                ok, needed = number and value >= 0, "a number, 0 or more"
            case "annealing_share":
                ok, needed = number and 0 < value <= 1, "a number above 0, at most 1"
            case "oversample_foreground":
                ok, needed = number and 0 <= value <= 1, "a number from 0 to 1"
            case _:
                ok, needed = number and value > 0, "a positive number"
        return None if ok else f"{field.name} is {abbreviated(value)}, needed is {needed}"

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any]) -> SuperNetSettings:
        """Read the `hypersegnas` block of a plans configuration; an absent block gives the defaults.

        Raises:
            SettingsError: naming every unknown key, or every wrong value, at once.
        """
        block = configuration.get(BLOCK, {})
        if not isinstance(block, Mapping):
            raise SettingsError(f"the {BLOCK!r} block of the plans is a {type(block).__name__}; an object is needed")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(block) - set(known)):
            raise SettingsError(
                f"the {BLOCK!r} block of the plans has unknown keys {abbreviated(unknown)}; known are {known}"
            )
        recipe = block.get("recipe")
        of_recipe = dict(RECIPES.get(recipe, {})) if isinstance(recipe, str) else {}
        stages = len(configuration.get("architecture", {}).get("arch_kwargs", {}).get("strides", ()))
        if "channels" in of_recipe and stages:  # no more scales than the plans have stages
            of_recipe["channels"] = of_recipe["channels"][:stages]
        if "scales" in block:  # another number of scales than the recipe's channels are for
            of_recipe.pop("channels", None)
        values = {**of_recipe, **block}
        for key in ("channels", "memory"):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def shortened(self, epochs: int) -> SuperNetSettings:
        """Return these settings for another number of epochs, warm-up and annealing scaled along."""
        ratio = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            annealing_epochs=None if self.annealing_epochs is None else self.annealing_epochs * ratio,
            warmup_epochs=None if self.warmup_epochs is None else self.warmup_epochs * ratio,
        )

    @property
    def annealing_phase(self) -> float:
        """Epochs of annealing, those that are given or the default."""
        return self.epochs * PAPER_ANNEALING_SHARE if self.annealing_epochs is None else self.annealing_epochs

    @property
    def warmup_phase(self) -> float:
        """Epochs of warm-up, those that are given or the default."""
        if self.warmup_epochs is not None:
            return self.warmup_epochs
        return max(0.0, min(self.epochs * WARMUP_SHARE, LONGEST_WARMUP, self.epochs - self.annealing_phase))

    @property
    def base_lr(self) -> float:
        return self.initial_lr if self.initial_lr is not None else OPTIMIZERS[self.optimizer]

    @property
    def man_base_lr(self) -> float:
        return MAN_LR if self.man_lr is None else self.man_lr

    @property
    def fixed_scalar(self) -> float:
        """What every edge is multiplied with where MAN is gone."""
        return 1.0 if self.relative_scalars else PAPER_FIXED_SCALAR

    @property
    def has_man(self) -> bool:
        """Whether there is a MAN at all."""
        return self.man != "none"

    @property
    def keeps_constants(self) -> bool:
        """Whether MAN stays, and its scalars are constants of a sub-net, which its weights can take in."""
        return self.man == "architecture" and self.annealing == "none"

    @property
    def final_lambda(self) -> float:
        """Lambda of Eq. 5 with which the trained super-net predicts: 0 where MAN is kept, else 1."""
        return 0.0 if self.has_man and self.annealing == "none" else 1.0

    def space(self, configuration: Mapping[str, Any]) -> SearchSpace:
        """Return the search space of a plans configuration under these settings.

        Raises:
            SearchSpaceError: the plans do not describe stages, or not as many as the settings ask for.
            SetupError: the configuration's patch does not fit the space.
        """
        stages = Stages.of(configuration)
        if self.channels is None and not stages.features:
            raise SearchSpaceError(
                "the plans' architecture names no features_per_stage, so the scales' channels do not follow from it; "
                "name them with --channels or in the hypersegnas block, or use plans that nnU-Net's own planners wrote"
            )
        space = SearchSpace.from_stages(
            stages.strides,
            stages.kernel_sizes,
            stages.features,
            layers=self.layers,
            channels=self.channels,
            n_scales=self.scales,
            full_resolution=self.full_resolution,
        )
        check_patch(configuration["patch_size"], space)
        return space

    def leaves_open(self, space: SearchSpace) -> bool:
        """Whether channels follow from the plans by rule, and nothing that the block names speaks against a space."""
        named = (self.scales in (None, space.n_scales), self.full_resolution in (None, space.finest_is_full_resolution))
        return self.channels is None and self.layers == space.layers and all(named)


def space_in_block(space: SearchSpace) -> dict[str, Any]:
    """Return what names a search space in the `hypersegnas` block of plans that have its stages."""
    return {
        "layers": space.layers,
        "channels": list(space.channels),
        "full_resolution": space.finest_is_full_resolution,
    }
