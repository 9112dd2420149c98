"""Playgrounds as processes of their own, which end with the tests."""

import pytest
from playing import start, stop


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A playground with the shipped models, one for all tests."""
    server = start(tmp_path_factory.mktemp("playground"))
    yield server
    stop(server)


@pytest.fixture
def bare_server(tmp_path):
    """A playground without models, whose output root is "no models" below tmp_path; the test may stop it."""
    (tmp_path / "temporary").mkdir()
    server = start(tmp_path / "temporary", "--output-root", tmp_path / "no models")
    yield server
    if server.process.poll() is None:
        stop(server)
