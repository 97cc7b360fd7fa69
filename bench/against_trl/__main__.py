#!/usr/bin/env python3
"""How fast Thumbprint trains, and in how much memory, against TRL and PEFT on the same machine.

Installs the peer (torch, transformers, TRL, PEFT; several gigabytes) from PyPI into a venv of its own, then trains both
on the same pairs, from the same adapter, for the same steps: in turns, each in a process of its own, medians of
several rounds. Speed counts tokens of a pair as 2 prompts + chosen + rejected, each time that it is seen: three times, as
often as TRL's default has it. Reference passes, one a pair, are charged to Thumbprint always, and to the peer where it
makes them while it trains; those it makes before are told apart.

The peer's arms: `defaults` is DPOConfig as it comes (BF16 autocast, checkpointing, a reference pass each step);
`fp32`, `autocast` and `bf16` are without checkpointing and with precomputed references, in F32, in BF16 autocast,
and with BF16 weights too. The best of these is what `ratio_best` compares with.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FAST = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
PEERS = {
    "defaults": {"weights": "fp32", "settings": {}},
    "fp32": {"weights": "fp32", "settings": {**FAST, "bf16": False}},
    "autocast": {"weights": "fp32", "settings": {**FAST, "bf16": True}},
    "bf16": {"weights": "bf16", "settings": {**FAST, "bf16": True}},
}
OURS = {
    "thumbprint": [],
    "thumbprint low memory": ["--gradient-checkpointing"],
    # Enough for packed copies of the weights to be kept.
    "thumbprint 2 GiB": ["--memory-mib", "2048"],
}
LORA = {"r": 8, "alpha": 16}
# Hyper-parameters under names that both take; TRL's own learning rate of 1e-6 would move nothing in few steps.
COMMON = {"learning_rate": 2e-4, "beta": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 1.0, "weight_decay": 0.0}


def main():
    options = arguments()
    thumbprint = options.target / "release" / "thumbprint"
    if not thumbprint.exists():
        sys.exit(f"against_trl: {thumbprint} is missing: run `make build` first")
    python = install(options.venv)
    with tempfile.TemporaryDirectory() as work:
        runs = Runs(options, thumbprint, python, Path(work))
        results = {name: [] for name in [*OURS, *PEERS]}
        for round_ in range(options.rounds):
            for name in results:
                result = runs.ours(name) if name in OURS else runs.peer(name)
                results[name].append(result)
                say(f"round {round_ + 1} of {options.rounds}: {name}: {runs.n_tokens / result['seconds']:.0f} tok/s, {result['peak_rss_mib']} MiB")
        report = Report(results, runs)
    print(json.dumps(report.object) if options.json else report.table())


def arguments():
    parser = argparse.ArgumentParser(prog="bench/against_trl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times that each runs [default: 3]")
    parser.add_argument("--steps", type=int, default=12, metavar="N", help="optimizer steps of a run [default: 12]")
    parser.add_argument("--batch-size", type=int, default=2, metavar="N", help="pairs of a step [default: 2]")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="times that each pair is seen [default: 3, as TRL's]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of both [default: all]")
    parser.add_argument("--data", type=Path, default=ROOT / "tests" / "data" / "train.jsonl", metavar="JSONL")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="a llama model [default: the demo model]")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-trl", metavar="DIR", help="where the peer is installed")
    parser.add_argument("--target", type=Path, default=Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")), metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.rounds, options.steps, options.batch_size, options.epochs, options.threads) < 1:
        parser.error("--rounds, --steps, --batch-size, --epochs and --threads take numbers from 1")
    if options.steps * options.batch_size % options.epochs:
        parser.error("--steps times --batch-size must be a multiple of --epochs")
    if options.model is None:
        options.model = Path(check_output([ROOT / "scripts" / "fetch-model"]).strip())
    return options


def install(venv):
    """The venv's Python, after what requirements.txt names is in it."""
    return Path(check_output([ROOT / "scripts" / "trl-python", "--venv", venv]).strip())


