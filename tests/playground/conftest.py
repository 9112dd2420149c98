"""A playground as a process of its own, which ends with the tests."""

import pytest
from playing import start, stop


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A playground with the committed models. At the end it deletes what was uploaded, and says no more than it should."""
    server = start(tmp_path_factory.mktemp("playground"))
    yield server
    assert stop(server) == (130, f"The playground is at {server.url}/ until Ctrl-C\n", "stopped\n")
    assert list(server.temporary.iterdir()) == []
