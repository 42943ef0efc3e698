"""The paper's ablation as values (section 4.1): what becomes of the Meta-Assistant Network, and what was published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnunet_hypersegnas.errors import HyperSegNASError

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.settings import SuperNetSettings

PUBLISHED_SOURCE = (
    "Peng et al., HyperSegNAS, CVPR 2022, Table 1: MSD Pancreas, 25 sampled sub-nets of one super-net each"
)


class VariantError(HyperSegNASError):
    """There can be no such variant."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of the paper's Table 1: DSC of the labels in 0 to 1, seconds per volume."""

    pancreas: float
    tumour: float
    mean: float
    seconds_per_volume: float


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train a super-net.

    Attributes:
        key: its name in commands and files.
        title: its name in tables, with the paper's letter.
        trainer: the trainer's name.
        trained_as: the trainer whose super-net is taken in an ablation, where another variant's training is the same.
        settings: what the trainer puts in place of the plans' settings; the others are the same for all variants.
        changes: what stands in a copy of the plans in place of their settings; the copy's name ends in `plans_suffix`.
        published: what the paper reports; None where it has no such variant.
    """

    key: str
    title: str
    trainer: str
    trained_as: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    plans_suffix: str = ""
    published: Published | None = None


TRAINER = "HyperSegNASSupernetTrainer"

VANILLA = Variant(
    key="vanilla",
    title="A: vanilla one-shot",
    trainer=f"{TRAINER}Vanilla",
    trained_as=f"{TRAINER}Vanilla",
    settings={"man": "none"},
    published=Published(pancreas=0.7193, tumour=0.3396, mean=0.5292, seconds_per_volume=44.60),
)
IMAGE_ONLY = Variant(
    key="image-only",
    title="B: MAN told the image, kept",
    trainer=f"{TRAINER}ImageOnly",
    trained_as=f"{TRAINER}ImageOnly",
    settings={"man": "image", "annealing": "none"},
    published=Published(pancreas=0.7564, tumour=0.3742, mean=0.5653, seconds_per_volume=67.91),
)
KEEP_MAN = Variant(
    key="keep-man",
    title="C: MAN kept",
    trainer=f"{TRAINER}KeepMAN",
    trained_as=f"{TRAINER}KeepMAN",
    settings={"man": "image and architecture", "annealing": "none"},
    published=Published(pancreas=0.7590, tumour=0.4436, mean=0.6013, seconds_per_volume=69.41),
)
NO_ANNEAL = Variant(
    key="no-anneal",
    title="D: MAN removed at once",
    trainer=f"{TRAINER}NoAnneal",
    trained_as=KEEP_MAN.trainer,  # MAN takes part in every iteration of both; they differ in how they predict
    settings={"man": "image and architecture", "annealing": "at once"},
    published=Published(pancreas=0.3215, tumour=0.2817, mean=0.3016, seconds_per_volume=46.89),
)
MAIN = Variant(
    key="main",
    title="HyperSegNAS: MAN annealed",
    trainer=f"{TRAINER}AnnealMAN",
    trained_as=f"{TRAINER}AnnealMAN",
    settings={"man": "image and architecture", "annealing": "linear"},
    published=Published(pancreas=0.7631, tumour=0.4199, mean=0.5915, seconds_per_volume=47.27),
)

VARIANTS = {variant.key: variant for variant in (VANILLA, IMAGE_ONLY, KEEP_MAN, NO_ANNEAL, MAIN)}


def longer_vanilla(factor: float, usual: SuperNetSettings) -> Variant:
    """Return the vanilla super-net with more iterations, for a comparison at equal time and not at equal iterations.

    Args:
        factor: how many times those of the others.
        usual: the plans' settings.
    """
    longer = usual.shortened(round(usual.epochs * factor))
    return Variant(
        key="longer-vanilla",
        title=f"A, {factor:g} times the iterations",
        trainer=VANILLA.trainer,
        trained_as=VANILLA.trainer,
        settings=VANILLA.settings,
        changes={key: getattr(longer, key) for key in ("epochs", "annealing_epochs", "warmup_epochs")},
        plans_suffix=f"{longer.epochs}epochs",
    )


def varied(key: str, changes: Mapping[str, Any]) -> Variant:
    """Return the variant that trains with other settings in the plans' block, whatever these are.

    Raises:
        VariantError: the name is another variant's, or cannot be part of a file's name.
    """
    if key in VARIANTS or key == "longer-vanilla" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", key):
        raise VariantError(
            f"a variant cannot be called {key!r}; choose a name of letters, digits, '.' and '-' that is none of "
            f"{', '.join(VARIANTS)}"
        )
    shown = ", ".join(f"{name} {value}" for name, value in changes.items())
    return Variant(
        key=key, title=f"{key}: {shown}", trainer=TRAINER, trained_as=TRAINER, changes=dict(changes), plans_suffix=key
    )


def settings_under(trainer: str) -> Mapping[str, Any]:
    """Return what a trainer puts in place of the plans' settings; nothing, where it is none of the ablation's."""
    return next((known.settings for known in VARIANTS.values() if known.trainer == trainer), {})
