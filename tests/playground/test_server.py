"""The playground as a server: what it answers, what it keeps to itself, how it ends."""

import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from html import unescape

import pytest
from helpers import command, run
from playing import bar, encoded, free_port, needs_gradio, stop, url_of

import playground
from evaluation.models import TABLE, training_command
from training import PROJECT, UserError

pytestmark = pytest.mark.xdist_group("playground")
SECRETS = ("README.md", "playground.py", "models/BestModel_AE.pth", "log/train_AE.txt", "vis/loss_AE.png")


def fetch(url, data=None, **headers):
    """(status, body) of a request, a POST of JSON where there are data."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(server, name, *data):
    """The events of a function that is answered through the queue."""
    event = json.loads(fetch(f"{server.url}/gradio_api/call/{name}", {"data": data})[1])["event_id"]
    return fetch(f"{server.url}/gradio_api/call/{name}/{event}")[1].decode()


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"^the playground needs Gradio: pip install -r requirements-playground.txt$"):
        playground.main(["--port", str(free_port())])
    assert "gradio" in (PROJECT / "requirements-playground.txt").read_text()
    assert "gradio" not in (PROJECT / "requirements.txt").read_text()


@pytest.mark.parametrize("flags", ["--port 0", "--port 65536", "--port x", "--share", "--output-root README.md"])
def test_wrong_flags_are_status_2(flags, monkeypatch):
    monkeypatch.chdir(PROJECT)
    with pytest.raises(SystemExit) as stop:
        playground.main(flags.split())
    assert stop.value.code == 2


def test_an_address_that_is_not_to_be_had_is_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, out, err = run(command("playground.py", "--port", port))
    assert (status, out) == (1, "")
    assert re.fullmatch(rf"error: cannot listen on 127.0.0.1, port {port} \(.*\): try another --port.*\n", err)
    with pytest.raises(UserError, match="cannot listen on no such host"):
        playground.check_address("no such host", 7860)


@needs_gradio
def test_a_stroke_is_answered_and_nonsense_is_a_sentence(server):
    answer = f"{server.url}/gradio_api/run/answer"
    status, body = fetch(answer, {"data": [url_of(bar()), "guess"]})
    assert (status, json.loads(body)["data"][0].count("<img")) == (200, 14)
    status, body = fetch(answer, {"data": ["hello", "guess"]})
    assert status == 200
    assert "This is no drawing" in json.loads(body)["data"][0]


@needs_gradio
def test_the_ddpm_answers_step_by_step(server):
    events = call(server, "sample", "DDPM", "calendula", "normal", 1, 1, 0)
    steps = [int(step) for step in re.findall(r"Step (\d+):", events)]
    assert sorted({*steps}) == list(range(1, max(steps) + 1))
    assert max(steps) > 10
    assert "event: complete" in events


@needs_gradio
def test_no_file_of_the_machine_can_be_read(server):
    climb, encoded_climb = "../" * 12, "%2e%2e%2f" * 12
    paths = [f"{PROJECT}/{name}" for name in SECRETS] + ["/etc/passwd"]
    paths += [
        way + path.lstrip("/") for way in (climb, encoded_climb, encoded_climb.replace("%", "%25")) for path in paths
    ]
    paths += [*SECRETS, *(f"./{name}" for name in SECRETS), *(f"..%2f{PROJECT.name}%2f{name}" for name in SECRETS)]
    secrets = [(PROJECT / name).read_bytes() for name in SECRETS] + [b"root:"]
    for route in ("", "file=", "gradio_api/file=", "gradio_api/file/", "static/", "assets/", "gradio_api/stream/"):
        for path in paths:
            status, body = fetch(f"{server.url}/{route}{path}")
            assert status in (400, 403, 404, 405, 422), (route, path, status)
            assert not any(secret[:100] in body for secret in secrets)
    for route in ("gradio_api/proxy=http://127.0.0.1/", "gradio_api/runs", "monitoring", "gradio_api/mcp/"):
        assert fetch(f"{server.url}/{route}")[0] in (400, 403, 404, 405), route
    assert str(PROJECT).encode() not in fetch(f"{server.url}/config")[1]


@needs_gradio
@pytest.mark.parametrize("path", [f"{PROJECT}/vis/train_AE.png", "/etc/passwd", "http://127.0.0.1:9/x.png"])
def test_no_file_of_the_machine_is_taken_for_an_upload(path, server):
    config = json.loads(fetch(f"{server.url}/config")[1])
    upload = next(part["id"] for part in config["components"] if part["type"] == "uploadbutton")
    event = next(part for part in config["dependencies"] if upload in part["inputs"])
    data = [None, "first", {"path": path, "meta": {"_type": "gradio.FileData"}}]
    events = call(server, event["api_name"], *data)
    assert "event: error" in events
    assert "<img" not in events


@needs_gradio
def test_it_listens_on_this_machine_alone(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but finds the address that others see
        except OSError:
            pytest.skip("this machine has no other address")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError), socket.create_connection((address, server.port), timeout=5):
        pass


@needs_gradio
def test_without_models_each_tab_says_what_trains_them_and_the_end_deletes_uploads(bare_server, tmp_path):
    server, root = bare_server, tmp_path / "no models"
    page = unescape(fetch(f"{server.url}/config")[1].decode())
    for name in TABLE:
        if name != "Classifier" and "_given" not in name:
            assert f"<code>{training_command(name, root)}</code>" in page
    boundary = "limit"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'.encode()
    body = part + encoded("PNG") + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{server.url}/gradio_api/upload", body)
    request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
    (path,) = json.loads(urllib.request.urlopen(request).read())
    assert os.path.exists(path)
    assert path.startswith(str(server.temporary))
    status, out, err = stop(server)
    assert (status, err) == (130, "stopped\n")
    assert out == f"The playground is at {server.url}/ until Ctrl-C\n"
    assert [*server.temporary.iterdir()] == []
