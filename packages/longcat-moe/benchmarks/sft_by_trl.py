"""TRL's SFTTrainer takes ten steps on `longcat_moe.transformers`: all weights, and LoRA.

usage: pip install trl peft; python sft_by_trl.py
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from pathlib import Path

import datasets
import torch
import transformers
import trl
from longcat_moe import LongcatForCausalLM, get_preset
from longcat_moe.transformers import LongcatHfForCausalLM
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers

STEPS = 10
TEXTS = [f"{a} and {b} make {a + b}" for a in range(8) for b in range(8)]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return one with a word for each word."""
    words = ["<pad>", "<s>", "</s>", *sorted({word for text in TEXTS for word in text.split()})]
    plain = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def train(folder: Path, adapter: LoraConfig | None) -> list[float]:
    """Return the loss of each step."""
    model = LongcatHfForCausalLM.from_pretrained(folder / "model")
    arguments = trl.SFTConfig(
        output_dir=str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=8,
        learning_rate=5e-3, report_to=[], use_cpu=True, save_strategy="no", logging_steps=1,
        disable_tqdm=True, max_length=32, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=arguments, processing_class=tokenizer(), peft_config=adapter,
        train_dataset=datasets.Dataset.from_dict({"text": TEXTS}),
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    torch.manual_seed(0)
    lora = LoraConfig(
        r=8, target_modules=["q_b_proj", "kv_b_proj", "o_proj"], task_type="CAUSAL_LM",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], lora_dropout=0.0,
    )  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LongcatForCausalLM(get_preset("tiny")).save_pretrained(folder / "model")
        for what, adapter in (("all weights", None), ("LoRA, attention and experts", lora)):
            losses = train(folder, adapter)
            rows.append([what, len(losses), round(losses[0], 3), round(losses[-1], 3)])
    print("| what is trained | steps | first loss | last |\n| --- | --- | --- | --- |")
    print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows))
    assert all(row[1] == STEPS and row[3] < row[2] for row in rows), rows
    print(json.dumps({
        "title": "TRL's SFTTrainer on longcat_moe.transformers",
        "claim": f"Asked: {STEPS} steps that lower the loss. {rows[0][2]} to {rows[0][3]} with all "
        f"weights, {rows[1][2]} to {rows[1][3]} with LoRA.",
        "columns": ["what is trained", "steps", "first loss", "last loss"], "rows": rows,
        "spread": "one run", "seeds": [0],
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "peft",
                     "transformers")},
        "notes": ["Preset tiny, CPU, float32, batches of 8 short texts."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
