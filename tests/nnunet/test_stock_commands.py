"""Commands found without PATH, and commands that are ended in time."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnunet_hypersegnas.nnunet import stock_commands
from nnunet_hypersegnas.nnunet.stock_commands import CommandError, OutOfTimeError, program_of, run_limited, run_stock


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_scripts_on_the_path_this_python_runs_an_installed_command(monkeypatch, tmp_path):
    monkeypatch.setattr(stock_commands.shutil, "which", lambda name, path=None: None)
    python, flag, code, word = program_of(["nnUNetv2_train", "--help"])
    assert (python, flag, word) == (sys.executable, "-c", "--help")
    assert "from nnunetv2.run.run_training import run_training_entry" in code
    done = subprocess.run(program_of(["hsnas_space", "--help"]), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: hsnas_space")
    with pytest.raises(CommandError, match="no command hsnas_nothing beside"):
        program_of(["hsnas_nothing"])


def test_the_working_directory_does_not_hide_an_installed_package(monkeypatch, tmp_path):
    monkeypatch.setattr(stock_commands.shutil, "which", lambda name, path=None: None)
    (tmp_path / "nnunet_hypersegnas.py").write_text("raise SystemExit('a file that happens to lie here')")
    done = subprocess.run(program_of(["hsnas_space", "--help"]), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_is_ended_with_what_it_has_started(tmp_path):
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(os.getpid(), child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    with pytest.raises(OutOfTimeError, match="python was ended after 3 s"):
        run_limited(["python", "-c", code], 3, output=tmp_path / "out", log=tmp_path / "log")
    assert time.monotonic() - started < 20
    pids = [int(word) for word in (tmp_path / "out").read_text().split()]
    assert len(pids) == 2 and not any(map(is_alive, pids))


def test_a_command_that_ends_in_time(tmp_path):
    code = "import os, sys; print(os.environ['WORD']); print('said', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    files = {"output": tmp_path / "out", "log": tmp_path / "log", "variables": {"WORD": "word"}}
    run_limited(["python", "-c", code, "0"], 60, **files)
    assert (tmp_path / "out").read_text() == "word\n"
    with pytest.raises(CommandError, match="exit code 5: said"):
        run_limited(["python", "-c", code, "5"], 60, **files)
    assert (tmp_path / "log").read_text() == "said\nsaid\n"  # of both
    assert "WORD" not in os.environ


@pytest.mark.parametrize("log", ["None", "Path('log')"])
def test_an_interrupted_command_ends_what_it_has_started(tmp_path, log):
    """Ctrl-C reaches all of the terminal's group; processes in groups of their own are the command's to end."""
    command = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "try:\n"
        "    open('pid', 'w').write(f'{child.pid}\\n')\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    time.sleep(2)\n"
        "    child.kill()\n"
        "    child.wait()\n"
    )
    code = (
        "from pathlib import Path\n"
        "from nnunet_hypersegnas.nnunet.stock_commands import run_stock\n"
        f"run_stock(['python', '-c', {command!r}], {log})\n"
    )
    leader = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, start_new_session=True)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert leader.poll() is None
        time.sleep(0.1)
    os.killpg(leader.pid, signal.SIGINT)
    assert leader.wait(30) != 0
    assert not is_alive(int(pid.read_text()))


def test_a_command_that_does_not_heed_an_interrupt_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(stock_commands, "SECONDS_TO_END", 0.5)
    code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code += "; file = open('pid', 'w'); file.write(f'{os.getpid()}.'); file.close()"
    monkeypatch.chdir(tmp_path)

    def interrupt():
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith(".")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_stock(["python", "-c", f"{code}; time.sleep(60)"], tmp_path / "log")
    assert not is_alive(int((tmp_path / "pid").read_text().rstrip(".")))
