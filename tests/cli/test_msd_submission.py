"""`hsnas_msd_submission`: what the challenge takes, and everything that it does not."""

import gzip
import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_hypersegnas.cli.msd_submission import main
from nnunet_hypersegnas.evaluation import TASKS
from tests.evaluation.conftest import write_image

PREFIXES = {3: "liver", 4: "hippocampus", 8: "hepaticvessel"}
CASES = {3: (141, 142, 190), 8: (247, 248)}
SHAPE = (3, 4, 5)


def name_of(task, number):
    return f"{PREFIXES.get(task.number, task.name.lower())}_{number:03d}"


@pytest.fixture
def data(tmp_path):
    """All ten tasks with two test images or so each; BrainTumour's have four dimensions, Heart's are nnU-Net's."""
    folder = tmp_path / "data"
    for task in TASKS:
        images = folder / task.folder / "imagesTs"
        for number in CASES.get(task.number, (1, 2)):
            array = np.zeros(SHAPE, np.float32)
            if task.number == 1:
                image = sitk.JoinSeries([sitk.GetImageFromArray(array)] * 4)
                image.SetSpacing((1.0, 1.5, 2.0, 1.0))
                image.SetOrigin((3.0, 0.0, -7.0, 0.0))
                images.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image, str(images / f"{name_of(task, number)}.nii.gz"))
            else:
                write_image(images / f"{name_of(task, number)}.nii.gz", array)
                write_image(images / f"._{name_of(task, number)}.nii.gz", array)  # as macOS leaves them
        if task.number == 2:
            images = images.parent.rename(folder / "Dataset002_Heart") / "imagesTs"
            for path in images.glob("[!.]*"):
                shutil.copy(path, path.with_name(path.name.replace(".nii", "_0001.nii")))
                path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    return folder


@pytest.fixture
def predictions(data, tmp_path):
    """Predictions of every task, as arguments."""
    words = []
    for task in TASKS:
        for number in CASES.get(task.number, (1, 2)):
            labels = np.full(SHAPE, task.highest_label, np.uint8)
            write_image(tmp_path / task.folder / f"{name_of(task, number)}.nii.gz", labels)
        (tmp_path / task.folder / "plans.json").write_text("{}")  # nnU-Net leaves more than segmentations
        words.append(f"{task.folder}={tmp_path / task.folder}")
    return words


@pytest.fixture
def zipped(predictions, data, tmp_path):
    path = tmp_path / "all.zip"
    assert main([*predictions, "--data", str(data), "-o", str(path), "-np", "1"]) == 0
    return path


def names_in(path):
    return sorted(zipfile.ZipFile(path).namelist())


