"""Trains a model on conversations or preferences: LoRA adapter or all weights, with checkpoints to go on from.

Usage: ``train_model.py BASE DATA OUT SETTINGS_AS_JSON [CHECKPOINT]``, in an environment with torch, transformers, peft and trl.

BASE is a checkpoint, DATA a folder with ``train.jsonl`` and perhaps ``validation.jsonl``: one conversation a line
(``{"messages": [...]}``), whose last message is the answer to learn. With the objective ``dpo`` a line also has the worse
answer (``"rejected": {...}``), and the held-out lines of ``test.jsonl`` are measured at the end.

In OUT: ``progress.json`` (now and then), ``checkpoints/``, and at the end ``model/`` (whole weights), ``adapter/`` (LoRA) and
``training.json``; or ``problem.json`` and exit code 70. A checkpoint is complete when the file COMPLETE is in it. On CPUs,
with the same number of threads, the result is the same to the bit, whether the training was interrupted or not.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

COMPLETE = "COMPLETE"
_PROBLEM = 70
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_IGNORED = -100


class Problem(Exception):
    """Why there can be no training, for ``problem.json``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def write(place: Path, value: object) -> None:
    """Replace a JSON file as a whole: it is read while the program runs."""
    part = place.with_name(f".{place.name}.part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(place)


def encode(tokenizer: Any, row: dict[str, Any], longest: int) -> dict[str, list[int]] | None:
    """Tokens of a conversation; only the answer at its end is learnt. ``None`` when it is longer than ``longest`` tokens."""
    messages, tools = row["messages"], row.get("tools") or None
    asked = tokenizer.apply_chat_template(messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    if not whole.startswith(asked):
        raise Problem("template", "the chat template renders a question differently when its answer follows")
    before, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, whole))
    shared = next((at for at, pair in enumerate(zip(before, tokens, strict=False)) if pair[0] != pair[1]), len(before))
    if len(tokens) > longest:
        return None
    return {"input_ids": tokens, "labels": [_IGNORED] * shared + tokens[shared:]}


def encode_pair(tokenizer: Any, row: dict[str, Any], longest: int) -> dict[str, list[int]] | None:
    """Tokens of a question and of both of its answers; ``None`` when one of them is too long."""
    pair = [encode(tokenizer, {**row, "messages": [*row["messages"][:-1], answer]}, longest) for answer in answers(row)]
    chosen, rejected = pair
    if chosen is None or rejected is None:
        return None
    asked = min(each["labels"].count(_IGNORED) for each in (chosen, rejected))
    made = {
        "prompt_ids": chosen["input_ids"][:asked],
        "chosen_ids": chosen["input_ids"][asked:],
        "rejected_ids": rejected["input_ids"][asked:],
    }
    if made["chosen_ids"] == made["rejected_ids"]:
        raise Problem("data", f"both answers of row {row.get('id', '')} are the same to the model")
    return made


