"""What a search's record says beside its candidates."""

import json

from nnunet_hypersegnas.nnunet.findings import named_among
from nnunet_hypersegnas.search import Candidate, Rung, Score, Way
from nnunet_hypersegnas.space import named_architecture, names_of_architectures, rng_for, sample, smallest, u_net
from tests.spaces import FULL_RESOLUTION

RUNG = Rung(way=Way.PATCHES, amount=3, keep=16, cost_patches=3)


def test_the_record_says_where_named_architectures_ended():
    drawn = sample(FULL_RESOLUTION, rng_for(0, "findings"))
    ranked = [
        Candidate(architecture=a, predicted_memory_bytes=1, parameters=1, multiply_adds=1).scored(
            RUNG, Score(dsc_by_label={"organ": dsc})
        )
        for a, dsc in ((drawn, 0.5), (u_net(FULL_RESOLUTION), 0.4), (smallest(FULL_RESOLUTION), 0.1))
    ]
    found = named_among(ranked, FULL_RESOLUTION)
    assert json.loads(json.dumps(found)) == found and list(found) == names_of_architectures()
    ids = {name: named_architecture(name, FULL_RESOLUTION).id for name in names_of_architectures()}
    assert found["unet"] == {"id": ids["unet"], "place": 2, "of": 3, "dsc_by_rung": {"patches 3": 0.4}}
    assert (found["smallest"]["place"], found["smallest"]["dsc_by_rung"]) == (3, {"patches 3": 0.1})
    for name in ("largest", "unet_parallel_skips"):  # which did not fit the budget
        assert found[name] == {"id": ids[name], "place": None, "of": 3, "dsc_by_rung": {}}