def changed(path, change, tmp_path):
    """Return a copy of a zip after a change of its contents, given and returned by name."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    other = tmp_path / "changed.zip"
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in change(contents).items():
            archive.writestr(name, content)
    return other


def test_all_ten_tasks_without_the_eleven_files(predictions, data, tmp_path, capsys):
    assert main([*predictions, "--data", str(data), "-o", str(tmp_path / "all.zip"), "-np", "1"]) == 0
    names = names_in(tmp_path / "all.zip")
    assert {name.split("/")[0] for name in names} == {task.folder for task in TASKS}
    assert "Task03_Liver/liver_142.nii.gz" in names and "Task03_Liver/liver_141.nii.gz" not in names
    assert "Task08_HepaticVessel/hepaticvessel_247.nii.gz" not in names and len(names) == 18
    assert sum(len(task.not_scored) for task in TASKS) == 11
    assert "liver_141, liver_190" in capsys.readouterr().out


def test_it_passes_its_own_check(zipped, data, capsys):
    assert main(["--check", str(zipped), "--data", str(data), "-np", "2"]) == 0
    assert "no fault found" in capsys.readouterr().out
    assert main(["--check", str(zipped), "-np", "1"]) == 1  # these are not the challenge's test cases
    faults = capsys.readouterr().err
    assert "Task09_Spleen: no prediction of 20 cases: spleen_1, spleen_11" in faults
    assert "Task09_Spleen: no test image of spleen_001, spleen_002" in faults


def test_a_folder_may_have_the_tasks_name(predictions, data, tmp_path):
    words = [word.split("=")[1] for word in predictions]
    assert main([*words, "--data", str(data), "-o", str(tmp_path / "named.zip"), "-np", "1"]) == 0


def test_missing_tasks_are_refused_or_filled(predictions, data, tmp_path, capsys):
    path = tmp_path / "one.zip"
    words = [predictions[3], "--data", str(data), "-o", str(path), "-np", "1"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "nothing for Task01_BrainTumour, Task02_Heart, Task03_Liver, Task05" in message and not path.exists()
    assert main([*words, "--placeholders"]) == 0
    assert "WARNING: 9 of 10 tasks are PLACEHOLDERS" in capsys.readouterr().out
    assert main(["--check", str(path), "--data", str(data), "-np", "1"]) == 0
    printed = capsys.readouterr().out
    assert "WARNING: 9 of 10 tasks are PLACEHOLDERS" in printed
    assert next(line for line in printed.splitlines() if "Hippocampus" in line).endswith("predictions")
    assert main([*words, "--placeholders"]) == 1
    assert "one.zip exists already" in capsys.readouterr().err
    assert main([*words, "--placeholders", "--overwrite"]) == 0
    assert "WARNING: the test images in --data are not the challenge's own for Task01_BrainTumour, Task02" in printed
    shutil.rmtree(data / "Task10_Colon")
    capsys.readouterr()
    assert main([*words, "--placeholders", "--overwrite"]) == 0
    assert "WARNING: the placeholders for Task10_Colon have one voxel" in capsys.readouterr().out
    assert {f"Task10_Colon/{case}.nii.gz" for case in TASKS[9].scored} <= set(names_in(path))


def test_every_fault_is_named_at_once_and_nothing_is_written(predictions, data, tmp_path, capsys):
    def file(task, number):
        task = TASKS[task - 1]
        return tmp_path / task.folder / f"{name_of(task, number)}.nii.gz"

    one = np.ones(SHAPE, np.uint8)
    write_image(file(4, 1), one, spacing=(1.0, 1.0, 1.0))
    write_image(file(4, 2), one[1:])
    write_image(file(5, 1), one.astype(np.float32))
    write_image(file(5, 2), one * np.uint8(3))
    write_image(file(6, 1), one, origin=(3.0, 0.0, 7.0))
    file(6, 2).unlink()
    write_image(file(7, 3), one)
    content = gzip.decompress(file(9, 1).read_bytes())
    file(9, 1).write_bytes(gzip.compress(content[:-20]))
    file(10, 1).write_bytes(b"")
    turned = sitk.ReadImage(str(file(10, 2)))
    turned.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(turned, str(file(10, 2)))
    path = tmp_path / "faulty.zip"
    assert main([*predictions, "--data", str(data), "-o", str(path), "-np", "1"]) == 1
    message = capsys.readouterr().err
    for fault in (
        "Task04_Hippocampus/hippocampus_001.nii.gz has spacing 1 x 1 x 1 in place of 1 x 1.5 x 2",
        "Task04_Hippocampus/hippocampus_002.nii.gz has shape 5 x 4 x 2 in place of 5 x 4 x 3",
        "Task05_Prostate/prostate_001.nii.gz has type float32, integers are needed",
        "Task05_Prostate/prostate_002.nii.gz has labels 3, known are 0, 1, 2",
        "Task06_Lung/lung_001.nii.gz has origin 3 x 0 x 7 in place of 3 x 0 x -7",
        "Task06_Lung: no prediction of lung_002",
        "Task07_Pancreas: no test image of pancreas_003",
        "Task09_Spleen/spleen_001.nii.gz is no segmentation: it cannot be read",
        "Task10_Colon/colon_001.nii.gz is no segmentation: it cannot be read",
        "Task10_Colon/colon_002.nii.gz has direction",
    ):
        assert fault in message, fault
    assert not list(tmp_path.glob("faulty*"))


def test_zips_of_others(zipped, data, tmp_path, capsys):
    def refused(change, *more):
        assert main(["--check", str(changed(zipped, change, tmp_path)), *more, "-np", "1"]) == 1
        return capsys.readouterr().err

    wrapped = refused(lambda contents: {f"mine/{name}": content for name, content in contents.items()})
    assert "files that do not belong into it: 18 cases: mine/Task01" in wrapped or "18" in wrapped
    assert "nothing for Task01_BrainTumour" in wrapped
    assert "it is empty" in refused(lambda contents: {})
    assert "__MACOSX/a" in refused(lambda contents: contents | {"__MACOSX/a": b""})
    with_refused = refused(
        lambda c: c | {"Task03_Liver/liver_141.nii.gz": c["Task03_Liver/liver_142.nii.gz"]}, "--data", str(data)
    )
    assert "Task03_Liver: the challenge does not take liver_141" in with_refused
    (tmp_path / "no.zip").write_bytes(zipped.read_bytes()[:200])
    assert main(["--check", str(tmp_path / "no.zip")]) == 1
    assert "is no zip, or it is cut off" in capsys.readouterr().err
    assert main(["--check", str(tmp_path / "nothing.zip")]) == 1
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no predictions; give TASK=FOLDER"),
        (["4=here"], "name their folder with --data"),
        (["Task11_Brain=here", "--data", "."], "'Task11_Brain' is no task of the challenge"),
        (["4=nowhere", "--data", "."], "there is no folder nowhere with predictions of Task04_Hippocampus"),
        (["4=.", "--data", "nowhere"], "no test images of Task04_Hippocampus in nowhere"),
        (["4=.", "Task04_Hippocampus=.", "--data", "."], "a task is named twice"),
        (["4=.", "--check", "some.zip"], "--check takes nothing but --data"),
    ],
)
def test_bad_arguments(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_what_the_challenge_scores():
    """Numbers of scored cases as the leaderboard's files have them; no labelled case is among them."""
    assert [len(task.scored) for task in TASKS] == [266, 10, 60, 130, 16, 32, 139, 139, 20, 64]
    assert {"BRATS_485", "BRATS_750"} <= TASKS[0].scored and "BRATS_484" not in TASKS[0].scored
    assert "liver_141" not in TASKS[2].scored and "prostate_08" in TASKS[4].scored


def test_a_zip_of_the_challenges_cases_needs_no_images(tmp_path, data, predictions, capsys):
    """Placeholders of all tasks but one, whose test images are nowhere."""
    for task in TASKS:
        shutil.rmtree(data / task.folder, ignore_errors=True)
    shutil.rmtree(data / "Dataset002_Heart")
    images, labels = data / "Task09_Spleen" / "imagesTs", tmp_path / "spleens"
    for case in TASKS[8].scored:
        write_image(images / f"{case}.nii.gz", np.zeros(SHAPE, np.float32))
        write_image(labels / f"{case}.nii.gz", np.ones(SHAPE, np.uint8))
    path = tmp_path / "nine.zip"
    assert main([f"9={labels}", "--data", str(data), "--placeholders", "-o", str(path), "-np", "1"]) == 0
    assert "are not the challenge's own" not in capsys.readouterr().out
    assert len(names_in(path)) == 876 and main(["--check", str(path), "-np", "1"]) == 0
    assert "Geometry is not checked of Task01_BrainTumour, Task02_Heart" in capsys.readouterr().out
