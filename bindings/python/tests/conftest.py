"""What the tests share: the real demo model, and data folders with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from thumbprint import Down, EngineOptions, GenerateOptions, Recipe, Thumbprint, Up

# One thread: two that wait for one another are slow on a machine that has other things to do.
ENGINE = EngineOptions(n_ctx=1024, n_threads=1)
SHORT = GenerateOptions(max_tokens=12, temperature=0, seed=1)
MEDIUM = GenerateOptions(max_tokens=96, temperature=0, seed=1)
LONG = GenerateOptions(max_tokens=400, temperature=0, seed=1)

# Without the base's own replies beside the feedback, which take minutes to be written.
BRIEF = Recipe(settings_json='{"west_of_n": null, "folds_from": 0}')
THINGS = ["tea", "rain", "chess", "bread", "the moon", "running", "cats", "paper", "glass", "salt", "wool", "trains"]
LONG_ANSWER = (
    "Well, that is a very interesting question, and there are many things that one could say about it. First of all, it is "
    "important to note that there are many different opinions. Secondly, it is important to note that opinions change."
)


def teach(tp: Thumbprint) -> None:
    """Twelve thumbs of somebody who likes short answers."""
    for n, thing in enumerate(THINGS):
        short = n % 2 == 0
        answer = f"It is {thing}, of course." if short else LONG_ANSWER
        tp.record_external(f"What is {thing}?", answer, Up() if short else Down())


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return Path(os.environ["THUMBPRINT_TEST_MODEL"])


@pytest.fixture
def tp(tmp_path: Path, model: Path) -> Iterator[Thumbprint]:
    """A data folder of its own."""
    with Thumbprint(tmp_path / "data", model=model, engine=ENGINE) as thumbprint:
        yield thumbprint
