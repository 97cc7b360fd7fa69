"""One training run of the peer (TRL's DPOTrainer on a PEFT adapter), told by a JSON object on standard input.

Runs in a venv of its own. Weights come from the same GGUF, dequantized; tokens and the starting adapter come from
Thumbprint. Prints one JSON object: seconds of training, of reference passes before it, and each step's loss.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

ORDER = json.load(sys.stdin)
os.environ |= {
    "OMP_NUM_THREADS": str(ORDER["threads"]),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from gguf import GGUFReader  # noqa: E402
from peft import LoraConfig  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402
from trl import DPOConfig, DPOTrainer  # noqa: E402

# llama.cpp's name of each matrix that an adapter changes, and PEFT's.
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class OnTokens(DPOTrainer):
    """Takes rows that are tokens already: two tokenizers would be compared, else."""

    precompute_seconds = 0.0

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _precompute_ref_logps(self, *arguments):
        started = time.perf_counter()
        rows = super()._precompute_ref_logps(*arguments)
        self.precompute_seconds += time.perf_counter() - started
        return rows


def main():
    torch.set_num_threads(ORDER["threads"])
    pairs = [json.loads(line) for line in Path(ORDER["pairs"]).read_text().splitlines()]
    with tempfile.TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        trainer = make_trainer(pairs, work)
        load_adapter(trainer.model, ORDER["adapter"])
        trainer.train()
        logs = trainer.state.log_history
    steps = [entry for entry in logs if "loss" in entry]
    print(
        json.dumps(
            {
                "train_seconds": logs[-1]["train_runtime"],
                "precompute_seconds": trainer.precompute_seconds,
                "losses": [step["loss"] for step in steps],
                "logps_chosen": [step["logps/chosen"] for step in steps],
            }
        )
    )


def make_trainer(pairs, work):
    path = Path(ORDER["model"]).resolve()
    dtype = torch.bfloat16 if ORDER["weights"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    # What was read is dequantized already: to the trainer it is an ordinary model.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    rows = Dataset.from_list([{key: pair[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")} for pair in pairs])
    vocabulary = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
    lora = ORDER["lora"]
    config = DPOConfig(
        output_dir=work,
        use_cpu=True,
        max_steps=ORDER["steps"],
        per_device_train_batch_size=ORDER["batch_size"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **ORDER["settings"],
    )
    return OnTokens(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>"),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=lora["r"],
            lora_alpha=lora["alpha"],
            lora_dropout=0.0,
            target_modules=[name.split(".")[1] for name in MODULES.values()],
        ),
    )


def load_adapter(model, path):
    """Puts a GGUF LoRA's factors in the place of fresh ones; every one of them must have its place."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    parameters = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    for tensor in GGUFReader(path).tensors:
        _, block, matrix, _, factor = tensor.name.split(".")
        values = torch.from_numpy(tensor.data.copy())
        if factor == "lora_b" and matrix in heads:
            # llama.cpp's converter interleaves the halves of each head's rows.
            n = heads[matrix]
            values = values.reshape(n, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        end = f"layers.{block}.{MODULES[matrix]}.{factor[:-1]}{factor[-1].upper()}.default.weight"
        [name] = [name for name in parameters if name.endswith(end)]
        with torch.no_grad():
            parameters.pop(name).copy_(values)
    if parameters:
        sys.exit(f"the adapter lacks {sorted(parameters)[0]} and {len(parameters) - 1} more")


main()
