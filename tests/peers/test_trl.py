"""TRL's trainers load what Thumbprint exports, and take a step on it."""

import json
import math
import tempfile
import unittest
from pathlib import Path

import models
import thumbprint
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

SAID = [
    {"prompt": "Why is the sky blue?", "chosen": "Rayleigh scattering.", "rejected": "It reflects the sea."},
    {
        "prompt": [
            {"role": "system", "content": "Antworte kurz."},
            {"role": "user", "content": "为什么天是蓝的？"},
            {"role": "assistant", "content": "因为散射。"},
            {"role": "user", "content": "وبالعربية؟"},
        ],
        "chosen": [{"role": "assistant", "content": "بسبب التشتت. \U0001f642"}],
        "rejected": [{"role": "assistant", "content": "Weiß nicht."}],
    },
]
THUMBS = [{"prompt": f"Is it number {i}?", "completion": "Yes." if i % 2 else "It depends.", "label": bool(i % 2)} for i in range(4)]
RANKING = {
    "instruction": "Name a colour.",
    "completions": [{"response": text, "overall_score": score} for text, score in [("Blue.", 9), ("Colour.", 2), ("Sea green.", 6)]],
}


class Exports(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.work = Path(cls.folder.name)
        cls.model = thumbprint.demo_model()
        data = cls.work / "data"
        for name, rows in [("pairs", SAID), ("thumbs", THUMBS), ("ranking", [RANKING])]:
            path = cls.work / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            thumbprint.run("import", path, "--data-dir", data)
        cls.files = {}
        for form in ("preference", "unpaired"):
            cls.files[form] = cls.work / f"{form}-out.jsonl"
            thumbprint.run("export", cls.files[form], "--format", form, "--data-dir", data)
        cls.tokenizer = models.tokenizer(cls.model)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def settings(self):
        return {
            "output_dir": str(self.work / "out"),
            "use_cpu": True,
            "bf16": False,
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
        }

    def rows(self, form):
        return load_dataset("json", data_files=str(self.files[form]), split="train", cache_dir=str(self.work / "cache"))

    def texts(self, ids):
        return self.tokenizer.decode(ids)

    def test_dpo_trainer_loads_pairs_and_takes_a_step(self):
        rows = self.rows("preference")
        # A ranking of three is three pairs.
        self.assertEqual(len(rows), 5)
        self.assertEqual(set(rows.column_names), {"prompt", "chosen", "rejected"})
        trainer = DPOTrainer(
            model=models.tiny(len(self.tokenizer)),
            args=DPOConfig(**self.settings()),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        prepared = trainer.train_dataset
        prompts = [self.texts(ids) for ids in prepared["prompt_ids"]]
        chosen = [self.texts(ids) for ids in prepared["chosen_ids"]]
        [many] = [i for i, prompt in enumerate(prompts) if "Antworte kurz." in prompt]
        for text in ("为什么天是蓝的？", "因为散射。", "وبالعربية؟"):
            self.assertIn(text, prompts[many])
        self.assertIn("بسبب التشتت. \U0001f642", chosen[many])
        ranked = sorted(chosen[i].split("<")[0].strip() for i, prompt in enumerate(prompts) if "Name a colour." in prompt)
        self.assertEqual(ranked, ["Blue.", "Blue.", "Sea green."])
        trainer.train()
        [first] = [entry for entry in trainer.state.log_history if "loss" in entry]
        self.assertAlmostEqual(first["loss"], math.log(2), places=4)

    def test_kto_trainer_loads_thumbs_and_takes_a_step(self):
        rows = self.rows("unpaired")
        # Four thumbs, both sides of two picks, best and worst of a ranking.
        self.assertEqual(len(rows), 10)
        self.assertEqual(set(rows.column_names), {"prompt", "completion", "label"})
        self.assertEqual(sum(rows["label"]), 5)
        trainer = KTOTrainer(
            model=models.tiny(len(self.tokenizer)),
            args=KTOConfig(**self.settings()),
            train_dataset=rows,
            processing_class=self.tokenizer,
        )
        trainer.train()
        [first] = [entry for entry in trainer.state.log_history if "loss" in entry]
        self.assertAlmostEqual(first["loss"], 0.5, places=3)


if __name__ == "__main__":
    unittest.main(verbosity=2)
