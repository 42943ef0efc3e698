"""Plans name what nnU-Net imports and calls: only networks of known packages are built without being told."""

import json
import sys

import pytest

from nnunet_hypersegnas.cli.cost import main as cost
from nnunet_hypersegnas.cli.space import main as space
from nnunet_hypersegnas.nnunet.network_costs import network_costs
from nnunet_hypersegnas.nnunet.plans import NETWORK_CLASS
from nnunet_hypersegnas.nnunet.trusted_plans import UntrustedPlansError, check_trusted
from tests.nnunet.test_network_costs import folder, planned, plans  # noqa: F401  (folder is a fixture)

FOREIGN = """
from pathlib import Path
from dynamic_network_architectures.architectures.unet import PlainConvUNet
Path(__file__).with_name("imported").touch()
class Net(PlainConvUNet):
    pass
def call(*args, **kwargs):
    raise RuntimeError("a stranger's function was called")
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module of a stranger, which leaves a file when it is imported; the path of that file."""
    (tmp_path / "strangers.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strangers", raising=False)
    yield tmp_path / "imported"
    sys.modules.pop("strangers", None)


def plans_with(key, name):
    found = plans()
    network = found["configurations"]["3d_fullres"]["architecture"]
    if key == "network_class_name":
        network[key] = name
    else:
        network["arch_kwargs"][key] = name
        network["_kw_requires_import"] = list({*network["_kw_requires_import"], key})
    return found


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("network_class_name", "torch.hub.load"),
        ("network_class_name", "os.system"),
        ("network_class_name", "strangers.Net"),
        ("network_class_name", "torch.nn.Conv3d"),  # a class, and no network's
        ("network_class_name", "dynamic_network_architectures.architectures.unet.nn.Sequential"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet.torch.hub.load"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet"),
        ("network_class_name", "dynamic_network_architectures.no.such.Net"),
        ("network_class_name", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer"),
        ("network_class_name", "nnunet_hypersegnas.cli.cost.main"),
        ("network_class_name", "nnunet_hypersegnas.nnunet.checkpoint_files.torch.load"),
        ("network_class_name", "dynamic_network_architectures_of_strangers.Net"),
        ("conv_op", "os.system"),
        ("conv_op", "strangers.call"),
        ("norm_op", "torch.hub.load"),
        ("nonlin", "torch.nn.functional.torch.hub.load"),
        ("nonlin", "torch.nn.functional.relu"),  # nnU-Net's plans name classes
        ("dropout_op", "builtins.exec"),
        ("norm_op_kwargs", ["torch.hub.load"]),
        ("norm_op", "torch.nnx.Foreign"),
        ("norm_op", ""),
    ],
)
def test_what_is_no_class_of_a_known_package_is_refused(key, name, foreign):
    with pytest.raises(UntrustedPlansError, match=rf"name .* as {key}, which is no class .*--trust-plans") as error:
        network_costs(planned(plans_with(key, name)), cuda=False)
    assert len(str(error.value).splitlines()) == 1 and not foreign.exists()


def test_a_name_however_long_is_a_short_line():
    with pytest.raises(UntrustedPlansError) as error:
        check_trusted(plans_with("nonlin", "x" * 10**6), "3d_fullres")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("network_class_name", "dynamic_network_architectures.architectures.unet.PlainConvUNet"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"),
        ("network_class_name", "dynamic_network_architectures.architectures.it_has_moved.PlainConvUNet"),
        ("network_class_name", NETWORK_CLASS),
        ("conv_op", "torch.nn.modules.conv.Conv3d"),
        ("norm_op", "torch.nn.BatchNorm3d"),
        ("nonlin", "torch.nn.LeakyReLU"),
        ("dropout_op", None),
        ("block", "dynamic_network_architectures.building_blocks.residual.BasicBlockD"),
    ],
)
def test_what_planners_write_is_trusted(key, name):
    check_trusted(plans_with(key, name), "3d_fullres")


def test_an_inherited_network_is_looked_at():
    found = plans_with("nonlin", "os.system")
    found["configurations"]["heir"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    with pytest.raises(UntrustedPlansError, match=r"'os\.system' as nonlin"):
        check_trusted(found, "heir")


def test_trusted_plans_may_name_anything(foreign):
    check_trusted(plans_with("nonlin", "os.system"), "3d_fullres", trust=True)
    assert not foreign.exists()


def test_commands_refuse_strangers_networks_until_they_are_told(folder, foreign, capsys):  # noqa: F811
    (folder / "Theirs.json").write_text(
        json.dumps({**plans_with("network_class_name", "strangers.Net"), "plans_name": "Theirs"})
    )
    commands = [
        (cost, ["Theirs", "-d", "123", "--device", "cpu"]),
        (space, ["123", "3d_fullres", "--device", "cpu", "--memory", "Theirs"]),
    ]
    for command, arguments in commands:
        assert command(arguments) == 1
        line = capsys.readouterr().err
        assert "'strangers.Net' as network_class_name" in line and "--trust-plans" in line
        assert not foreign.exists()
    assert cost([*commands[0][1], "--trust-plans"]) == 0 and foreign.exists()
    assert "Net" in capsys.readouterr().out
