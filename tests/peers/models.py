"""The demo model and its tokenizer as transformers has them, out of the same GGUF file."""

import os
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: E402


def load(gguf):
    """Weights in F32, dequantized: to PEFT and TRL an ordinary model."""
    gguf = Path(gguf)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval()


def tokenizer(gguf):
    gguf = Path(gguf)
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def tiny(vocabulary):
    """A Llama of random weights that takes a training step in no time."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))


@torch.no_grad()
def token_logps(model, prompt, completion):
    """Log-probability of each token of a completion after its prompt, nats."""
    ids = torch.tensor([prompt + completion])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
