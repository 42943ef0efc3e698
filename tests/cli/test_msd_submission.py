"""`hsnas_msd_submission`: what the challenge takes, and everything that it does not."""

import gzip
import os
import shutil
import stat
import struct
import tracemalloc
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
    assert "there is no zip" in capsys.readouterr().err


HIPPOCAMPUS = "Task04_Hippocampus/hippocampus_001.nii.gz"


def doctored(path, tmp_path, doctor):
    """Return a copy of a zip whose directory says other things; `doctor` gets its entry of one file."""
    other = tmp_path / "doctored.zip"
    shutil.copy(path, other)
    with zipfile.ZipFile(other, "a") as archive:
        doctor(archive.getinfo(HIPPOCAMPUS))
        archive.comment = b"so that the directory is written anew"
    return other


def faults_in(path, capsys, *more):
    capsys.readouterr()
    assert main(["--check", str(path), *more, "-np", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("checking")]
    assert all(len(line) < 1000 for line in lines)
    return "\n".join(lines)


def set_flag(flag):
    def doctor(member):
        member.flag_bits |= flag

    return doctor


def set_field(name, value):
    return lambda member: setattr(member, name, value)


@pytest.mark.parametrize(
    ("doctor", "message"),
    [
        (set_flag(1), f"{HIPPOCAMPUS}: it is encrypted; make the zip without a password"),
        (set_flag(1 << 5), f"{HIPPOCAMPUS}: the zip is damaged there"),
        (set_field("compress_type", 77), f"{HIPPOCAMPUS}: it is compressed by method 77; 0 (stored) and 8"),
        (set_field("extract_version", 99), "is no zip, or it is cut off (zip file version 9.9)"),
        (set_field("file_size", 1_500_000_000), f"{HIPPOCAMPUS}: it has 1,500,000,000 bytes; a label map has at most"),
        (set_field("file_size", 1 << 33), "bytes without compression; 4,294,967,296 are possible"),
        (set_field("CRC", 12345), f"{HIPPOCAMPUS}: the zip is damaged there (Bad CRC-32"),
        (set_field("header_offset", 7), f"{HIPPOCAMPUS}: the zip is damaged there"),
        (set_field("external_attr", (stat.S_IFLNK | 0o777) << 16), f"{HIPPOCAMPUS}: it is a folder, a link or"),
        (set_field("external_attr", (stat.S_IFDIR | 0o777) << 16), f"{HIPPOCAMPUS}: it is a folder, a link or"),
        (set_field("external_attr", (stat.S_IFIFO | 0o777) << 16), f"{HIPPOCAMPUS}: it is a folder, a link or"),
    ],
)
def test_directories_of_zips(zipped, data, tmp_path, capsys, doctor, message):
    """What a directory says is looked at before any of its files is read."""
    path = doctored(zipped, tmp_path, doctor)
    for more in ((), ("--data", str(data))):
        tracemalloc.start()
        found = faults_in(path, capsys, *more)
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
        tracemalloc.stop()
        assert message in found
        assert "no prediction of hippocampus_001" not in found  # it is there, and has a fault


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(zipped, data, tmp_path, capsys, method):
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(tmp_path / "b.zip", "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    found = faults_in(tmp_path / "b.zip", capsys, "--data", str(data))
    assert f"it is compressed by method {method}; 0 (stored) and 8 (deflate) are possible" in found


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (HIPPOCAMPUS, f"files that are in it more than once: {HIPPOCAMPUS}"),
        (f"./{HIPPOCAMPUS}", f"files that do not belong into it: ./{HIPPOCAMPUS}"),
        (f"/{HIPPOCAMPUS}", "files that do not belong into it: /Task04"),
        (f"a/../{HIPPOCAMPUS}", "files that do not belong into it: a/.."),
        (HIPPOCAMPUS.replace("/", "//"), "files that do not belong into it: Task04_Hippocampus//"),
        (HIPPOCAMPUS.replace("/", "/./"), "files that do not belong into it: Task04_Hippocampus/./"),
        (HIPPOCAMPUS.replace("/", "\\"), "files that do not belong into it: Task04_Hippocampus\\"),
        (HIPPOCAMPUS.lower(), "files that do not belong into it: task04_hippocampus/"),
        (HIPPOCAMPUS.replace("_001", "_001\u0301"), "no test image of hippocampus_001\u0301"),
        (HIPPOCAMPUS.replace("hippo", "Hippo"), "no test image of Hippocampus_001"),
        (f"{HIPPOCAMPUS}/", f"files that do not belong into it: {HIPPOCAMPUS}/"),
        (f"{HIPPOCAMPUS}\0.png", "files that do not belong into it: 'Task04_Hippocampus/hippocampus_001.nii.gz\\x00"),
        (f"Task04_Hippocampus/{'x' * 60000}", "files that do not belong into it: 'Task04_Hippocampus/xxx"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_another_name_for_the_same_file(zipped, data, tmp_path, capsys, name, message, place):
    """Programs that unpack it write one over the other."""
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(path, "w") as new:
        member = zipfile.ZipInfo("x")
        member.filename = member.orig_filename = name
        contents = [(name, old.read(name)) for name in old.namelist()]
        contents.insert(0 if place == "first" else len(contents), (member, b"garbage"))
        for each, content in contents:
            new.writestr(each, content)
    found = faults_in(path, capsys, "--data", str(data))
    assert message in found, found


def test_folders_of_the_tasks_may_be_in_it(zipped, data, tmp_path, capsys):
    path = changed(zipped, lambda c: {f"{task.folder}/": b"" for task in TASKS} | c, tmp_path)
    assert main(["--check", str(path), "--data", str(data), "-np", "1"]) == 0


def test_too_many_members(zipped, tmp_path, capsys):
    path = changed(zipped, lambda c: c | {f"Task04_Hippocampus/{i}.nii.gz": b"" for i in range(2000)}, tmp_path)
    assert faults_in(path, capsys) == (f"hsnas_msd_submission: error: {path} has 2,018 members; 2,000 are possible")


def test_a_zip_that_is_cut_off_or_a_pipe(zipped, tmp_path, capsys):
    content, path = zipped.read_bytes(), tmp_path / "cut.zip"
    for size in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:size])
        assert "is no zip, or it is cut off" in faults_in(path, capsys)
    os.mkfifo(tmp_path / "pipe.zip")
    assert "it is no file but a pipe" in faults_in(tmp_path / "pipe.zip", capsys)


def test_bombs(zipped, data, tmp_path, capsys):
    """Few bytes that stand for many: in the zip, and in the file in it."""
    huge = zipfile.ZipInfo(HIPPOCAMPUS)
    huge.compress_type = zipfile.ZIP_DEFLATED
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(path, "w") as new:
        content = gzip.decompress(old.read(HIPPOCAMPUS))
        for name in old.namelist():
            if name != HIPPOCAMPUS:
                new.writestr(name, old.read(name))
        new.writestr(huge, bytes(1 << 20))
    found = faults_in(path, capsys, "--data", str(data))
    assert f"{HIPPOCAMPUS}: it has 1,048,576 bytes; a label map has at most" in found
    many = content[:42] + struct.pack("<3h", 2000, 2000, 2000) + content[48:]  # 8 GB, if anybody believed it
    packed = gzip.compress(many + bytes(1 << 24))
    tracemalloc.start()
    with_images = faults_in(changed(zipped, lambda c: c | {HIPPOCAMPUS: packed}, tmp_path), capsys, "--data", str(data))
    without = faults_in(changed(zipped, lambda c: c | {HIPPOCAMPUS: packed}, tmp_path), capsys)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()
    assert f"{HIPPOCAMPUS} is no segmentation: it cannot be read (it is cut off)" in with_images + without
    within = content[:42] + struct.pack("<3h", 250, 250, 250) + content[48:]
    found = faults_in(
        changed(zipped, lambda c: c | {HIPPOCAMPUS: gzip.compress(within + bytes(1 << 24))}, tmp_path), capsys
    )
    assert f"{HIPPOCAMPUS} has" not in found and f"{HIPPOCAMPUS} is" not in found
    found = faults_in(
        changed(zipped, lambda c: c | {HIPPOCAMPUS: gzip.compress(within + bytes(1 << 24))}, tmp_path),
        capsys,
        "--data",
        str(data),
    )
    assert f"{HIPPOCAMPUS} has shape 250 x 250 x 250 in place of 5 x 4 x 3" in found


def test_images_that_hold_no_labels(zipped, data, tmp_path, capsys):
    vectors = sitk.GetImageFromArray(np.zeros((*SHAPE, 2), np.uint8), isVector=True)
    vectors.SetSpacing((1.0, 1.5, 2.0))
    vectors.SetOrigin((3.0, 0.0, -7.0))
    sitk.WriteImage(vectors, str(tmp_path / "v.nii.gz"))
    content = (tmp_path / "v.nii.gz").read_bytes()
    found = faults_in(changed(zipped, lambda c: c | {HIPPOCAMPUS: content}, tmp_path), capsys, "--data", str(data))
    assert f"{HIPPOCAMPUS} is no segmentation: it has 5 axes (5 x 4 x 3 x 1 x 2); a label map has 2 or 3" in found

    def without_place(contents):
        whole = gzip.decompress(contents[HIPPOCAMPUS])
        return contents | {HIPPOCAMPUS: gzip.compress(whole[:280] + struct.pack("<12f", *[np.nan] * 12) + whole[328:])}

    found = faults_in(changed(zipped, without_place, tmp_path), capsys, "--data", str(data))
    assert f"{HIPPOCAMPUS} is no segmentation: its affine has an axis without length, or values that are no" in found


def test_a_broken_test_image_is_one_line(predictions, data, tmp_path, capsys):
    """Of a task that is checked, and of one that is filled with placeholders."""
    for task, kind in (("Task04_Hippocampus", "hippocampus_001"), ("Task09_Spleen", "spleen_001")):
        path = data / task / "imagesTs" / f"{kind}.nii.gz"
        path.write_bytes(b"no image")
        assert (
            main([predictions[3], "--data", str(data), "-o", str(tmp_path / "x.zip"), "--placeholders", "-np", "1"])
            == 1
        )
        assert f"{path}" in capsys.readouterr().err and not (tmp_path / "x.zip").exists()
        write_image(path, np.zeros(SHAPE, np.float32))


def test_files_of_any_time_can_be_zipped(predictions, data, tmp_path):
    os.utime(tmp_path / HIPPOCAMPUS, (0, 0))  # before 1980, where the calendar of zips begins
    assert main([*predictions, "--data", str(data), "-o", str(tmp_path / "old.zip"), "-np", "1"]) == 0


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
