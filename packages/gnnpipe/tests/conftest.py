"""What several files of tests need."""

import jaxtyping
import pytest


@pytest.fixture
def untyped(monkeypatch):
    """Let wrong types reach our own refusals: annotations that are executed refuse them first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
