"""How a script ends, and what happens to its log and its messages where streams are closed, full or replaced."""

import contextlib
import io
import os
import pty
import re
import signal
import sys
import warnings
from unittest.mock import Mock

import pytest
import torch

from common import UserError
from common.process import log, progress, run_script, say, warn_of_waiting


def raises(error):
    """A main() that raises this error."""
    return Mock(side_effect=error)


def test_an_error_that_the_user_can_fix_is_one_line(status_of):
    texts = []
    assert run_script(lambda: texts.append(warnings.formatwarning("torn\nline", UserWarning, "a.py", 1))) is None
    assert texts == ["warning: torn line\n"]
    assert status_of(raises(UserError("fix\nit"))) == "error: fix it"
    closed = status_of(raises(PermissionError(13, "Permission denied", "/a/closed\nfolder")))
    assert re.fullmatch(r"error: .*/a/closed folder \(Permission denied\)", closed)
    cuda_error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory")
    for error in (MemoryError("Unable to allocate"), cuda_error, RuntimeError("Storage size calculation overflowed")):
        assert re.fullmatch("error: not enough memory.*smaller batches.*", status_of(raises(error)))


@pytest.mark.parametrize("error", [RuntimeError("illegal memory access"), OSError(5, "I/O"), KeyError("x")])
def test_a_bug_of_ours_is_not_hidden(error, status_of):
    with pytest.raises(type(error), match=re.escape(str(error))):
        status_of(raises(error))


def test_a_stop_is_130_or_143_and_says_how_to_continue(status_of, capsys):
    assert status_of(raises(KeyboardInterrupt("stopped after epoch 3"))) == 130
    assert status_of(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert status_of(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "stopped after epoch 3\nstopped\nstopped\n"


def test_one_of_several_processes_names_itself_and_leaves_the_log_to_rank_0(status_of, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "test", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert status_of(raises(UserError("fix it"))) == "error in process 1 of 2: fix it"
    lost = status_of(raises(RuntimeError("closed by peer")))
    assert re.match("error in process 1 of 2: another process .* ended", lost)
    assert status_of(raises(KeyboardInterrupt("stopped"))) == 130
    log("Epoch: 1")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("threads", "device", "cpu", "warned"),
    [(2, "cpu", 13.0, 1), (2, "cpu", 19.5, 0), (1, "cpu", 5.0, 0), (2, "cuda", 5.0, 0)],
)
def test_threads_that_wait_for_each_other_are_warned_of(threads, device, cpu, warned, monkeypatch, recwarn):
    """Process times of an epoch of ten seconds."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("time.perf_counter", Mock(side_effect=[0.0, 10.0]))
    monkeypatch.setattr("time.process_time", Mock(side_effect=[0.0, cpu]))
    with warn_of_waiting(device):
        pass
    assert [str(warning.message).startswith("2 threads wait") for warning in recwarn] == [True] * warned
    assert all("OMP_NUM_THREADS=1" in str(warning.message) for warning in recwarn)


def without_reader():
    """A file whose reader has gone, as after `| head -1`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    return open(write_end, "w")


def test_a_log_that_nobody_reads_any_more_does_not_end_the_script(status_of, capfd, monkeypatch):
    for action in (lambda: print("Epoch: 1"), lambda: [log("Epoch: 1"), log("Epoch: 2")]):
        with without_reader() as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            run_script(action)
    assert capfd.readouterr().err == "warning: standard output is closed, there is no log from here on\n"


def test_a_log_that_cannot_be_written_is_an_error_of_one_line(status_of, monkeypatch):
    with open("/dev/full", "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        message = status_of(lambda: log("Epoch: 1"))
    assert message == "error: cannot write the log to standard output (No space left on device)"


def test_a_message_that_cannot_be_written_does_not_end_the_script_nor_enter_the_log(monkeypatch, capfd):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, without_reader(), open("/dev/full", "w")):  # noqa: SIM115
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            say("finished")
            warnings.showwarning("torn", UserWarning, "a.py", 1)
            assert list(progress([1, 2], "epoch 1")) == [1, 2]
        with contextlib.suppress(AttributeError, OSError):
            stream.close()
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_on_a_terminal_that_reports_no_size(monkeypatch):
    terminal, ours = pty.openpty()
    with open(ours, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert list(progress([1, 2], "epoch 1")) == [1, 2]
        assert b"epoch 1" in os.read(terminal, 1000)
    os.close(terminal)


def test_a_notebook_gets_its_handlers_back(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], warnings.formatwarning
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    with pytest.raises(SystemExit):
        run_script(lambda: signal.raise_signal(signal.SIGINT))
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], warnings.formatwarning
    assert after == before


def test_a_log_may_be_collected_in_the_process_or_be_of_another_encoding(status_of):
    with contextlib.redirect_stdout(io.StringIO()) as collected:
        run_script(lambda: log("Epoch: 花"))
    assert collected.getvalue() == "Epoch: 花\n"
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "cp1252")) as encoded:
        run_script(lambda: log("Epoch: 花"))
    assert encoded.buffer.getvalue() == b"Epoch: \\u82b1\n"
