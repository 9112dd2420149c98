"""What happens to laptops: kills, full disks, closed pipes."""

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import time

import pytest
from helpers import best_checkpoint, command, files_below, last_checkpoint, logged, popen, run, write_flowers

import check_submission
import main
import MLPAE_train_script
import random_generation
import train_script
import visualization
from training import PROJECT, UserError

KILLS = 10  # of each model
FOR_EVER = ["--epochs", 100_000, "--patience", 100_000]
# Two threads, as most machines have; they sleep while they wait, or they would take the cores from the other tests
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
BARE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


@pytest.mark.xdist_group("kills")
def test_kills_at_random_moments_lose_nothing(tiny_flowers, tiny_mnist, tmp_path):
    argv = command("tests/robustness/kill_loop.py", KILLS, tmp_path, tiny_flowers, tiny_mnist)
    process = popen(argv, env={**os.environ, **TWO_THREADS, "PYTHONPATH": str(PROJECT)})
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["model"] for result in results] == ["MLPAE", "AE", "VAE", "GAN", "MNIST_VAE"]
    for result in results:
        assert result["saving"] + result["running"] == KILLS
        assert result["saving"] >= 1
        assert result["resumed"] >= 1
        assert result["left"] == []  # nothing half written stays behind


def wait_for(process, start) -> str:
    """Read the log up to a line that begins so, and return that."""
    lines = (line for line in iter(process.stdout.readline, "") if line.startswith(start))
    return next(lines, None) or pytest.fail(process.stderr.read())


def stop(process, signal_) -> str:
    """Send the signal; returns the one line on standard error."""
    process.send_signal(signal_)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 20
    [line] = errors.splitlines()
    return line


def test_two_runs_in_one_folder_and_a_ctrl_c(tiny_flowers, tmp_path):
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path]
    first = popen(command("MLPAE_train_script.py", *flags, *FOR_EVER))
    wait_for(first, "Epoch: 2,")
    with pytest.raises(UserError, match=f"training MLPAE in {tmp_path / 'models'}: .*--output-root"):
        logged(MLPAE_train_script.main, *flags, "--epochs", 1)
    assert first.poll() is None
    line = stop(first, signal.SIGINT)
    assert first.returncode == 130
    done = len(last_checkpoint(tmp_path, "MLPAE")["history"])
    assert done >= 2
    assert any(line.endswith(f"--resume goes on after epoch {epochs}") for epochs in (done - 1, done))
    history, _ = logged(MLPAE_train_script.main, *flags, "--resume", "--epochs", done + 1, "--patience", done)
    assert len(history) == done + 1  # the lock is gone with the first run


