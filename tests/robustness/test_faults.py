"""What happens to laptops: kills, full disks, closed pipes."""

import ctypes
import json
import os
import resource
import shutil
import signal
import time

import pytest
from helpers import best_checkpoint, command, files_below, last_checkpoint, logged, peak_memory, popen, write_flowers

import MLPAE_train_script
import train_script
from common import PROJECT, UserError
from data import create_flower_dataloaders

KILLS = 8  # of each model
FOR_EVER = ["--epochs", 100_000, "--patience", 100_000]
# Two threads, as most machines have; they sleep while they wait, or they would take the cores from the other tests
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
BARE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


@pytest.mark.xdist_group("kills")
def test_kills_at_random_moments_lose_nothing(tiny_flowers, tmp_path):
    argv = command("tests/robustness/kill_loop.py", KILLS, tmp_path, tiny_flowers)
    process = popen(argv, env={**os.environ, **TWO_THREADS, "PYTHONPATH": str(PROJECT)})
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["model"] for result in results] == ["MLPAE", "GAN"]
    for result in results:
        assert result["saving"] + result["running"] == KILLS
        assert result["saving"] >= 1
        assert result["resumed"] >= 1
        assert result["left"] == []  # nothing half written stays behind


def test_two_runs_in_one_folder_and_a_ctrl_c(tiny_flowers, tmp_path):
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path]
    first = popen(command("MLPAE_train_script.py", *flags, *FOR_EVER))
    log = iter(first.stdout.readline, "")
    assert any(line.startswith("Epoch: 2,") for line in log)
    with pytest.raises(UserError, match=f"training MLPAE in {tmp_path / 'models'}: .*--output-root"):
        logged(MLPAE_train_script.main, *flags, "--epochs", 1)
    assert first.poll() is None
    for _ in range(2):  # the second one while the first is dealt with
        first.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = first.communicate(timeout=20)
    assert first.returncode == 130
    [line] = errors.splitlines()
    epochs = len(last_checkpoint(tmp_path, "MLPAE")["history"])
    assert line in [f"stopped; the same command with --resume continues after epoch {n}" for n in (epochs - 1, epochs)]
    history, _ = logged(MLPAE_train_script.main, *flags, "--resume", "--epochs", epochs + 1, "--patience", epochs)
    assert len(history) == epochs + 1  # the lock is gone with the first run


def test_a_termination_without_standard_streams_in_any_language_and_folder(tiny_flowers, tmp_path):
    root = tmp_path / "a folder with spaces" / "花"
    flowers = shutil.copytree(tiny_flowers, root / "flowers")
    next(flowers.iterdir()).rename(flowers / "花")
    argv = command("MLPAE_train_script.py", "--data-root", flowers, "--output-root", root, *FOR_EVER)
    environment = {**BARE, "PATH": os.environ["PATH"]}
    process = popen(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *argv], env=environment, cwd="/")
    best = root / "models" / "BestModel_MLPAE.pkl"
    while not best.exists() and process.poll() is None:
        time.sleep(0.01)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 143
    assert best_checkpoint(root, "MLPAE")["data"]["name"] == "flowers"


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


@pytest.fixture
def without_privileges():
    """For root too, the permissions of files and folders count: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the call, this thread
    capabilities = (ctypes.c_uint32 * 6)()
    libc.capget(header, capabilities)
    effective = capabilities[0]
    capabilities[0] &= ~0b110
    libc.capset(header, capabilities)
    yield
    capabilities[0] = effective
    libc.capset(header, capabilities)


def test_folders_that_may_not_be_written_or_entered_are_one_line(tiny_flowers, tmp_path, status_of, without_privileges):
    (tmp_path / "models").mkdir(mode=0o500)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    flags = ["--output-root", str(tmp_path), "--data-root"]
    error = status_of(lambda: MLPAE_train_script.main([*flags, str(tiny_flowers)]))
    assert error == f"error: cannot write to {tmp_path / 'models'} (Permission denied)"
    assert list((tmp_path / "models").iterdir()) == []
    error = status_of(lambda: MLPAE_train_script.main([*flags, str(closed / "flowers")]))
    assert error == f"error: cannot use {closed / 'flowers'} (Permission denied)"


@pytest.mark.xdist_group("trained_flowers")
def test_resume_with_other_images_or_another_model_is_refused(trained_flowers, tiny_flowers, tmp_path):
    root, _ = trained_flowers
    (tmp_path / "models").mkdir()
    for kind in ("Last", "Best"):
        for name in ("AE", "VAE"):  # the VAE's are the AE's
            shutil.copy(root / "models" / f"{kind}Model_AE.pth", tmp_path / "models" / f"{kind}Model_{name}.pth")
    flags = ["--output-root", tmp_path, "--epochs", 3, "--image-size", 12, "--encoding-dim", 8, "--resume"]
    others = write_flowers(tmp_path / "others", per_class=2)
    old = r"flowers [0-9a-f]{16},"
    new = r"photographs in others [0-9a-f]{16}\."
    with pytest.raises(UserError, match=f"cannot resume .*data was {old} now {new} .*--resume"):
        logged(train_script.main, "--model", "AE", "--data-root", others, *flags)
    with pytest.raises(UserError, match="cannot resume .*"):
        logged(train_script.main, "--model", "VAE", "--data-root", tiny_flowers, *flags)


def test_memory_grows_with_the_images_alone(tiny_flowers, tmp_path):
    """The photographs at 128x128, without a training: PyTorch's own memory varies by 30 MB from run to run."""
    for image in tiny_flowers.rglob("*.png"):
        folder = tmp_path / image.parent.name
        folder.mkdir(exist_ok=True)
        for number in range(40):
            (folder / f"{image.stem} {number}.png").symlink_to(image)

    def go_through():
        train_loader, _ = create_flower_dataloaders(16, tmp_path, 128, 128)
        for _ in train_loader:
            pass

    images = 40 * 60 * 3 * 128 * 128
    assert 0.9 * images < peak_memory(go_through) < 1.1 * images
