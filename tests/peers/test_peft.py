"""PEFT and Thumbprint read each other's adapters, and give the same log-probabilities with them."""

import tempfile
import unittest
from pathlib import Path

import models
import thumbprint
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

# Nats a token. Observed: at most 6e-5, in single precision on both sides.
NEAR = 1e-3
# What a mistake in the order of rows, in the scale or in a name moves at least one token by. Observed: 0.1 and more.
FAR = 0.02


class Adapters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.work = Path(cls.folder.name)
        cls.model = thumbprint.demo_model()
        cls.pairs = thumbprint.first_pairs(cls.work / "pairs.jsonl", 2)
        cls.data = cls.work / "data"
        cls.adapter = cls.work / "trained.gguf"
        # An alpha other than the rank, and steps that are large enough to be seen.
        settings = ["--lora-r", 4, "--lora-alpha", 10, "--max-steps", 6, "--learning-rate", 2e-3, "--seed", 3]
        thumbprint.run("train", "--model", cls.model, "--data", cls.pairs, "--out", cls.adapter, *settings)
        [taken] = thumbprint.run("adapters", "import", cls.adapter, "--model", cls.model, "--data-dir", cls.data)
        cls.id = taken["adapter"]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def scored(self, *more):
        rows = thumbprint.run("score", "--model", self.model, "--data", self.pairs, "--trl-tokens", *more)
        return [row for row in rows if "prompt_ids" in row]

    def distances(self, model, rows):
        """The largest difference from our log-probabilities, per completion."""
        far = []
        for row in rows:
            for side in ("chosen", "rejected"):
                theirs = models.token_logps(model, row["prompt_ids"], row[f"{side}_ids"])
                ours = torch.tensor(row[f"{side}_logps"], dtype=torch.float64)
                far.append((theirs - ours).abs().max().item())
        return far

    def export(self, id, name):
        path = self.work / name
        thumbprint.run("adapters", "export", id, path, "--format", "peft", "--model", self.model, "--data-dir", self.data)
        return path

    def test_peft_loads_ours_and_gives_our_log_probabilities(self):
        base = models.load(self.model)
        self.assertLess(max(self.distances(base, self.scored())), NEAR, "the base alone")
        folder = self.export(self.id, "peft")
        ours = self.scored("--adapter", self.adapter)
        adapted = PeftModel.from_pretrained(base, folder).eval()
        # Every factor has found its place.
        factors = {name: p for name, p in adapted.named_parameters() if ".lora_" in name}
        self.assertEqual(len(factors), 2 * 7 * base.config.num_hidden_layers)
        self.assertTrue(all(p.abs().max() > 0 for p in factors.values()))
        distances = self.distances(adapted, ours)
        print("with the adapter:", max(distances))
        self.assertLess(max(distances), NEAR)
        with adapted.disable_adapter():
            self.assertGreater(min(self.distances(adapted, ours)), FAR, "the adapter is seen")

        # Rows of q and k in GGUF's order would be another adapter.
        tensors = load_file(folder / "adapter_model.safetensors")
        for name, values in tensors.items():
            if "q_proj.lora_B" in name or "k_proj.lora_B" in name:
                heads = base.config.num_attention_heads if "q_proj" in name else base.config.num_key_value_heads
                halves = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2)
                tensors[name] = halves.reshape(values.shape).contiguous()
        wrong = self.work / "wrong"
        wrong.mkdir()
        (wrong / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        save_file(tensors, wrong / "adapter_model.safetensors")
        adapted.load_adapter(wrong, "wrong")
        adapted.set_adapter("wrong")
        self.assertGreater(max(self.distances(adapted, ours)), FAR)

    def test_peft_loads_a_sum_and_a_difference_of_ours(self):
        def combine(*parts):
            [made] = thumbprint.run("adapters", "combine", *parts, "--data-dir", self.data)
            return made["adapter"]

        half, nothing = combine(f"{self.id}:0.5"), combine(f"{self.id}", f"{self.id}:-1")
        base = models.load(self.model)
        adapted = PeftModel.from_pretrained(base, self.export(half, "half"), adapter_name="half").eval()
        path = self.work / "half.gguf"
        thumbprint.run("adapters", "export", half, path, "--data-dir", self.data)
        self.assertLess(max(self.distances(adapted, self.scored("--adapter", path))), NEAR)
        adapted.load_adapter(self.export(nothing, "nothing"), "nothing")
        adapted.set_adapter("nothing")
        self.assertLess(max(self.distances(adapted, self.scored())), NEAR)

    def test_what_peft_saved_is_taken_in_and_gives_its_log_probabilities(self):
        torch.manual_seed(5)
        modules = ["q_proj", "k_proj", "v_proj", "down_proj"]
        config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=12, target_modules=modules)
        theirs = get_peft_model(models.load(self.model), config).eval()
        with torch.no_grad():
            for name, values in theirs.named_parameters():
                if "lora_B" in name:
                    values.normal_(std=0.02)
        folder = self.work / "theirs"
        theirs.save_pretrained(folder)
        take = ["adapters", "import", folder, "--model", self.model, "--data-dir", self.data]
        with self.assertRaisesRegex(RuntimeError, "--accept-unnamed-base"):
            thumbprint.run(*take)
        [taken] = thumbprint.run(*take, "--accept-unnamed-base")
        path = self.work / "theirs.gguf"
        thumbprint.run("adapters", "export", taken["adapter"], path, "--data-dir", self.data)
        distances = self.distances(theirs, self.scored("--adapter", path))
        print("of PEFT's own:", max(distances))
        self.assertLess(max(distances), NEAR)
        with theirs.disable_adapter():
            self.assertGreater(max(self.distances(theirs, self.scored("--adapter", path))), FAR)

    def test_our_merge_is_peft_s_merge(self):
        merged = self.work / "merged.gguf"
        merge = ["adapters", "merge", self.id, "--type", "f32", "--out", merged]
        [said] = thumbprint.run(*merge, "--model", self.model, "--data-dir", self.data)
        theirs = PeftModel.from_pretrained(models.load(self.model), self.export(self.id, "to-merge")).merge_and_unload()
        self.assertEqual(said["changed"], 7 * theirs.config.num_hidden_layers)
        ours = models.load(merged).state_dict()
        for name, values in theirs.state_dict().items():
            # Observed: 3e-8.
            self.assertLess((values - ours[name]).abs().max().item(), 1e-6, name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
