from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.nnunet.plans import NETWORK_CLASS, searched_plans
from nnunet_hypersegnas.space import reference_architectures
from tests.nnunet.test_network_costs import SPACE, plans


def test_configurations_that_inherit_keep_their_network():
    original = plans()
    original["configurations"] |= {
        "3d_lowres": {"inherits_from": "3d_fullres", "data_identifier": "x", "batch_size": 3},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        "heir_of_an_heir": {"inherits_from": "3d_lowres"},
        "2d": {"inherits_from": "3d_fullres", "architecture": {"network_class_name": "own"}},
    }
    architecture = reference_architectures(SPACE, 0)["random0"]
    searched = searched_plans(original, "3d_fullres", "found", SPACE, architecture, {})
    before, after = PlansManager(original), PlansManager(searched)
    assert after.get_configuration("3d_fullres").network_arch_class_name == NETWORK_CLASS
    for name in ("3d_lowres", "3d_cascade_fullres", "heir_of_an_heir"):
        assert after.get_configuration(name).configuration == before.get_configuration(name).configuration
    assert searched["configurations"]["2d"] == original["configurations"]["2d"]
    assert original["configurations"]["3d_cascade_fullres"].keys() == {"inherits_from", "previous_stage"}
