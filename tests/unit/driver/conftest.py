"""What tests of the study as plain Python share."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture
def in_the_repository(monkeypatch):
    """Paths of the configuration are read from here."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def smoke():
    """The smoke study's configuration, as it is written."""
    return yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
