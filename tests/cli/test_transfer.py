"""`hsnas_transfer`: from the demo's searched plans, from names and from files, to a planned data set."""

import json

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.cli.transfer import main
from nnunet_hypersegnas.space import Architecture, SearchSpace, fold_scales, named_architecture, rng_for, sample


def network_of(path, configuration="3d_fullres"):
    """Build the network that plans name, as nnU-Net does."""
    found = PlansManager(json.loads(path.read_text())).get_configuration(configuration)
    return get_network_from_plans(
        found.network_arch_class_name,
        found.network_arch_init_kwargs,
        found.network_arch_init_kwargs_req_import,
        input_channels=1,
        output_channels=3,
        allow_init=False,
        deep_supervision=True,
    )


def test_searched_plans_on_another_data_set(demo_environment, planned, capsys):
    source = demo_environment.preprocessed / f"{demo_environment.summary['networks'][0]['plans']}.json"
    assert main([str(source), "--to", "998"]) == 0
    printed = capsys.readouterr().out
    network = network_of(planned / source.name)
    before = network_of(source)
    assert network.architecture == before.architecture
    # All that is the data set's own:
    assert network.space.kernel_sizes[0] == (1, 3, 3) and before.space.kernel_sizes[0] == (3, 3, 3)
    assert network.space.channels == (32, 64, 128) and before.space.channels == (4, 6, 8)
    assert network.space.finest_is_full_resolution == before.space.finest_is_full_resolution
    assert "Channels are [32, 64, 128], where it was found [4, 6, 8]; --channels changes them." in printed
    assert f"nnUNetv2_train 998 3d_fullres FOLD -p {source.stem}" in printed

    assert main([str(source), "--to", "998"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([str(source), "--to", "998", "--overwrite", "--channels", "4", "6", "8"]) == 0
    assert "Channels are" not in capsys.readouterr().out
    assert network_of(planned / source.name).space.channels == (4, 6, 8)


def test_names_keep_their_dots(demo_environment, planned, tmp_path, capsys):
    source = demo_environment.preprocessed / f"{demo_environment.summary['networks'][0]['plans']}.json"
    (tmp_path / "My.Plans_v1.2").write_bytes(source.read_bytes())
    assert main([str(tmp_path / "My.Plans_v1.2"), "--to", "998"]) == 0
    assert network_of(planned / "My.Plans_v1.2.json").architecture == network_of(source).architecture
    assert main(["My.Plans_v1.2", "--to", "998"]) == 1
    assert "no architecture 'My.Plans_v1.2'; give the path of a JSON file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smallest", "unet", "unet_parallel_skips"])
def test_named_architectures(planned, capsys, name):
    assert main([name, "--to", "998"]) == 0
    network = network_of(planned / f"HyperSegNAS_{name}.json")
    space = network.space
    assert network.architecture == named_architecture(name, space) and space.channels == (32, 64, 128, 256, 320)
    assert space.finest_is_full_resolution and space.layers == 12
    provenance = json.loads((planned / f"HyperSegNAS_{name}.json").read_text())["hypersegnas_search"]
    assert provenance["transferred_from"] == name


def test_a_file_of_ones_own_and_a_data_set_with_fewer_stages(planned, tmp_path, capsys):
    architecture = sample(SearchSpace.paper(), rng_for(0, "own"))
    (tmp_path / "own.json").write_text(json.dumps({"codes": architecture.codes}))
    path = planned / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    for key in ("strides", "kernel_sizes"):
        kwargs[key] = kwargs[key][:3]
    path.write_text(json.dumps(plans))
    assert main([str(tmp_path / "own.json"), "--to", "998", "--plans", "Own"]) == 0
    assert "The plans have 3 stages, own has 4 scales: the coarser ones are folded" in capsys.readouterr().out
    assert network_of(planned / "Own.json").architecture == fold_scales(architecture, 3)


def test_plans_that_name_channels(planned, capsys):
    path = planned / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["hypersegnas"] = {"channels": [4, 6, 8, 10], "layers": 3}
    path.write_text(json.dumps(plans))
    assert main(["unet", "--to", "998"]) == 0
    space = network_of(planned / "HyperSegNAS_unet.json").space
    assert (space.channels, space.layers) == ((4, 6, 8, 10), 3)
    assert not space.finest_is_full_resolution  # fewer scales than stages


def test_what_was_found_in_2d_stays_in_2d(planned, tmp_path, capsys):
    space = SearchSpace(layers=2, channels=(4, 6), strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2)
    architecture = Architecture(((2, 0, 0, 0), (2, 0, 0, 0)))
    kwargs = {"space": space.to_json(), "architecture": architecture.to_json(), "strides": [[1, 1]] * 3}
    network = {"network_class_name": "nnunet_hypersegnas.architectures.SearchedNet", "arch_kwargs": kwargs}
    network["_kw_requires_import"] = []
    plans = {"dataset_name": "D", "plans_name": "Flat", "configurations": {"2d": {"architecture": network}}}
    (tmp_path / "Flat.json").write_text(json.dumps(plans))
    assert main([str(tmp_path / "Flat.json"), "--to", "998"]) == 1
    assert "Flat was found in 2D, configuration 3d_fullres of Dataset998_Planned is 3D" in capsys.readouterr().err
    assert not (planned / "Flat.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "no architecture 'nothing'; give the path of a JSON file, or one of largest, smallest, unet"),
        (["{tmp}/gone.json"], "there is no {tmp}/gone.json"),
        (["{tmp}/text.json"], "is no JSON"),
        (["{tmp}/else.json"], "holds no plans, no architecture ('codes') and no record of a search"),
        (["{own}/nnUNetPlans.json"], "has configurations with searched networks: none; choose one with -c"),
        (["unet", "2d"], "have no configuration '2d'"),
        (["unet", "--channels", "8", "16"], "--channels names 2 scales, unet has 5 here"),
        (["unet", "--plans", "nnUNetPlans", "--overwrite"], "exists already"),
    ],
)
def test_bad_input(planned, tmp_path, capsys, words, message):
    (tmp_path / "text.json").write_text("no")
    (tmp_path / "else.json").write_text("{}")
    before = sorted(planned.iterdir())

    def fill(text):
        return text.replace("{tmp}", str(tmp_path)).replace("{own}", str(planned))

    assert main([*map(fill, words), "--to", "998"]) == 1
    error = capsys.readouterr().err
    assert fill(message) in error and len(error.strip().splitlines()) == 1
    assert sorted(planned.iterdir()) == before
