"""nnU-Net's JSON files: whatever they hold, they are read, or refused in one line that names file and key."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.json_files import JsonFileError, read_object
from nnunet_hypersegnas.nnunet.nnunet_files import (
    check_configuration,
    read_dataset_json,
    read_plans_file,
    read_splits,
)
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from tests.mutations import FEW, MANY, bytes_mutated, json_mutated
from tests.nnunet.test_network_costs import DATASET_JSON, plans

CONFIGURATION = "3d_fullres"
PLANS = plans()
SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]
BLOCK = {"layers": 4, "channels": [8, 16], "epochs": 10, "memory": ["own", "50%"], "man": "image", "seed": 3}
ADVICE = "; (restore|use|delete)"


def use_plans(path):
    """Do what all commands do with plans before they build a network."""
    content = read_plans_file(path)
    for name in content["configurations"]:
        check_configuration(content, name)
        configuration = content["configurations"][name]
        SuperNetSettings.from_configuration(configuration).space(configuration)


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def with_block(content):
    content["configurations"][CONFIGURATION]["hypersegnas"] = dict(BLOCK)
    return content


# -- what is found and what is needed ---------------------------------------------------------------------------------


def changed(**configuration):
    return {**PLANS, "configurations": {CONFIGURATION: {**PLANS["configurations"][CONFIGURATION], **configuration}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**PLANS, "configurations": {CONFIGURATION: 5}}, r"configurations.3d_fullres is 5, needed is an object"),
        (
            changed(architecture={"network_class_name": "A", "arch_kwargs": [], "_kw_requires_import": []}),
            r"architecture.arch_kwargs is \[\], needed is an object",
        ),
        (changed(batch_size=2.5), r"batch_size is 2.5, needed is a whole number"),
        (changed(batch_size=True), r"batch_size is True, needed is a whole number"),
        (changed(patch_size=[64]), r"patch_size has 1 items, needed are at least 2"),
        (changed(data_identifier="/tmp/evil"), r"data_identifier is '/tmp/evil', needed is the name of one folder"),
        ({**PLANS, "plans_name": "../../evil"}, r"plans_name is '../../evil', needed is the name of one folder"),
        (changed(spacing=1), r"spacing is 1, needed is a list"),
        (changed(spacing=[float("nan"), 1, 1]), r"spacing.0 is nan, needed is a finite number"),
        (changed(inherits_from=CONFIGURATION), r"3d_fullres -> 3d_fullres: a configuration cannot inherit from itself"),
        (changed(inherits_from="nowhere"), r"3d_fullres inherits from 'nowhere', which does not exist"),
        ({**PLANS, "dataset_name": "a" * 5000, "plans_name": 7}, r"plans_name is 7, needed is text"),
        ([], r"it is \[\], needed is an object"),
        ({**PLANS, "label_manager": "Nobody"}, r"label_manager is 'Nobody', needed is a class that nnU-Net finds"),
    ],
)
def test_plans_that_are_wrong_are_refused_with_their_key(tmp_path, content, message):
    path = written(tmp_path / "Plans.json", content)
    with pytest.raises(
        JsonFileError, match=rf"Plans.json is not an nnU-Net plans file: .*{message}.*{ADVICE}"
    ) as error:
        use_plans(path)
    assert len(str(error.value)) < 600


def test_plans_of_which_a_configuration_lacks_something_are_refused_where_it_is_used(tmp_path):
    content = json.loads(json.dumps(PLANS))
    del content["configurations"][CONFIGURATION]["patch_size"]
    content["configurations"]["heir"] = {"inherits_from": CONFIGURATION}
    loaded = read_plans_file(written(tmp_path / "Plans.json", content))
    with pytest.raises(JsonFileError, match=r"heir of plans .* is not complete: it has no key patch_size"):
        check_configuration(loaded, "heir")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"[" * 10_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        ("{}".encode("utf-16"), "begins with a byte-order mark"),
        (b"\xef\xbb\xbf{}", "begins with a byte-order mark"),
        ('{"ä": 1}'.encode("latin-1"), "byte 2 is not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[]", "holds a list, a JSON object is needed"),
    ],
)
def test_what_is_no_object_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(JsonFileError, match=message) as error:
        read_object(written(tmp_path / "file.json", content))
    assert str(error.value).endswith("; restore it") and len(str(error.value)) < 400


def test_a_folder_and_a_missing_file_are_said(tmp_path):
    with pytest.raises(JsonFileError, match="is no file"):
        read_object(tmp_path)
    with pytest.raises(JsonFileError, match=r"there is no .*gone\.json"):
        read_object(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"it is \{\}, needed is a list"),
        ([], "it has 0 items, needed are at least 1"),
        ([{"train": [], "validation": []}], "it has no key 0.val"),
        ([{"train": [], "val": [1]}], "0.val.0 is 1, needed is text"),
    ],
)
def test_splits_that_are_wrong_are_refused_with_their_key(tmp_path, content, message):
    with pytest.raises(JsonFileError, match=rf"not nnU-Net's split into folds: {message}.*delete it and let nnU-Net"):
        read_splits(written(tmp_path / "splits_final.json", content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": {"background": 0, "organ": [1.5]}},
            r"labels.organ is \[1.5\], needed is a whole number, or a list",
        ),
        ({"labels": []}, r"labels is \[\], needed is an object"),
        ({"channel_names": {}}, "channel_names are missing"),
        ({"regions_class_order": "1"}, "regions_class_order is '1', needed is a list"),
    ],
)
def test_a_dataset_json_that_is_wrong_is_refused_with_its_key(tmp_path, change, message):
    with pytest.raises(JsonFileError, match=message):
        read_dataset_json(written(tmp_path / "dataset.json", {**DATASET_JSON, **change}))


# -- whatever they hold ----------------------------------------------------------------------------------------------


def check_refused_or_used(use, path, seconds=5):
    started = time.monotonic()
    try:
        use(path)
    except HyperSegNASError as error:
        assert len(str(error)) < 3000, error
    assert time.monotonic() - started < seconds


READERS = {
    "plans": (use_plans, with_block(plans())),
    "dataset": (read_dataset_json, DATASET_JSON),
    "splits": (read_splits, SPLITS),
}


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@FEW
def test_any_change_of_values_is_used_or_refused(tmp_path, kind, data):
    use, content = READERS[kind]
    check_refused_or_used(use, written(tmp_path / "file.json", data.draw(json_mutated(content))))


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@FEW
def test_any_change_of_bytes_is_used_or_refused(tmp_path, kind, data):
    use, content = READERS[kind]
    check_refused_or_used(use, written(tmp_path / "file.json", data.draw(bytes_mutated(json.dumps(content).encode()))))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@MANY
def test_many_changes_are_used_or_refused(tmp_path, kind, data):
    use, content = READERS[kind]
    changes = st.one_of(json_mutated(content), bytes_mutated(json.dumps(content).encode()))
    check_refused_or_used(use, written(tmp_path / "file.json", data.draw(changes)))
