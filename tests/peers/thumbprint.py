"""The command under test."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "thumbprint"
PAIRS = ROOT / "tests" / "data" / "train.jsonl"


def run(*arguments):
    """What it printed, one object a line."""
    command = [str(argument) for argument in (COMMAND, "--json", *arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def demo_model():
    given = os.environ.get("THUMBPRINT_TEST_MODEL")
    if given:
        return Path(given)
    return Path(subprocess.run([ROOT / "scripts" / "fetch-model"], check=True, capture_output=True, text=True).stdout.strip())


def first_pairs(path, n):
    """The first rows of the training pairs, in a file of their own."""
    lines = PAIRS.read_text(encoding="utf-8").splitlines()[:n]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
