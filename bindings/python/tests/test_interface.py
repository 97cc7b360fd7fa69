"""The interface that Kotlin, Swift and Python are generated from changes only together with its record and a line in the changelog."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from thumbprint import _ffi

ROOT = Path(__file__).resolve().parents[3]
RECORD = ROOT / "ffi" / "interface.txt"
CHANGELOG = ROOT / "CHANGELOG.md"
WHAT_TO_DO = "run `make interface`, which records it under a new number, and add a line with that number to CHANGELOG.md"


def interface() -> str:
    """Every name, field and signature of the generated module, one a line."""
    generated = Path(_ffi.__file__).parent / "thumbprint_ffi.py"
    tree = ast.parse(generated.read_text())
    exported = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    lines: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in exported:
            lines += members(node, "")
        elif isinstance(node, ast.FunctionDef) and node.name in exported:
            lines.append(signature(node, ""))
    return "\n".join(dict.fromkeys(lines)) + "\n"


def members(node: ast.ClassDef, inside: str) -> list[str]:
    name = inside + node.name
    lines = [f"class {name}({', '.join(ast.unparse(base) for base in node.bases)})"]
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            lines += members(child, f"{name}.")
        elif isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_")):
            lines.append(signature(child, f"{name}."))
        elif isinstance(child, ast.Assign):
            lines.append(f"{name}.{ast.unparse(child)}")
    return lines


def signature(node: ast.FunctionDef, inside: str) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {inside}{node.name}({ast.unparse(node.args)}){returns}"


def recorded() -> tuple[int, str]:
    """Number and text of the record; 0 if there is none."""
    if not RECORD.exists():
        return 0, ""
    first, _, text = RECORD.read_text().partition("\n")
    match = re.fullmatch(r"# Interface (\d+).*", first)
    assert match, f"{RECORD} does not begin with its number"
    return int(match[1]), text


def test_the_interface_is_the_recorded_one() -> None:
    number, text = recorded()
    now = interface()
    if os.environ.get("THUMBPRINT_RECORD_INTERFACE") and now != text:
        number += 1
        RECORD.write_text(f"# Interface {number}. Written by `make interface` from what uniffi generates for Python.\n{now}")
        text = now
    assert now == text, WHAT_TO_DO


def test_the_changelog_tells_of_the_recorded_interface() -> None:
    number, _ = recorded()
    assert re.search(rf"\bInterface {number}\b", CHANGELOG.read_text()), WHAT_TO_DO
