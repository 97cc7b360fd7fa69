"""What the manual and the example show works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_example_learns_to_be_short(tmp_path: Path, model: Path) -> None:
    command = [sys.executable, str(PACKAGE / "examples" / "loop.py"), str(model), str(tmp_path / "data")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(out[-600:])
    assert "train" in out and "gate" in out
    match = re.search(r"(\d+) before, (\d+) after", out)
    assert match
