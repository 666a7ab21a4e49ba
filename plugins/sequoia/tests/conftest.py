"""A cache of their own for tests that measure or plan."""

import pytest


@pytest.fixture(autouse=True)
def cache(request, tmp_path_factory, monkeypatch):
    """Keep the user's own cache out of the tests, but for those of the real model."""
    if not request.node.get_closest_marker("model"):
        monkeypatch.setenv("FIVEFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
