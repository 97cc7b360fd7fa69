#!/usr/bin/env python3
"""TRL's side of the benchmark, for the driver `run`, which calls it inside the benchmark's own venv.

`peer.py adapter` writes the adapter that both sides start from. `peer.py train` takes the steps of a job with TRL's
DPOTrainer, on the weights of a GGUF file, and prints one JSON object.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "gguf", "numpy")

BEST = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
SETTINGS = {
    "defaults": {},
    "best_fp32": {**BEST, "bf16": False},
    "best_bf16": {**BEST, "bf16": True},
}

PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
IN_LAYERS = {**PROJECTIONS, "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
OUTSIDE_LAYERS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def main():
    options = parse_options()
    if options.command == "adapter":
        write_adapter(options)
        return
    job = json.loads(options.job.read_text())
    # TRL and what it stands on print to standard output, too.
    with contextlib.redirect_stdout(sys.stderr):
        result = train(job, SETTINGS[options.setting])
    print(json.dumps(result))


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adapter = commands.add_parser("adapter")
    adapter.add_argument("--model", type=Path, required=True)
    adapter.add_argument("--out", type=Path, required=True)
    adapter.add_argument("--rank", type=int, required=True)
    adapter.add_argument("--alpha", type=float, required=True)
    adapter.add_argument("--seed", type=int, required=True)
    training = commands.add_parser("train")
    training.add_argument("--job", type=Path, required=True)
    training.add_argument("--setting", choices=SETTINGS, required=True)
    return parser.parse_args()


def write_adapter(options):
    """A fresh adapter as PEFT would draw it: A uniform, B zero."""
    torch.manual_seed(options.seed)
    writer = gguf.GGUFWriter(options.out, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, options.alpha)
    for tensor in gguf.GGUFReader(options.model).tensors:
        if not is_projection(tensor.name):
            continue
        n_in, n_out = (int(n) for n in tensor.shape)
        a = torch.nn.init.kaiming_uniform_(torch.empty(options.rank, n_in), a=math.sqrt(5))
        writer.add_tensor(f"{tensor.name}.lora_a", a.numpy())
        writer.add_tensor(f"{tensor.name}.lora_b", numpy.zeros((n_out, options.rank), numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def is_projection(name):
    parts = name.split(".")
    return parts[0] == "blk" and parts[2] in PROJECTIONS.values() and parts[3] == "weight"


def train(job, setting):
    torch.set_num_threads(job["threads"])
    model = read_model(job["model"])
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=job["batch_size"],
            max_steps=job["steps"],
            learning_rate=job["learning_rate"],
            lr_scheduler_type="linear",
            beta=job["beta"],
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            **setting,
        )
        trainer = Trainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(job["pairs"]),
            processing_class=stand_in_tokenizer(),
            callbacks=[clock],
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=job["rank"],
                lora_alpha=job["alpha"],
                lora_dropout=0.0,
                target_modules=[path.split(".")[1] for path in PROJECTIONS],
            ),
        )
        read_adapter(trainer.model, job["adapter"])
        trainer.train()
    steps = [entry for entry in trainer.state.log_history if "logps/chosen" in entry]
    return {
        "losses": trainer.losses,
        "logps/chosen": [step["logps/chosen"] for step in steps],
        "logps/rejected": [step["logps/rejected"] for step in steps],
        "num_tokens": numpy.diff([0] + [step["num_tokens"] for step in steps]).astype(int).tolist(),
        "step_seconds": numpy.diff(clock.times).tolist(),
        "reference_seconds": trainer.reference_seconds,
        "settings": {
            "bf16": trainer.args.bf16,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "precompute_ref_log_probs": trainer.args.precompute_ref_log_probs,
        },
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}},
    }


class Trainer(DPOTrainer):
    """TRL's trainer on pairs that are tokens already, in the order given. It also keeps losses, which logs round."""

    def __init__(self, *args, **kwargs):
        self.losses = []
        self.reference_seconds = 0.0
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)

    def _precompute_ref_logps(self, *args, **kwargs):
        started = time.perf_counter()
        dataset = super()._precompute_ref_logps(*args, **kwargs)
        self.reference_seconds += time.perf_counter() - started
        return dataset

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


class Clock(TrainerCallback):
    """When training began, and when each step ended."""

    def __init__(self):
        self.times = []

    def on_train_begin(self, *args, **kwargs):
        self.times.append(time.perf_counter())

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.perf_counter())


def stand_in_tokenizer():
    """TRL wants a tokenizer; of this one it uses only the padding, which is masked."""
    words = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<pad>")


def read_model(path):
    """A GGUF file's weights, dequantized to F32, as a model of transformers."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = read_config(reader, tensors)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors.pop(gguf_name(name))
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            n_heads = heads.get(tensor.name.split(".")[-2])
            parameter.copy_(torch.from_numpy(in_transformers_order(values, n_heads) if n_heads else values))
    if tensors:
        sys.exit(f"peer: {path}: no place for {', '.join(tensors)}")
    return model


def read_config(reader, tensors):
    def value(key, default=None):
        field = reader.get_field(key)
        return default if field is None else field.contents()

    architecture = value("general.architecture")
    if architecture != "llama" or value("llama.rope.scaling.type", "none") != "none":
        sys.exit(f"peer: architecture {architecture} (or its scaling of positions) is not supported, only plain llama")
    return LlamaConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in tensors,
    )


def gguf_name(name):
    """The name in a GGUF file of one of transformers' parameters."""
    if name in OUTSIDE_LAYERS:
        return OUTSIDE_LAYERS[name]
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name).groups()
    return f"blk.{layer}.{IN_LAYERS[part]}.weight"


def in_transformers_order(values, n_heads):
    """Undoes llama.cpp's converter, which interleaves the two halves of each head of Q and K for its rotary embedding."""
    rows, columns = values.shape
    return numpy.ascontiguousarray(
        values.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def read_adapter(model, path):
    """Puts a fresh adapter into a model of PEFT. Its B is zero on both sides, so that no rows have to be reordered."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            base, half = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.default\.weight", name).groups()
            values = torch.from_numpy(tensors.pop(f"{gguf_name(base + '.weight')}.lora_{half.lower()}"))
            assert half == "A" or not values.any(), f"{path}: B is not zero"
            parameter.copy_(values)
    assert not tensors, f"{path}: no place for {', '.join(tensors)}"


if __name__ == "__main__":
    main()
