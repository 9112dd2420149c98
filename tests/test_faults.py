"""What happens to laptops: kills, full disks, closed pipes. The scripts run as processes."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

import main
import MLPAE_train_script
import train_script
from training import PROJECT, UserError, load_checkpoint

KILLS = 30  # of each model
SCRIPTS = {
    "MLPAE": ["MLPAE_train_script.py"],
    "AE": ["train_script.py", "--model", "AE"],
    "VAE": ["train_script.py", "--model", "VAE"],
    "MNIST_VAE": ["main.py", "--model", "VAE", "--hidden-size", "16"],
}


def command(name, root, tiny_flowers, tiny_mnist, *argv):
    script, *flags = SCRIPTS[name]
    data_root = tiny_mnist if name.startswith("MNIST") else tiny_flowers
    flags += ["--data-root", data_root, "--output-root", root, *argv]
    return [sys.executable, str(PROJECT / script), *map(str, flags)]


def popen(argv, **options):
    """A process that a signal can interrupt, also where this one is a background job of a shell."""
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **{**heard, **options})


def run(argv, **options):
    process = popen(argv, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_kills_at_random_moments_lose_nothing(tiny_flowers, tiny_mnist, tmp_path):
    loop = [PROJECT / "tests" / "kill_loop.py", KILLS, tmp_path, tiny_flowers, tiny_mnist, *SCRIPTS, "GAN"]
    status, out, err = run([sys.executable, *map(str, loop)], env={**os.environ, "PYTHONPATH": str(PROJECT)})
    assert status == 0, err
    results = [json.loads(line) for line in out.splitlines()]
    assert [result["model"] for result in results] == [*SCRIPTS, "GAN"]
    for result in results:
        assert result["saving"] + result["running"] == KILLS
        assert result["saving"] >= 1
        assert result["left"] == []  # nothing half written stays behind


@pytest.mark.parametrize(
    ("name", "signal_", "status", "flags"),
    [
        ("MLPAE", signal.SIGINT, 130, ["--epochs", 100_000, "--patience", 100_000]),
        ("VAE", signal.SIGTERM, 143, ["--image-size", 8, "--epochs", 100_000]),
    ],
)
def test_a_stop_says_how_to_go_on_and_resume_does(name, signal_, status, flags, tiny_flowers, tiny_mnist, tmp_path):
    process = popen(command(name, tmp_path, tiny_flowers, tiny_mnist, *flags))
    assert any(line.startswith("Epoch: 2,") for line in iter(process.stdout.readline, ""))
    process.send_signal(signal_)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 20
    assert process.returncode == status
    suffix = ".pkl" if name == "MLPAE" else ".pth"
    done = len(load_checkpoint(tmp_path / "models" / f"LastModel_{name}{suffix}", made_by="test")["history"])
    assert done >= 2
    stops = {f"stopped; the same command with --resume goes on after epoch {n}" for n in (done - 1, done)}
    assert errors.splitlines()[-1] in stops
    assert len(errors.splitlines()) == 1


def least_bytes(limit):
    """For preexec_fn: no file may grow beyond limit bytes, as where a disk is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def without_privileges():
    """For preexec_fn: also root has to heed what may be written (it drops CAP_DAC_OVERRIDE, by PR_CAPBSET_DROP)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.parametrize("name", ["MLPAE", "AE"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(name, tiny_flowers, tiny_mnist, tmp_path):
    argv = command(name, tmp_path, tiny_flowers, tiny_mnist, "--epochs", 1)
    {"MLPAE": MLPAE_train_script, "AE": train_script}[name].main(argv[2:])
    before = {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    status, _, errors = run(argv, preexec_fn=least_bytes(100_000))
    assert status == 1
    [line] = errors.splitlines()
    assert line.startswith(f"error: cannot write {tmp_path / 'models'}")
    assert "(File too large); the old file is whole" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()} == before


def test_a_folder_that_is_read_only_is_one_line(tiny_flowers, tiny_mnist, tmp_path):
    (tmp_path / "models").mkdir(mode=0o500)
    argv = command("MLPAE", tmp_path, tiny_flowers, tiny_mnist, "--epochs", 1)
    status, _, errors = run(argv, preexec_fn=without_privileges)
    assert (status, errors) == (1, f"error: cannot write to {tmp_path / 'models'} (Permission denied)\n")
    (tmp_path / "models").chmod(0o700)
    assert list((tmp_path / "models").iterdir()) == []


def test_two_runs_of_one_model_in_one_folder(tiny_flowers, tiny_mnist, tmp_path):
    argv = command("MLPAE", tmp_path, tiny_flowers, tiny_mnist, "--epochs", 100_000, "--patience", 100_000)
    first = popen(argv)
    assert any(line.startswith("Epoch: 1,") for line in iter(first.stdout.readline, ""))
    status, log, errors = run(argv)
    assert status == 1
    assert errors.startswith(f"error: another run is training MLPAE in {tmp_path / 'models'}: ")
    assert "--output-root" in errors
    assert not any(line.startswith("Epoch") for line in log.splitlines())
    assert first.poll() is None
    first.kill()
    first.communicate()
    status, log, _ = run(command("MLPAE", tmp_path, tiny_flowers, tiny_mnist, "--epochs", 1))
    assert (status, log.splitlines()[-1][:15]) == (0, "Best Valid Loss")  # a killed run's lock is gone with it


@pytest.mark.parametrize(
    ("main", "flags", "changed", "named"),
    [
        (train_script.main, ["--model", "AE"], ["--encoding-dim", "16"], "encoding_dim was 8, now 16"),
        (train_script.main, ["--model", "AE"], ["--image-size", "12"], "img_height was 8, now 12"),
        (train_script.main, ["--model", "VAE"], ["--optimizer", "sgd"], "optimizer was adam, now sgd"),
        (train_script.main, ["--model", "VAE"], ["--beta", "2"], "beta was 1.0, now 2.0"),
    ],
)
def test_resume_with_other_settings_is_refused(main, flags, changed, named, tiny_flowers, tmp_path):
    flags += ["--data-root", str(tiny_flowers), "--output-root", str(tmp_path), "--epochs", "1"]
    flags += ["--image-size", "8", "--encoding-dim", "8"]
    main(flags)
    with pytest.raises(UserError, match=rf"cannot resume .*LastModel_.*: .*{named}.*leave out --resume"):
        main([*flags, *changed, "--resume"])


def test_resume_with_other_images_or_another_model_is_refused(tiny_flowers, tmp_path):
    flags = ["--output-root", str(tmp_path), "--epochs", "1", "--image-size", "8"]
    train_script.main(["--model", "AE", "--data-root", str(tiny_flowers), *flags])
    with pytest.raises(UserError, match="data was flowers .*, now synthetic flowers .*leave out --resume"):
        train_script.main(["--model", "AE", "--data", "synthetic", *flags, "--resume"])
    for kind in ("Last", "Best"):
        shutil.copy(tmp_path / "models" / f"{kind}Model_AE.pth", tmp_path / "models" / f"{kind}Model_VAE.pth")
    with pytest.raises(UserError, match="model was AE, now VAE"):
        train_script.main(["--model", "VAE", "--data-root", str(tiny_flowers), *flags, "--epochs", "1", "--resume"])


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (MLPAE_train_script.main, ["--lr", "1e300"]),  # at 1e6 the sigmoid saturates, and the loss stays finite
        (train_script.main, ["--model", "AE", "--lr", "1e6", "--image-size", "8"]),
        (train_script.main, ["--model", "VAE", "--lr", "1e6", "--image-size", "8"]),
        *[(main.main, ["--model", name, "--lr", "1e6", "--hidden-size", "16"]) for name in ("AE", "VAE", "CVAE")],
    ],
)
def test_a_loss_that_is_not_finite_stops_at_its_batch(main, flags, tiny_flowers, tiny_mnist, tmp_path):
    data_root = tiny_mnist if "--hidden-size" in flags else tiny_flowers
    flags = [*flags, "--data-root", str(data_root), "--output-root", str(tmp_path), "--epochs", "50"]
    with pytest.raises(UserError, match=r"epoch \d+, (training|validation), batch \d+: the loss is (nan|inf); .*--lr"):
        main([*flags, "--patience", "50"])
    for path in (tmp_path / "models").glob("BestModel_*"):
        assert load_checkpoint(path, made_by="test")["epoch"] >= 1


def test_a_log_that_nobody_reads_does_not_stop_the_training(tiny_flowers, tiny_mnist, tmp_path):
    process = popen(command("MLPAE", tmp_path, tiny_flowers, tiny_mnist, "--epochs", 20))
    assert process.stdout.readline().startswith("Data: ")
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0
    assert "Traceback" not in errors
    assert "warning: standard output is closed, there is no log from here on" in errors
    assert (tmp_path / "vis" / "loss_MLPAE.png").exists()
    assert load_checkpoint(tmp_path / "models" / "LastModel_MLPAE.pkl", made_by="test")["history"][-1]["epoch"] == 20


def test_standard_streams_that_are_closed_or_full(tiny_flowers, tiny_mnist, tmp_path):
    argv = command("MLPAE", tmp_path, tiny_flowers, tiny_mnist, "--epochs", 1)
    shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *argv]
    assert run(shell) == (0, "", "")
    assert (tmp_path / "models" / "BestModel_MLPAE.pkl").exists()
    status, _, errors = run(["sh", "-c", '"$@" > /dev/full', "sh", *argv])
    assert (status, errors) == (1, "error: cannot write the log to standard output (No space left on device)\n")


def test_any_terminal_folder_and_language(tiny_flowers, tiny_mnist, tmp_path):
    root = tmp_path / "a folder with spaces" / "花"
    argv = command("MLPAE", root, tiny_flowers, tiny_mnist, "--epochs", 1)
    bare = {"LANG": "C", "LC_ALL": "C", "PATH": os.environ["PATH"], "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, log, errors = run(argv, env=bare, cwd="/")
    assert (status, "Traceback" in errors) == (0, False)
    assert log.splitlines()[-1].endswith("saved to models/BestModel_MLPAE.pkl")
    assert (root / "models" / "BestModel_MLPAE.pkl").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_output_root_that_is_a_file_is_status_2(name, tiny_flowers, tiny_mnist, tmp_path):
    (tmp_path / "file").write_text("")
    status, log, errors = run(command(name, tmp_path / "file", tiny_flowers, tiny_mnist))
    assert (status, log) == (2, "")
    assert "argument --output-root: " in errors.splitlines()[-1]
    assert "file is a file, expected a folder" in errors.splitlines()[-1]


def test_memory_grows_with_the_images_alone(tiny_flowers, tmp_path):
    """The data at 48x48, read and gone through; what PyTorch needs to train varies by 30 MB from run to run."""
    peaks = []
    for times in (43, 6 * 43):  # 2,580 images, and six times as many
        root = tmp_path / str(times)
        for image in tiny_flowers.rglob("*.png"):
            (root / image.parent.name).mkdir(parents=True, exist_ok=True)
            for copy in range(times):
                (root / image.parent.name / f"{image.stem} {copy}.png").symlink_to(image)
        watch = "import resource, sys; from data import create_flower_dataloaders as create;"
        watch += "print([len(images) for loader in create(16, sys.argv[1], 48, 48) for images, _ in loader][0]);"
        watch += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
        done = subprocess.run([sys.executable, "-c", watch, str(root)], cwd=PROJECT, capture_output=True, text=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 1.1 * (5 * 43 * 60 * 3 * 48 * 48)
