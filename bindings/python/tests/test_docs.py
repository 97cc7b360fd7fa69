"""What the manual and the example show works."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from conftest import ENGINE

PACKAGE = Path(__file__).resolve().parents[1]
MANUAL = PACKAGE.parents[1] / "docs" / "python.md"


def test_the_manuals_snippets_run_one_after_the_other(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MANUAL.read_text()
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "manual"}
    snippets = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert len(snippets) > 8
    for snippet in snippets:
        # So that a traceback names the line of the manual.
        before = text[: snippet.start(1)].count("\n")
        exec(compile("\n" * before + snippet[1], str(MANUAL), "exec"), names)


@pytest.mark.example
def test_the_example_asks_learns_and_tells(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(PACKAGE / "examples" / "loop.py"))
    example["main"](str(model), str(tmp_path / "data"), example["ASKED"][:11], ENGINE)
    out = capsys.readouterr().out
    assert "train" in out and "gate" in out
    assert re.search(r"never asked: \d+ before, \d+ now", out)
