#!/usr/bin/env python3
"""What can be said of the Swift code without a Swift compiler; run by scripts/test-swift in a venv with tree-sitter-swift.

- every file parses, generated ones, the sample app's and the snippets of the manuals included;
- every name of the generated module that the hand-written code uses is there, with those argument labels.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter_swift
from tree_sitter import Language, Node, Parser

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "bindings" / "swift" / "Sources" / "ThumbprintFFI" / "ThumbprintFFI.swift"
HAND_WRITTEN = ROOT / "bindings" / "swift" / "Sources" / "ThumbprintKit"
MANUALS = [ROOT / "docs" / "swift.md", ROOT / "docs" / "ios.md"]
PARSER = Parser(Language(tree_sitter_swift.language()))


def main() -> int:
    problems = []
    files = swift_files()
    for path in [*files, GENERATED]:
        problems += [f"{path.relative_to(ROOT)}:{problem}" for problem in syntax_errors(path.read_text())]
    snippets = 0
    for manual in MANUALS:
        for line, text in swift_snippets(manual.read_text()):
            snippets += 1
            problems += [f"{manual.relative_to(ROOT)}, snippet at line {line}:{p}" for p in syntax_errors(text)]
    interface = Interface.of(GENERATED.read_text())
    uses = 0
    for path in sorted(HAND_WRITTEN.glob("*.swift")):
        found, count = check_uses(path.read_text(), interface)
        uses += count
        problems += [f"{path.relative_to(ROOT)}:{problem}" for problem in found]
    for problem in problems:
        print(problem)
    print(
        f"check_swift: {len(files) + 1} files and {snippets} snippets parsed, {uses} uses of generated names checked, {len(problems)} problems"
    )
    return 1 if problems else 0


def swift_files() -> list[Path]:
    """The repository's own, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.swift"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def swift_snippets(markdown: str) -> list[tuple[int, str]]:
    """Snippets with the line of the page that each begins on."""
    blocks = re.finditer(r"^```swift(?: \w+)?\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    return [(markdown[: block.start(1)].count("\n") + 1, block[1]) for block in blocks]


def parse(text: str) -> Node:
    return PARSER.parse(as_the_grammar_knows_it(text).encode()).root_node


def as_the_grammar_knows_it(text: str) -> str:
    """Blanks what uniffi generates and the grammar does not know: an attribute alone in a conditional block, a closure that gives ()."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    text = re.sub(r"^#if swift\(>=5\.8\)\n *@_documentation\(visibility: private\)\n#endif$", blank, text, flags=re.MULTILINE)
    return text.replace("= { () }", "= {    }")


def syntax_errors(text: str) -> list[str]:
    """One line for each place that does not parse."""
    errors = []
    nodes = [parse(text)]
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            words = (node.text or b"").decode(errors="replace").split("\n")[0][:60]
            errors.append(f"{node.start_point[0] + 1}: does not parse at {words!r}")
        else:
            nodes += [child for child in node.children if child.has_error or child.is_missing]
    return errors


# ---- names ----


@dataclass(frozen=True)
class Parameter:
    label: str | None
    optional: bool


@dataclass
class Type:
    properties: set[str] = field(default_factory=set)
    functions: dict[str, list[list[Parameter]]] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)


@dataclass
class Interface:
    """What the generated module offers: types with their members, and functions."""

    types: dict[str, Type]
    functions: dict[str, list[list[Parameter]]]

    @classmethod
    def of(cls, text: str) -> Interface:
        interface = cls({}, {})
        for node in parse(text).children:
            if node.type in ("class_declaration", "protocol_declaration"):
                interface.add_type(node)
            elif node.type == "function_declaration":
                interface.functions.setdefault(name_of(node), []).append(parameters_of(node))
        return interface

    def add_type(self, node: Node) -> None:
        of_type = self.types.setdefault(name_of(node), Type())
        body = node.child_by_field_name("body")
        for member in body.children if body else []:
            if member.type in ("function_declaration", "protocol_function_declaration", "init_declaration"):
                of_type.functions.setdefault(name_of(member), []).append(parameters_of(member))
            elif member.type in ("property_declaration", "protocol_property_declaration"):
                of_type.properties.add(text_of(member.child_by_field_name("name")))
            elif member.type == "enum_entry":
                contents = member.child_by_field_name("data_contents")
                of_type.cases[name_of(member)] = 0 if contents is None else sum(c.type == ":" for c in contents.children)

    def called(self, target: str, name: str) -> list[list[Parameter]]:
        """Signatures of what `target.name(...)` may call."""
        if target == "ThumbprintFFI":
            constructors = self.types[name].functions.get("init", []) if name in self.types else []
            return constructors + self.functions.get(name, [])
        if target.startswith("ThumbprintFFI."):
            of_type = self.types.get(target.removeprefix("ThumbprintFFI."), Type())
            return of_type.functions.get(name, [])
        # An object of the module, of whichever type.
        return [signature for of_type in self.types.values() for signature in of_type.functions.get(name, [])]


# What objects of the module are called in the hand-written code.
OBJECTS = {"inner", "handle", "job.inner", "self.inner", "owner.inner"}


def check_uses(text: str, interface: Interface) -> tuple[list[str], int]:
    """Problems with what a file uses of the module, and how many uses were looked at."""
    problems = []
    count = 0
    for node in descendants(parse(text)):
        where = f"{node.start_point[0] + 1}: "
        if node.type == "user_type" and text_of(node).startswith("ThumbprintFFI."):
            count += 1
            name = text_of(node).removeprefix("ThumbprintFFI.").split(".")[0]
            if name not in interface.types:
                problems.append(f"{where}there is no type {name}")
        elif node.type == "call_expression" and (call := call_of(node)):
            target, name, labels = call
            if target == "ThumbprintFFI" or target.startswith("ThumbprintFFI.") or target in OBJECTS:
                count += 1
                signatures = interface.called(target, name)
                if not signatures:
                    problems.append(f"{where}there is no {target}.{name}")
                elif not any(fits(labels, signature) for signature in signatures):
                    problems.append(f"{where}{target}.{name} has other labels than {labels}")
        elif node.type == "init_declaration":
            found, looked = check_conversion(node, interface)
            problems += found
            count += looked
    return problems, count


def check_conversion(node: Node, interface: Interface) -> tuple[list[str], int]:
    """An initializer that takes a value of the module: fields that it reads, and cases that it tells apart."""
    problems = []
    count = 0
    for parameter in node.children:
        if parameter.type != "parameter":
            continue
        words = text_of(parameter)
        match = re.fullmatch(r"_ (\w+): ThumbprintFFI\.(\w+)", words)
        if not match or match[2] not in interface.types:
            continue
        value, of_type = match[1], interface.types[match[2]]
        body = node.child_by_field_name("body")
        for inside in descendants(body) if body else []:
            where = f"{inside.start_point[0] + 1}: "
            if inside.type == "navigation_expression" and text_of(inside.child_by_field_name("target")) == value:
                count += 1
                name = text_of(inside.child_by_field_name("suffix")).removeprefix(".")
                if name not in of_type.properties and name not in of_type.functions:
                    problems.append(f"{where}{match[2]} has no {name}")
            elif inside.type == "switch_statement" and text_of(inside.child_by_field_name("expr")) == value:
                told = {}
                for pattern in descendants(inside):
                    if pattern.type == "switch_pattern":
                        case = re.match(r"\.(\w+)(.*)", text_of(pattern), re.DOTALL)
                        if case:
                            told[case[1]] = len(re.findall(r"\blet\b", case[2]))
                count += len(told)
                for name in sorted(told.keys() ^ of_type.cases.keys()):
                    problems.append(f"{where}case {name} of {match[2]} is on one side only")
                for name in sorted(told.keys() & of_type.cases.keys()):
                    if told[name] != of_type.cases[name]:
                        problems.append(f"{where}case {name} of {match[2]} has {of_type.cases[name]} values, not {told[name]}")
    return problems, count


def call_of(node: Node) -> tuple[str, str, list[str | None]] | None:
    """Target, name and labels of `target.name(label: ...)`."""
    callee = node.children[0]
    # `try a.b(...)`, which the grammar takes apart elsewhere.
    if callee.type == "navigation_expression":
        target = callee.child_by_field_name("target")
        while target is not None and target.type == "try_expression":
            target = target.child_by_field_name("expr")
        suffix = node.children[-1]
        arguments = next((child for child in suffix.children if child.type == "value_arguments"), None)
        if target is None or arguments is None:
            return None
        labels: list[str | None] = []
        for argument in arguments.children:
            if argument.type == "value_argument":
                name = argument.child_by_field_name("name")
                labels.append(text_of(name) if name is not None else None)
        return text_of(target), text_of(callee.child_by_field_name("suffix")).removeprefix("."), labels
    return None


def fits(labels: list[str | None], signature: list[Parameter]) -> bool:
    """Whether a call with these labels, in this order, is one of the signature's."""
    rest = list(labels)
    for parameter in signature:
        if rest and rest[0] == parameter.label:
            rest.pop(0)
        elif not parameter.optional:
            return False
    return not rest


def parameters_of(node: Node) -> list[Parameter]:
    parameters = []
    for child in node.children:
        if child.type == "parameter":
            external = child.child_by_field_name("external_name")
            label = text_of(external if external is not None else child.child_by_field_name("name"))
            parameters.append(Parameter(None if label == "_" else label, False))
        elif child.type == "=" and parameters:
            parameters[-1] = Parameter(parameters[-1].label, True)
    return parameters


def name_of(node: Node) -> str:
    return text_of(node.child_by_field_name("name")).strip("`")


def text_of(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode()


def descendants(node: Node) -> list[Node]:
    found = [node]
    for one in found:
        found += one.children
    return found


if __name__ == "__main__":
    sys.exit(main())
