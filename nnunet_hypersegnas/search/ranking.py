"""Whether a super-net's scores rank anything: one that has learned nothing names winners all the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.score import Score

ALIKE = 1e-6  # no more between the best and the worst DSC
MOST_NAMED = 5  # labels in a message


class RankingError(HyperSegNASError):
    """A search whose scores say nothing of the architectures."""


def ranking_fault(scores: Sequence[Score], labels: Collection[str]) -> str | None:
    """Return why scores rank nothing, or None where they do.

    Args:
        scores: of different architectures on one rung; those that could not be scored say nothing.
        labels: that the rung's patches or crops show. Of others a DSC of 0 says only that they were predicted.
    """
    known = [score for score in scores if not math.isnan(score.dsc)]
    values = [score.dsc for score in known]
    if not known:
        return None
    everyone = "the only candidate" if len(known) == 1 else f"all {len(known)} candidates"
    if max(values) == 0:
        return f"DSC is 0 for {everyone}"
    if len(known) > 1 and max(values) - min(values) < ALIKE:
        return f"DSC is the same, {values[0]:.4f}, for {everyone}"
    if missed := [name for name in labels if all(score.dsc_by_label.get(name) == 0 for score in known)]:
        more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
        return f"DSC of {', '.join(missed[:MOST_NAMED])}{more} is 0 for {everyone}"
    return None