def answers(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The better and the worse answer of a row."""
    return row["messages"][-1], row["rejected"]


def rows(place: Path, tokenizer: Any, settings: dict[str, Any]) -> tuple[list[dict[str, list[int]]], int]:
    """The rows of a file as tokens, and how many were left out because they are too long."""
    if not place.is_file():
        return [], 0
    encoded = encode_pair if settings["objective"] == "dpo" else encode
    lines = [line for line in place.read_text(encoding="utf-8").split("\n") if line.strip()]
    found = [encoded(tokenizer, json.loads(line), settings["max_tokens"]) for line in lines]
    kept = [each for each in found if each is not None]
    return kept, len(found) - len(kept)


def collate(batch: list[dict[str, list[int]]], pad: int) -> dict[str, Any]:
    """A batch as tensors, filled up on the right."""
    import torch

    width = max(len(each["input_ids"]) for each in batch)
    fill = {"input_ids": pad, "labels": _IGNORED}
    made = {
        name: torch.tensor([each[name] + [value] * (width - len(each[name])) for each in batch]) for name, value in fill.items()
    }
    made["attention_mask"] = torch.tensor(
        [[1] * len(each["input_ids"]) + [0] * (width - len(each["input_ids"])) for each in batch]
    )
    return made


def load(base: Path, settings: dict[str, Any]) -> tuple[Any, Any]:
    """The model to train, without an adapter, and the data type that its weights are stored in."""
    import torch
    from transformers import AutoModelForCausalLM

    stored = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    kind = next(stored.parameters()).dtype
    narrow = torch.cuda.is_available() and settings["method"] == "lora"
    return stored if narrow else stored.to(torch.float32), kind


def adapter(settings: dict[str, Any]) -> Any:
    """The LoRA adapter that is trained; ``None`` where all weights are."""
    if settings["method"] != "lora":
        return None
    from peft import LoraConfig

    targets = settings["targets"]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=targets if len(targets) != 1 or targets[0] != "all-linear" else "all-linear",
    )


def arguments(kind: Any, out: Path, settings: dict[str, Any], steps: int, *, validated: bool, **more: Any) -> Any:
    """What a trainer is told: ``TrainingArguments`` of transformers, or another class with those and more."""
    import torch

    cuda = torch.cuda.is_available()
    told = {
        "output_dir": str(out / "checkpoints"),
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": settings["batch_size"],
        "per_device_eval_batch_size": settings["batch_size"],
        "gradient_accumulation_steps": settings["accumulate"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "learning_rate": settings["learning_rate"],
        "weight_decay": settings["weight_decay"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(steps * settings["warmup"]),
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings["save_every"],
        "save_total_limit": 2,
        "eval_strategy": "epoch" if validated else "no",
        "seed": settings["seed"],
        "data_seed": settings["seed"],
        "bf16": cuda,
        "use_cpu": not cuda,
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }
    return kind(**{**told, **more})


def trainer_of_answers(
    model: Any, tokenizer: Any, out: Path, settings: dict[str, Any], data: dict[str, Any], steps: int
) -> Any:
    """Learns the answers: the trainer of transformers."""
    from transformers import Trainer, TrainingArguments

    if wanted := adapter(settings):
        from peft import get_peft_model

        model = get_peft_model(model, wanted)
        if settings["gradient_checkpointing"]:
            model.enable_input_require_grads()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    return Trainer(
        model=model,
        args=arguments(TrainingArguments, out, settings, steps, validated=bool(data["validation"])),
        data_collator=lambda batch: collate(batch, pad),
        train_dataset=data["train"],
        eval_dataset=data["validation"] or None,
        callbacks=[teller(out, steps, settings["seed"])],
    )


def trainer_of_preferences(
    model: Any, tokenizer: Any, out: Path, settings: dict[str, Any], data: dict[str, Any], steps: int
) -> Any:
    """Learns which answer is better, by direct preference optimization: the trainer of TRL.

    The reference is the base model, asked once for each row before the training: it need not stay in memory. It is asked again
    where a training goes on, so the checkpoints are those of the trained weights alone.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    asked, every = 0, sum(map(len, data.values()))

    class Encoded(DPOTrainer):  # type: ignore[misc]
        """Takes rows that are tokens already, the same as those of the other objective; tells of the reference's answers."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
            nonlocal asked
            found = super().compute_ref_log_probs(model, inputs)
            asked += len(inputs["input_ids"]) // 2
            told = {"step": 0, "steps": steps, "loss": None, "left_s": None, "reference": f"{asked} of {every} rows"}
            write(out / "progress.json", told)
            return found

    own = {
        "beta": settings["beta"],
        "max_length": None,  # rows that are too long were left out, none is cut
        "disable_dropout": not settings["dropout"],
        "precompute_ref_log_probs": True,
        "per_device_eval_batch_size": 1,  # TRL averages over batches: the last one is smaller otherwise, and counts as much
    }
    held = {name: Dataset.from_list(data[name]) for name in ("validation", "test") if data[name]}
    return Encoded(
        model=model,
        args=arguments(DPOConfig, out, settings, steps, validated=bool(data["validation"]), **own),
        train_dataset=Dataset.from_list(data["train"]),
        eval_dataset=held or None,
        processing_class=tokenizer,
        peft_config=adapter(settings),
        callbacks=[teller(out, steps, settings["seed"])],
    )


def teller(out: Path, steps: int, seed: int) -> Any:
    """Writes down how far the training is, and which checkpoints are complete; ends it when the loss is no number."""
    import torch
    from transformers import TrainerCallback

    class Teller(TrainerCallback):  # type: ignore[misc]
        started = time.monotonic()
        first = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, control
            self.started, self.first = time.monotonic(), state.global_step

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # What is random in a step (dropout) depends on its number alone, not on how often the training was resumed.
            del args, control
            torch.manual_seed(seed + 1_000_003 * state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            del args, control
            if "loss" not in logs:
                return
            if not abs(float(logs["loss"])) < float("inf"):
                raise Problem("loss", f"the loss is {logs['loss']} at step {state.global_step}")
            pace = (time.monotonic() - self.started) / max(state.global_step - self.first, 1)
            left = pace * (steps - state.global_step)
            write(out / "progress.json", {"step": state.global_step, "steps": steps, "loss": logs["loss"], "left_s": left})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del control
            place = Path(args.output_dir, f"checkpoint-{state.global_step}")
            with (place / COMPLETE).open("w", encoding="utf-8") as file:
                os.fsync(file.fileno())

    return Teller()


def save(model: Any, base: Path, out: Path, kind: Any, settings: dict[str, Any]) -> None:
    """Write whole weights in the data type of the base, beside the base's own configuration and tokenizer; and the adapter."""
    if settings["method"] == "lora":
        model.save_pretrained(out / "adapter")
        (out / "adapter" / "README.md").unlink(missing_ok=True)
        model = model.merge_and_unload()
    model.to(kind).save_pretrained(out / "weights")
    (out / "model").mkdir()
    for file in sorted(base.iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and not file.name.startswith("."):
            shutil.copyfile(file, out / "model" / file.name)
    for file in sorted((out / "weights").iterdir()):
        if file.name.endswith(_WEIGHTS):
            file.rename(out / "model" / file.name)
    shutil.rmtree(out / "weights")
    for file in [*out.rglob("*")]:
        file.chmod(0o755 if file.is_dir() else 0o644)


def train(base: Path, data: Path, out: Path, settings: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Train, save, and say what was done."""
    import torch
    import transformers
    from transformers import AutoTokenizer

    torch.set_num_threads(settings["threads"] or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    transformers.set_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    if tokenizer.chat_template is None:
        raise Problem("template", "the model has no chat template")
    preferences = settings["objective"] == "dpo"
    names = ("train", "validation", "test") if preferences else ("train", "validation")
    found = {name: rows(data / f"{name}.jsonl", tokenizer, settings) for name in names}
    learnt, long = found["train"]
    if not learnt:
        raise Problem("data", f"no row has at most {settings['max_tokens']} tokens ({long} are longer)")
    steps = -(-len(learnt) // (settings["batch_size"] * settings["accumulate"])) * settings["epochs"]
    write(out / "progress.json", {"step": 0, "steps": steps, "loss": None, "left_s": None})
    model, kind = load(base, settings)
    made = trainer_of_preferences if preferences else trainer_of_answers
    trainer = made(model, tokenizer, out, settings, {name: each for name, (each, _) in found.items()}, steps)
    begun = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint or None)
    history = trainer.state.log_history
    checked = "eval_validation_loss" if preferences else "eval_loss"
    trainable = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    measured = preferred(trainer, history, found["test"]) if preferences else {}
    save(trainer.model, base, out, kind, settings)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return {
        "losses": [[row["step"], row["loss"]] for row in history if "loss" in row],
        "validation_losses": [[row["step"], row[checked]] for row in history if checked in row],
        **measured,
        "rows": len(learnt),
        "too_long": long,
        "tokens": sum(len(tokens) for each in learnt for name, tokens in each.items() if name.endswith("_ids")),
        "steps": trainer.state.global_step,
        "trainable_parameters": trainable,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def preferred(trainer: Any, history: list[dict[str, Any]], held: tuple[list[Any], int]) -> dict[str, Any]:
    """How much the trained model prefers the better answers, compared with its base: in training, and of the held-out rows.

    The reward of an answer is ``beta`` times the logarithm of how much more probable it became; the margin is the better one's
    less the worse one's, and the accuracy the share of rows where it is above 0.
    """
    margin, accuracy = "rewards/margins", "rewards/accuracies"
    learnt = [[row["step"], row[margin], row[accuracy]] for row in history if "loss" in row]
    test, long = held
    if not test:
        return {"rewards": learnt}
    found = trainer.evaluate("test")
    names = {"loss": "loss", "reward_margin": margin, "reward_accuracy": accuracy}
    figures = {name: found[f"eval_{key}"] for name, key in names.items()}
    return {"rewards": learnt, "held_out": {"rows": len(test), "too_long": long, **figures}}


def versions() -> dict[str, str]:
    """Versions of the libraries that trained."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "trl")}


def problem_of(error: BaseException) -> Problem | None:
    """What is wrong, where the error says so: no memory, or data that cannot be used."""
    if isinstance(error, Problem):
        return error
    text = str(error)
    short = ("not enough memory", "can't allocate memory", "out of memory", "Cannot allocate memory")
    if isinstance(error, MemoryError) or any(each in text for each in short):
        return Problem("memory", text.splitlines()[0] if text else "no memory is left")
    return None


def main(base: Path, data: Path, out: Path, settings: dict[str, Any], checkpoint: str = "") -> int:
    """Exit code; a problem that is understood is written down."""
    try:
        write(out / "training.json", train(base, data, out, settings, checkpoint))
    except Exception as error:
        found = problem_of(error)
        if found is None:
            raise
        write(out / "problem.json", {"kind": found.kind, "message": str(found)})
        sys.stderr.write(f"{found}\n")
        return _PROBLEM
    return 0


if __name__ == "__main__":
    places = [Path(each) for each in sys.argv[1:4]]
    sys.exit(main(places[0], places[1], places[2], json.loads(sys.argv[4]), *sys.argv[5:]))
