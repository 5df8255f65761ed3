"""Trains a model on conversations: LoRA adapter or all weights, with checkpoints to go on from.

Usage: ``train_model.py BASE DATA OUT SETTINGS_AS_JSON [CHECKPOINT]``, in an environment with torch, transformers and peft.

BASE is a checkpoint, DATA a folder with ``train.jsonl`` and perhaps ``validation.jsonl``: one conversation a line
(``{"messages": [...]}``), whose last message is the answer to learn. In OUT: ``progress.json`` (now and then),
``checkpoints/``, and at the end ``model/`` (whole weights), ``adapter/`` (LoRA) and ``training.json``; or ``problem.json`` and
exit code 70. Each checkpoint is complete when the file COMPLETE is in it. On CPUs, with the same number of threads, the result
is the same to the bit, whether the training was interrupted or not.
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


def encode(tokenizer: Any, messages: list[dict[str, Any]], longest: int) -> dict[str, list[int]] | None:
    """Tokens of a conversation; only the answer at its end is learnt. ``None`` when it is longer than ``longest`` tokens."""
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(asked):
        raise Problem("template", "the chat template renders a question differently when its answer follows")
    before, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, whole))
    shared = next((at for at, pair in enumerate(zip(before, tokens, strict=False)) if pair[0] != pair[1]), len(before))
    if len(tokens) > longest:
        return None
    return {"input_ids": tokens, "labels": [_IGNORED] * shared + tokens[shared:]}


def rows(place: Path, tokenizer: Any, longest: int) -> tuple[list[dict[str, list[int]]], int]:
    """The rows of a file as tokens, and how many were left out because they are too long."""
    if not place.is_file():
        return [], 0
    lines = [line for line in place.read_text(encoding="utf-8").split("\n") if line.strip()]
    found = [encode(tokenizer, json.loads(line)["messages"], longest) for line in lines]
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
    """The model to train, and the data type that its weights are stored in."""
    import torch
    from transformers import AutoModelForCausalLM

    stored = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    kind = next(stored.parameters()).dtype
    narrow = torch.cuda.is_available() and settings["method"] == "lora"
    model = stored if narrow else stored.to(torch.float32)
    if settings["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        targets = settings["targets"]
        model = get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=settings["rank"],
                lora_alpha=settings["alpha"],
                lora_dropout=settings["dropout"],
                target_modules=targets if len(targets) != 1 or targets[0] != "all-linear" else "all-linear",
            ),
        )
        if settings["gradient_checkpointing"]:
            model.enable_input_require_grads()
    return model, kind


def arguments(out: Path, settings: dict[str, Any], steps: int, *, validated: bool) -> Any:
    """What the trainer of transformers is told."""
    import torch
    from transformers import TrainingArguments

    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=settings["epochs"],
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=settings["batch_size"],
        gradient_accumulation_steps=settings["accumulate"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        learning_rate=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        lr_scheduler_type="cosine",
        warmup_steps=round(steps * settings["warmup"]),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings["save_every"],
        save_total_limit=2,
        eval_strategy="epoch" if validated else "no",
        seed=settings["seed"],
        data_seed=settings["seed"],
        bf16=cuda,
        use_cpu=not cuda,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
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
    from transformers import AutoTokenizer, Trainer

    torch.set_num_threads(settings["threads"] or len(os.sched_getaffinity(0)))
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    transformers.set_seed(settings["seed"])
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    if tokenizer.chat_template is None:
        raise Problem("template", "the model has no chat template")
    learnt, long = rows(data / "train.jsonl", tokenizer, settings["max_tokens"])
    checked, _ = rows(data / "validation.jsonl", tokenizer, settings["max_tokens"])
    if not learnt:
        raise Problem("data", f"no row has at most {settings['max_tokens']} tokens ({long} are longer)")
    steps = -(-len(learnt) // (settings["batch_size"] * settings["accumulate"])) * settings["epochs"]
    write(out / "progress.json", {"step": 0, "steps": steps, "loss": None, "left_s": None})
    model, kind = load(base, settings)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    trainer = Trainer(
        model=model,
        args=arguments(out, settings, steps, validated=bool(checked)),
        data_collator=lambda batch: collate(batch, pad),
        train_dataset=learnt,
        eval_dataset=checked or None,
        callbacks=[teller(out, steps, settings["seed"])],
    )
    begun = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint or None)
    history = trainer.state.log_history
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    save(model, base, out, kind, settings)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return {
        "losses": [[row["step"], row["loss"]] for row in history if "loss" in row],
        "validation_losses": [[row["step"], row["eval_loss"]] for row in history if "eval_loss" in row],
        "rows": len(learnt),
        "too_long": long,
        "tokens": sum(len(each["input_ids"]) for each in learnt),
        "steps": trainer.state.global_step,
        "trainable_parameters": trainable,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that trained."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}


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
