"""What the manual and the example show works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from conftest import ENGINE
from thumbprint import AdapterState, Budget, Thumbprint

PACKAGE = Path(__file__).resolve().parents[1]
MANUAL = PACKAGE.parents[1] / "docs" / "python.md"


def run_snippets(page: Path) -> int:
    """Runs the page's blocks marked `python`, one after the other, in the working folder; tells how many there are."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": "manual"}
    snippets = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    # Whoever opens a folder first says how its model is run: here on one thread, as in the other tests.
    with Thumbprint("data", engine=ENGINE):
        for snippet in snippets:
            # So that a traceback names the line of the page.
            before = text[: snippet.start(1)].count("\n")
            exec(compile("\n" * before + snippet[1], str(page), "exec"), names)
    return len(snippets)


def test_the_manuals_snippets_run_one_after_the_other(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert run_snippets(MANUAL) > 8


def test_the_readmes_snippet_runs(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.gguf").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    assert run_snippets(PACKAGE / "README.md") == 1
    # One thumb is too few.
    assert "NothingToLearn(" in capsys.readouterr().out


@pytest.mark.example
def test_the_example_teaches_learns_and_tells_whether_it_got_better(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(PACKAGE / "examples" / "loop.py"))
    folder = tmp_path / "data"
    budget = Budget(n_threads=1)
    example["main"](str(model), str(folder), example["ASKED"][:12], example["UNSEEN"][:6], ENGINE, budget)
    out = capsys.readouterr().out
    assert "train" in out and "gate" in out

    with Thumbprint(folder, model=model) as tp:
        # Three replies to each question got a thumb.
        assert tp.readiness().have.events == 36
        (adapter,) = tp.adapters()
        assert adapter.state in (AdapterState.TRIAL, AdapterState.PROMOTED, AdapterState.ROLLED_BACK, AdapterState.REJECTED)
        # It came to a trial, or was rejected, and why was told.
        decision = adapter.decisions[0]
        assert decision.kind in ("offline: trial", "offline: rejected")
        assert decision.explanation and decision.explanation in out
        assert adapter.explanation in out
        (pair,) = tp.arena_results().pairs
        assert (pair.a, pair.b, pair.votes) == (adapter.id, None, 6)
        assert f"{pair.win_rate:.0%} of 6 blind votes on questions that were never asked: " in out
        assert re.search(r"never asked: (better|worse|as good)", out)
