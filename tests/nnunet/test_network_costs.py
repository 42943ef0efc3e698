import copy
import json

import pytest
from torch import nn

from nnunet_hypersegnas.cli.cost import main
from nnunet_hypersegnas.cost import CostModel, TrainingSetup
from nnunet_hypersegnas.cost.tracing import count_multiply_adds
from nnunet_hypersegnas.nnunet.network_costs import PlannedNetwork, find_network, network_costs
from nnunet_hypersegnas.nnunet.plans import searched_plans
from nnunet_hypersegnas.space import SearchSpace, reference_architectures

DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "organ": 1, "lesion": 2},
    "file_ending": ".nii",
}
STAGES = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 32],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
SPACE = SearchSpace.from_stages(STAGES["strides"], STAGES["kernel_sizes"], layers=3, channels=(8, 12, 16))


def plans(patch=(16, 16, 16), **settings):
    return {
        "dataset_name": "Dataset123_Test",
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "batch_size": 2,
                "batch_dice": False,
                "patch_size": list(patch),
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "hypersegnas": {"layers": 3, "channels": [8, 12, 16], **settings},
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": copy.deepcopy(STAGES),
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set that is planned and not preprocessed."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    found = tmp_path / "nnUNet_preprocessed" / "Dataset123_Test"
    found.mkdir()
    (found / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (found / "nnUNetPlans.json").write_text(json.dumps(plans()))
    return found


def planned(plans, dataset_json=DATASET_JSON):
    return PlannedNetwork(name="x", plans=plans, dataset_json=dataset_json, configuration="3d_fullres")


def test_multiply_adds_are_those_that_a_hand_counts():
    def build():
        return nn.Sequential(
            nn.Conv3d(2, 4, 3, stride=2, padding=1),  # 4^3 outputs
            nn.InstanceNorm3d(4, affine=True),
            nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.ConvTranspose3d(6, 5, 2, stride=2),  # from 4^3 inputs
            nn.Conv3d(5, 3, 1),  # at 8^3
        )

    by_hand = 4**3 * (2 * 4 * 27 + 4 * 6 * 9 + 6 * 5 * 8) + 8**3 * 5 * 3
    assert count_multiply_adds(build, (1, 2, 8, 8, 8)) == by_hand


@pytest.mark.parametrize("cuda", [False, True])
def test_a_searched_network_costs_what_its_search_space_predicts(folder, cuda):
    setup = TrainingSetup(patch_size=(16, 16, 16), batch_size=2, input_channels=1, num_classes=3, autocast=cuda)
    model = CostModel(SPACE, setup)
    for architecture in reference_architectures(SPACE, 0).values():
        costs = network_costs(planned(searched_plans(plans(), "3d_fullres", "x", SPACE, architecture, {})), cuda=cuda)
        predicted = model.predict_one(architecture)
        assert costs.network_class == "SearchedNet"
        assert costs.parameters == predicted.parameters[0]
        assert costs.multiply_adds == predicted.multiply_adds[0]
        assert costs.memory_bytes == pytest.approx(predicted.memory_bytes[0], rel=0.01)


def test_nnunets_own_network(folder):
    costs = network_costs(planned(plans()), cuda=False)
    # Convolutions, norms, transposed convolutions and heads of three stages.
    norms = 2 * (8 + 16 + 32 + 16 + 8)
    convolutions = 27 * (8 + 8 * 16 + 16 * 32 + 32 * 16 + 16 * 8) + (8 + 16 + 32 + 16 + 8)
    up, heads = 8 * (32 * 16 + 16 * 8) + 24, 3 * (16 + 8) + 6
    assert costs.parameters == norms + convolutions + up + heads
    parts = costs.weight_bytes, costs.activation_bytes, costs.overhead_bytes
    assert min(parts) > 0 and sum(parts) == costs.memory_bytes
    assert costs.weight_bytes >= 8 * costs.parameters  # weights and momentum are always there
    assert network_costs(planned(plans()), cuda=True).memory_bytes < costs.memory_bytes


def test_ignored_voxels(folder):
    ignoring = {**DATASET_JSON, "labels": {**DATASET_JSON["labels"], "ignore": 3}}
    costs, plain = (network_costs(planned(plans(), d), cuda=True) for d in (ignoring, DATASET_JSON))
    assert costs.parameters == plain.parameters  # no head learns what is ignored
    assert costs.memory_bytes >= plain.memory_bytes  # of the mask, which the peak may not meet


def test_regions_and_an_ignore_label(folder):
    regions = {"labels": {"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    costs = network_costs(planned(plans(), {**DATASET_JSON, **regions}), cuda=True)
    assert costs.memory_bytes > 0
    plain = network_costs(planned(plans()), cuda=True)
    assert costs.parameters == plain.parameters - (16 + 8 + 2)  # no background among the heads


def test_every_way_to_name_a_network(folder, tmp_path, capsys):
    architecture = next(iter(reference_architectures(SPACE, 0).values()))
    alone, record = tmp_path / "architecture.json", tmp_path / "record.json"
    alone.write_text(json.dumps(architecture.to_json()))
    record.write_text(json.dumps({"winner": {"architecture": architecture.to_json()}, "candidates": []}))
    found = {"dataset": "123", "configuration": "3d_fullres", "plans_name": "nnUNetPlans"}
    costs = [network_costs(find_network(str(path), **found), cuda=False) for path in (alone, record)]
    assert costs[0].memory_bytes == costs[1].memory_bytes and costs[0].network_class == "SearchedNet"
    by_path = find_network(str(folder / "nnUNetPlans.json"), **{**found, "dataset": None})
    assert network_costs(by_path, cuda=False) == network_costs(find_network("nnUNetPlans", **found), cuda=False)

    # Names hold dots, and files need no ending.
    plans = json.loads((folder / "nnUNetPlans.json").read_text()) | {"plans_name": "My.Plans_v1.2"}
    (folder / "My.Plans_v1.2.json").write_text(json.dumps(plans))
    assert find_network("My.Plans_v1.2", **found).plans["plans_name"] == "My.Plans_v1.2"
    dotted = find_network(str(alone.rename(tmp_path / "net.v1.2")), **found)
    assert dotted.name == dotted.plans["plans_name"] == "net.v1.2"
    alone = (tmp_path / "net.v1.2").rename(alone)

    table = tmp_path / "costs.json"
    assert main(["nnUNetPlans", str(alone), "-d", "123", "--json", str(table), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "PlainConvUNet" in printed and "SearchedNet" in printed and "Not counted: CUDA's context" in printed
    values = json.loads(table.read_text())
    assert values[1]["predicted_memory_bytes"] == costs[0].memory_bytes
    assert main(["nnUNetPlans", "-d", "123", "--json", str(table)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nnUNetPlans"], "is no file; for plans of a data set by their name, give the data set with -d"),
        (["Nope", "-d", "123"], "no plans Nope in"),
        (["Nope.v1.2", "-d", "123"], "no plans Nope.v1.2 in"),
        (["nnUNet.Plans"], "is no file; for plans of a data set by their name, give the data set with -d"),
        (["gone.json", "-d", "123"], "there is no gone.json"),
        (["nnUNetPlans", "-d", "99"], "no data set '99'"),
        (["nnUNetPlans", "-d", "123", "-c", "2d"], "has no configuration '2d'; it has 3d_fullres"),
        (["{tmp}/text.json", "-d", "123"], "is no JSON"),
        (["{tmp}/list.json", "-d", "123"], "holds a list, a JSON object is needed"),
        (["{tmp}/other.json", "-d", "123"], "holds no plans, no architecture ('codes') and no record of a search"),
        (["{tmp}/plans.json"], "no dataset.json beside"),
        (["{tmp}/odd.json", "-d", "123"], "patch size [16, 18, 16] is not divisible by [4, 4, 4]"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, words, message):
    (tmp_path / "text.json").write_text("text")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "plans.json").write_text(json.dumps(plans()))
    (tmp_path / "odd.json").write_text(json.dumps(plans((16, 18, 16))))
    assert main([word.replace("{tmp}", str(tmp_path)) for word in words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_fake_tensors_take_no_memory_of_this_machine(folder):
    """A patch whose training needs terabytes is costed all the same."""
    costs = network_costs(planned(plans((2048, 2048, 2048))), cuda=True)
    assert costs.memory_bytes > 1e12
