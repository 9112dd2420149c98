"""One playground for all tests, as a process of its own."""

import pytest
from playing import start, stop


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A playground with the shipped models."""
    server = start(tmp_path_factory.mktemp("playground"))
    yield server
    if server.process.poll() is None:
        stop(server)
