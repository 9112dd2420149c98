"""The flags that scripts share, and how a script ends."""

import io
import os
import re
import signal
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from training import UserError, flags
from training.script import log, run_script, warn_of_waiting


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
    """What `run_script` and `parse_first` change in a process is put back."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handlers = {stop: signal.signal(stop, signal.default_int_handler) for stop in (signal.SIGINT, signal.SIGTERM)}
    with warnings.catch_warnings():
        yield
    for stop, handler in handlers.items():
        signal.signal(stop, handler)


def make_parser():
    parser = flags.make_parser("Train.", {"AE": {"epochs": 15, "batch_size": 16, "beta": None}, "VAE": {"epochs": 20}})
    flags.add_data_flags(parser)
    flags.add_training_flags(parser, epochs=10, batch_size=4, lr=0.5, patience=3)
    flags.add_torch_flags(parser)
    parser.add_argument("--size", type=flags.multiple_of_4)
    return parser


def test_flags_have_their_types_and_defaults():
    argv = f"--epochs {2**63 - 1} --seed 0 --lr 1e-3 --size 12 --resume --output-root new".split()
    expected = {"epochs": 2**63 - 1, "seed": 0, "lr": 0.001, "patience": 3, "size": 12, "resume": True, "amp": False}
    assert vars(make_parser().parse_args(argv)).items() > {**expected, "output_root": Path("new")}.items()


WRONG = [
    *[f"--epochs {value}" for value in (0, -1, "x", 1.5, 2**63)],
    *[f"--lr {value}" for value in ("nan", 0, "inf", -1, "x")],
    *["--size 6", "--size 0", "--seed -1", "--batch-size -3", "--patience 0", "--data fake", "--no-such-flag"],
    f"--output-root {__file__}",
]


@pytest.mark.parametrize("argv", WRONG)
def test_wrong_arguments_are_status_2_and_named(argv, capsys):
    with pytest.raises(SystemExit) as status:
        make_parser().parse_args(argv.split(maxsplit=1))
    assert status.value.code == 2
    assert argv.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_defaults_that_depend_on_other_flags_are_found_and_said():
    first = flags.peek(["--epochs", "x", "--mod", "VAE", "--unknown"], "model", "optimizer")
    assert vars(first) == {"model": "VAE", "optimizer": None}
    text = make_parser().format_help()
    assert "AE: --epochs 15, --batch-size 16\n  VAE: --epochs 20\n" in text
    assert re.search(r"learning rate.*\(default: 0.5\)[\s\S]*--seed.*\(default: 0\)", text)
    assert not re.search("None|False", text)


def test_a_ctrl_c_in_the_slow_imports_after_the_flags_is_130_without_a_traceback(capsys):
    flags.parse_first(lambda: None)
    with pytest.raises(SystemExit) as status:
        signal.raise_signal(signal.SIGINT)
    assert (status.value.code, capsys.readouterr()) == (130, ("", ""))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job
    flags.parse_first(lambda: None)
    run_script(lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def status_of(failure):
    """What a script ends with that raises this error, or calls this: a status, or the line printed for status 1."""
    with pytest.raises(SystemExit) as status:
        run_script(Mock(side_effect=failure))
    return status.value.code


def test_what_the_user_can_mend_is_one_line():
    assert run_script(lambda: None) is None
    assert warnings.formatwarning("torn\nline", UserWarning, "a.py", 1) == "warning: torn line\n"
    assert status_of(UserError("mend\nit")) == "error: mend it"
    closed = status_of(PermissionError(13, "Permission denied", "/a/closed\nfolder"))
    assert re.fullmatch(r"error: .*/a/closed folder \(Permission denied\)", closed)
    of_a_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory")
    for error in (MemoryError("Unable to allocate"), of_a_gpu, RuntimeError("Storage size calculation overflowed")):
        assert re.fullmatch("error: not enough memory.*smaller batches.*", status_of(error))


@pytest.mark.parametrize("error", [RuntimeError("illegal memory access"), OSError(5, "I/O"), FileNotFoundError(2, "x")])
def test_a_fault_of_ours_is_not_hidden(error):
    with pytest.raises(type(error), match=re.escape(str(error))):
        status_of(error)


def test_a_stop_is_130_or_143_and_says_what_is_saved(capsys):
    assert status_of(KeyboardInterrupt("stopped after epoch 3")) == 130
    assert status_of(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert status_of(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "stopped after epoch 3\nstopped\nstopped\n"


def test_one_of_several_processes_says_which_it_is_and_leaves_the_log_to_rank_0(monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert status_of(UserError("mend it")) == "error in process 1 of 2: mend it"
    assert re.match("error in process 1 of 2: another process .* ended", status_of(RuntimeError("closed by peer")))
    assert status_of(KeyboardInterrupt("stopped")) == 130
    log("Epoch: 1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("environment", "cores", "expected"),
    [
        ({}, 1.0, flags.SPIN_COUNT),
        ({}, 0.1, None),
        ({"GOMP_SPINCOUNT": "7"}, 1.0, "7"),
        ({"OMP_WAIT_POLICY": "active"}, 1.0, None),
    ],
)
def test_beside_another_program_waiting_threads_sleep_soon(environment, cores, expected, monkeypatch):
    monkeypatch.setattr("os.environ", dict(environment))
    monkeypatch.setattr(flags, "cores_in_use", lambda: cores)
    flags.parse_first(lambda: None)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_cores_that_others_use_are_measured(monkeypatch):
    """A tick of the clock is a hundredth of a second; the rest of two cores' time in 0.1 s is used."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.sysconf", {"SC_CLK_TCK": 100}.get)
    monkeypatch.setattr("time.perf_counter", Mock(side_effect=[0.0, 0.1]))
    lines = ["cpu  5 0 5 100 1 0 0 0 0 0", "cpu  15 0 5 109 2 0 0 0 0 0"]
    monkeypatch.setattr("builtins.open", Mock(side_effect=map(io.StringIO, lines)))
    assert flags.cores_in_use() == pytest.approx(1.0)
    monkeypatch.setattr("builtins.open", Mock(side_effect=FileNotFoundError))
    monkeypatch.setattr("time.perf_counter", Mock(return_value=0.0))
    assert flags.cores_in_use() == 0


@pytest.mark.parametrize(
    ("spin_count", "threads", "device", "cpu", "warned"),
    [
        (None, 2, "cpu", 13.0, True),
        (None, 2, "cpu", 19.5, False),
        ("100", 2, "cpu", 9.8, True),
        ("100", 2, "cpu", 15.0, False),
        (None, 1, "cpu", 5.0, False),
        (None, 2, "cuda:0", 5.0, False),
    ],
)
def test_threads_that_wait_for_each_other_are_warned_of(spin_count, threads, device, cpu, warned, monkeypatch):
    """Process times of an epoch of ten seconds."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.environ", {"GOMP_SPINCOUNT": spin_count} if spin_count else {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("time.perf_counter", Mock(side_effect=[0.0, 10.0]))
    monkeypatch.setattr("time.process_time", Mock(side_effect=[0.0, cpu]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with warn_of_waiting(device):
            pass
    assert [f"{threads} threads wait" in str(warning.message) for warning in caught] == [True] * warned
    assert not caught or "OMP_NUM_THREADS=1" in str(caught[0].message)


def test_a_model_is_known_in_any_case():
    parser = flags.make_parser("Train.")
    flags.add_model_flag(parser, ("AE", "Classifier"), "which")
    assert [parser.parse_args(["--model", name]).model for name in ("ae", "classifier")] == ["AE", "Classifier"]