class Runs:
    """What both need, prepared once, and a run of each."""

    def __init__(self, options, thumbprint, python, work):
        self.options, self.thumbprint, self.python, self.work = options, thumbprint, python, work
        n_pairs = options.steps * options.batch_size // options.epochs
        lines = options.data.read_text(encoding="utf-8").splitlines()[:n_pairs]
        if len(lines) < n_pairs:
            sys.exit(f"against_trl: {options.data} has {len(lines)} pairs of {n_pairs}: lower --steps or --batch-size")
        self.data = work / "pairs.jsonl"
        self.data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # A start whose B is not zero: with a fresh one, both would agree on the first loss whatever they compute.
        self.adapter = work / "start.gguf"
        self.train("start.gguf", "--max-steps", "4", "--lora-r", LORA["r"], "--lora-alpha", LORA["alpha"], "--seed", "1")
        scored = check_output([thumbprint, "score", "--json", "--trl-tokens", "--model", options.model, "--data", self.data])
        pairs = [row for row in map(json.loads, scored.splitlines()) if "prompt_ids" in row]
        self.tokens = work / "tokens.jsonl"
        self.tokens.write_text("\n".join(map(json.dumps, pairs)) + "\n")
        tokens = sum(2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
        self.n_tokens = options.epochs * tokens

    def train(self, out, *more):
        options = self.options
        common = [text for name, value in COMMON.items() for text in (f"--{name.replace('_', '-')}", value)]
        command = [self.thumbprint, "train", "--json", "--trl-tokens", "--model", options.model, "--data", self.data, "--out", self.work / out]
        command += ["--per-device-train-batch-size", options.batch_size, "--threads", options.threads, *common, *more]
        return measured(command)

    def ours(self, name):
        steps = ["--max-steps", self.options.steps, "--train-sampling-strategy", "sequential", "--init-adapter", self.adapter]
        output, peak = self.train("out.gguf", *steps, *OURS[name])
        rows = [json.loads(line) for line in output.splitlines()]
        losses = [row["loss"] for row in rows if "loss" in row]
        return {"seconds": rows[-1]["train_runtime"], "reference_seconds": 0.0, "peak_rss_mib": peak, "losses": losses}

    def peer(self, name):
        options = self.options
        order = {
            **PEERS[name],
            "model": str(options.model),
            "adapter": str(self.adapter),
            "pairs": str(self.tokens),
            "threads": options.threads,
            "steps": options.steps,
            "batch_size": options.batch_size,
            "lora": LORA,
        }
        order["settings"] = {**COMMON, **order["settings"]}
        output, peak = measured([self.python, HERE / "peer.py"], json.dumps(order))
        result = json.loads(output.splitlines()[-1])
        return {
            "seconds": result["train_seconds"],
            "reference_seconds": result["precompute_seconds"],
            "peak_rss_mib": peak,
            "losses": result["losses"],
        }


class Report:
    """Medians, ratios, and how far losses are apart."""

    def __init__(self, results, runs):
        arms = {name: self.arm(rounds, runs.n_tokens) for name, rounds in results.items()}
        ours = arms["thumbprint"]["pair_tok_s"]
        our_best = max((name for name in OURS), key=lambda name: arms[name]["pair_tok_s"])
        best = max((name for name in PEERS if name != "defaults"), key=lambda name: arms[name]["pair_tok_s"])
        # F32 is what the others, ours too, are approximations of.
        exact = arms["fp32"]["losses"]
        for arm in arms.values():
            arm["loss_difference"] = round(statistics.mean(abs(a - b) for a, b in zip(arm["losses"], exact)), 5)
        self.object = {
            "ratio_defaults": round(ours / arms["defaults"]["pair_tok_s"], 2),
            "ratio_best": round(arms[our_best]["pair_tok_s"] / arms[best]["pair_tok_s"], 2),
            "best": best,
            "our_best": our_best,
            "memory_ratio_defaults": round(arms["defaults"]["peak_rss_mib"] / arms["thumbprint"]["peak_rss_mib"], 1),
            "n_tokens": runs.n_tokens,
            "rounds": runs.options.rounds,
            "steps": runs.options.steps,
            "batch_size": runs.options.batch_size,
            "epochs": runs.options.epochs,
            "arms": arms,
        }

    @staticmethod
    def arm(rounds, n_tokens):
        median = lambda key: statistics.median(result[key] for result in rounds)  # noqa: E731
        return {
            "pair_tok_s": round(n_tokens / median("seconds"), 1),
            "seconds": round(median("seconds"), 2),
            "reference_seconds": round(median("reference_seconds"), 2),
            "peak_rss_mib": round(median("peak_rss_mib")),
            "final_loss": round(rounds[0]["losses"][-1], 5),
            "losses": rounds[0]["losses"],
        }

    def table(self):
        columns = ("pair_tok_s", "seconds", "reference_seconds", "peak_rss_mib", "final_loss", "loss_difference")
        lines = [f"{'':<24}" + "".join(f"{name:>19}" for name in columns)]
        for name, arm in self.object["arms"].items():
            label = f"TRL {name}" if name in PEERS else name
            lines.append(f"{label:<24}" + "".join(f"{arm[column]:>19}" for column in columns))
        o = self.object
        lines.append(f"{o['ratio_defaults']} times as fast as TRL's defaults, and with {o['our_best']} {o['ratio_best']} times as fast as its best ({o['best']}, whose references come free)")
        return "\n".join(lines)


def measured(command, stdin=""):
    """What a process prints, and the most memory it held, MiB. Ends this one if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        writer = threading.Thread(target=lambda: (process.stdin.write(stdin), process.stdin.close()))
        writer.start()
        output = process.stdout.read()
        writer.join()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"against_trl: {command[0]} failed ({process.returncode}):\n{errors.read()}{output}")
    return output, usage.ru_maxrss // 1024


def check_output(command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
