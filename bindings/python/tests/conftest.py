"""What the tests share: the real demo model, and data folders with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from thumbprint import EngineOptions, GenerateOptions, Thumbprint

# One thread: two that wait for one another are slow on a machine that has other things to do.
ENGINE = EngineOptions(n_ctx=1024, n_threads=1)
SHORT = GenerateOptions(max_tokens=12, temperature=0, seed=1)
MEDIUM = GenerateOptions(max_tokens=96, temperature=0, seed=1)
LONG = GenerateOptions(max_tokens=400, temperature=0, seed=1)


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return Path(os.environ["THUMBPRINT_TEST_MODEL"])


@pytest.fixture
def tp(tmp_path: Path, model: Path) -> Iterator[Thumbprint]:
    """A data folder of its own."""
    with Thumbprint(tmp_path / "data", model=model, engine=ENGINE) as thumbprint:
        yield thumbprint