def test_a_termination_and_names_that_the_terminal_cannot_print(tiny_flowers, tmp_path):
    flowers = shutil.copytree(tiny_flowers, tmp_path / "flowers")
    next(flowers.iterdir()).rename(flowers / "花")
    flags = ["--model", "VAE", "--data-root", flowers, "--output-root", tmp_path, "--image-size", 8]
    process = popen(command("train_script.py", *flags, *FOR_EVER), env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert "\\u82b1" in wait_for(process, "Data: ")
    wait_for(process, "Epoch: 2,")
    line = stop(process, signal.SIGTERM)
    assert process.returncode == 143
    done = len(last_checkpoint(tmp_path, "VAE")["history"])
    assert any(line.endswith(f"--resume goes on after epoch {epochs}") for epochs in (done - 1, done))


@pytest.fixture
def full_disk():
    """No file may grow beyond 100,000 bytes, as where a disk is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    ("script", "flags"), [(MLPAE_train_script, []), (train_script, ["--model", "AE", "--image-size", 8])]
)
def test_a_full_disk_leaves_the_old_checkpoint_whole(script, flags, full_disk, tiny_flowers, tmp_path):
    flags = [*flags, "--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 1]
    logged(script.main, *flags)
    before = files_below(tmp_path)
    full_disk()
    with pytest.raises(UserError, match=rf"cannot write {tmp_path / 'replaced'}.*File too large"):  # the copies
        logged(script.main, *flags)
    assert files_below(tmp_path) == before
    with pytest.raises(UserError, match=rf"cannot write {tmp_path / 'models'}.*File too large.*old file is whole"):
        logged(script.main, *flags, "--resume")
    assert files_below(tmp_path) == before


def without_privileges():
    """For preexec_fn: also root has to heed what may be written (it drops CAP_DAC_OVERRIDE, by PR_CAPBSET_DROP)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def test_a_folder_that_is_read_only_is_one_line(tiny_flowers, tmp_path):
    (tmp_path / "models").mkdir(mode=0o500)
    argv = command("MLPAE_train_script.py", "--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 1)
    status, _, errors = run(argv, preexec_fn=without_privileges)
    assert (status, errors) == (1, f"error: cannot write to {tmp_path / 'models'} (Permission denied)\n")
    (tmp_path / "models").chmod(0o700)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_that_may_not_be_entered_is_one_line(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    argv = command("MLPAE_train_script.py", "--data-root", closed / "flowers", "--output-root", tmp_path)
    status, _, errors = run(argv, preexec_fn=without_privileges)
    assert (status, len(errors.splitlines())) == (1, 1)
    assert str(closed) in errors


def test_resume_with_other_images_or_another_model_is_refused(trained_flowers, tiny_flowers, tmp_path):
    root, _ = trained_flowers
    for kind in ("Last", "Best"):
        for name in ("AE", "VAE"):  # the VAE's are the AE's
            (tmp_path / "models").mkdir(exist_ok=True)
            shutil.copy(root / "models" / f"{kind}Model_AE.pth", tmp_path / "models" / f"{kind}Model_{name}.pth")
    flags = ["--output-root", tmp_path, "--epochs", 3, "--image-size", 12, 16, "--encoding-dim", 8, "--resume"]
    others = write_flowers(tmp_path / "others", per_class=2)
    old, new = r"flowers [0-9a-f]{16},", r"photographs in others [0-9a-f]{16}\."
    with pytest.raises(UserError, match=f"cannot resume .*data was {old} now {new} .*--resume"):
        logged(train_script.main, "--model", "AE", "--data-root", others, *flags)
    with pytest.raises(UserError, match="cannot resume .*model was AE, now VAE.*--resume"):
        logged(train_script.main, "--model", "VAE", "--data-root", tiny_flowers, *flags)


def test_a_log_that_nobody_reads_in_any_language_and_folder(tiny_flowers, tmp_path):
    root = tmp_path / "a folder with spaces" / "花"
    argv = command("MLPAE_train_script.py", "--data-root", tiny_flowers, "--output-root", root, "--epochs", 4)
    process = popen(argv, env={**BARE, "PATH": os.environ["PATH"]}, cwd="/")
    wait_for(process, "Data: ")
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), "Traceback" in errors) == (0, False)
    assert "standard output is closed" in errors
    assert (root / "vis" / "loss_MLPAE.png").exists()
    assert last_checkpoint(root, "MLPAE")["history"][-1]["epoch"] == 4


def test_standard_streams_that_are_closed_or_full(tiny_flowers, tmp_path, monkeypatch):
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 1]
    assert run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command("MLPAE_train_script.py", *flags)]) == (0, "", "")
    assert best_checkpoint(tmp_path, "MLPAE")["epoch"] == 1
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(UserError, match=r"log to standard output \(No space left on device\)"):
            MLPAE_train_script.main([str(flag) for flag in flags])


SCRIPTS = [MLPAE_train_script, train_script, main, visualization, random_generation, check_submission]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_an_output_root_that_is_a_file_is_status_2(script, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        script.main(["--output-root", str(tmp_path / "file"), "--model", "VAE"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(f"--output-root: expected a folder, found the file {tmp_path / 'file'}\n")


# prints the most memory so far, after each folder of photographs that was read and gone through
MEASURE = """
import re, sys
from pathlib import Path
from data import create_flower_dataloaders
for root in sys.argv[1:]:
    train_loader, valid_loader = create_flower_dataloaders(16, root, 128, 128)
    for images, _ in train_loader:
        pass
    del train_loader, valid_loader, images
    print(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_grows_with_the_images_alone(tiny_flowers, tmp_path):
    """The photographs at 128x128, without a training: what PyTorch needs for one varies by 30 MB from run to run."""
    for times in (8, 80):  # 480 images, and ten times as many
        for image in tiny_flowers.rglob("*.png"):
            folder = tmp_path / str(times) / image.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(times):
                (folder / f"{image.stem} {number}.png").symlink_to(image)
    # not ru_maxrss, which begins with the memory of the process that starts this one
    status, out, errors = run([sys.executable, "-c", MEASURE, tmp_path / "8", tmp_path / "80"], cwd=PROJECT)
    assert status == 0, errors
    small, large = (1024 * int(line) for line in out.split())
    images = (80 - 8) * 60 * 3 * 128 * 128
    assert 0.9 * images < large - small < 1.1 * images
