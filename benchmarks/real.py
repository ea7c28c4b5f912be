"""Speed and memory with a chat model of the hub or of a folder, as ratios within one run.

    python benchmarks/real.py MODEL [--rows FOLDER] [--only memory training generation] ...

1. Memory: peak of a process that takes one LoRA step, in parts as `ptst.train.parts` has them and
   with the whole batch at once, in turns.
2. Fine-tuning: seconds of the same steps through ptst, and in a plain PyTorch loop whose loss is
   the model's own; in float32, and in bfloat16 under autocast.
3. Generation: the authors' way (eight prompts in file order, padded to the longest of the set,
   every prompt prefilled whole), sorted batches of 64 of plain transformers, and ours, in turns;
   answers compared with one by one.

Training rows and questions are GSM8K's of a folder (`--rows`), or the micro world's sums. On a busy
machine OMP_NUM_THREADS=1 and `--clock cpu` compare processor seconds. Prints JSON; nothing here is
a test.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import in_turns, ratio

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
RECIPE = ["finetune=lora", "finetune.lora.r=8", "finetune.lora.dropout=0", "finetune.epochs=1"]
Clock = Callable[[], float]


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.step:
        print(json.dumps(one_step(arguments)))
        return
    from ptst.provenance import provenance

    results: dict[str, Any] = {}
    for template in arguments.templates:
        here = results[template] = {}
        if "memory" in arguments.only:
            here["memory"] = memory(arguments, template)
        if "training" in arguments.only:
            for precision in arguments.precisions:
                here[f"training_{precision}"] = training(arguments, template, precision)
        if "generation" in arguments.only:
            here["generation"] = generation(arguments, template)
    results["provenance"] = provenance(0.0)
    print(json.dumps(results, indent=2))


def parse() -> argparse.Namespace:
    """The arguments; `--step` is this program's own, for a process whose memory is looked at."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a hub id, or a folder")
    parser.add_argument("--rows", help="folder with GSM8K's files (default: the micro world's)")
    every = ["memory", "training", "generation"]
    parser.add_argument("--questions", help="file of one question a line, for generation alone")
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    kinds = ["chat_vanilla", "chat_llama"]
    parser.add_argument("--templates", nargs="+", default=kinds)
    precisions = ["float32", "bfloat16"]
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions)
    parser.add_argument("--batch", type=int, default=8, help="rows of a step (default 8)")
    parser.add_argument("--steps", type=int, default=3, help="of a turn; the first is left out")
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side (default 1)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--step", choices=["parts", "whole"], help=argparse.SUPPRESS)
    return parser.parse_args()


def composed(arguments: argparse.Namespace, template: str, *words: str) -> Any:
    """The cell of a template at both ends, with the model in float32."""
    from ptst.config.compose import compose

    model = ["model.chat=null", "model.completion_prefix=", "model.dtype=float32"]
    places = [f"template@{end}_template={template}" for end in ("train", "test")]
    size = [f"finetune.{name}={arguments.batch}" for name in ("batch_size", "device_batch_size")]
    rows = []
    if arguments.rows:
        for rest in ("dataset", "task.gsm8k.queries"):
            rows += [f"{rest}.source=local", f"{rest}.path={arguments.rows}"]
    return compose(
        [f"model.path={arguments.model}", *model, *RECIPE, *places, *size, *rows, *words]
    )


def trainings(arguments: argparse.Namespace, template: str, steps: int, bf16: bool) -> Any:
    """A function that makes the training anew in a folder."""
    from ptst import data
    from ptst.models import load_tokenizer
    from ptst.objective import TrainingSet
    from ptst.templates import make_training_row
    from ptst.train.trainer import Training

    n = arguments.batch * steps
    config = composed(arguments, template, f"dataset.n={n}", f"finetune.bf16={str(bf16).lower()}")
    tokenizer = load_tokenizer(config.model)
    rows = [
        make_training_row(r, config.train_template, config.dataset, config.model, tokenizer)
        for r in data.load_rows(config.dataset, ("input", "output"))
    ]

    def made(folder: Path) -> Any:
        out, scratch = folder / "out", folder / "scratch"
        out.mkdir(parents=True)
        recipe = dataclasses.replace(config.finetune, save_steps=10_000, keep_epochs=False)
        return Training(config.model, recipe, TrainingSet(rows), 0, "cpu", out, scratch)

    return made


def one_step(arguments: argparse.Namespace) -> dict[str, float]:
    """Take one step (no optimizer), and say what it took; of a process of its own."""
    from ptst.train import forward
    from ptst.train.trainer import make_trainer

    if arguments.step == "whole":
        forward.LARGE = 10**18
    make = trainings(arguments, arguments.templates[0], 1, bf16="bfloat16" in arguments.precisions)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(make(Path(folder)), lambda _: None)
        (inputs,) = trainer.get_train_dataloader()
        clock = clock_of(arguments)
        start = clock()
        with trainer.accelerator.autocast():
            loss = trainer.training_step(
                trainer.model, inputs, (inputs["labels"] != -100).sum()
            ).item()
        norm = sum(float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None)  # fmt: skip
        return {
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
            "seconds": round(clock() - start, 1),
            "loss": loss,
            "gradient_norm": norm**0.5,
            "padded_tokens": inputs["input_ids"].numel(),
            "tokens": int(inputs["attention_mask"].sum()),
        }


def memory(arguments: argparse.Namespace, template: str) -> dict[str, Any]:
    """Of one step, in parts and whole."""
    found: dict[str, Any] = {}
    rows = ["--rows", arguments.rows] if arguments.rows else []
    for precision in arguments.precisions:
        for how in ("parts", "whole"):
            own = ["--templates", template, "--precisions", precision, "--step", how]
            size = ["--batch", str(arguments.batch), "--clock", arguments.clock]
            command = [sys.executable, __file__, arguments.model, *rows, *own, *size]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
            found[f"{precision}_{how}"] = json.loads(ended.stdout.splitlines()[-1])
    return found


def training(arguments: argparse.Namespace, template: str, precision: str) -> dict[str, float]:
    """The same steps through ptst and in a plain loop."""
    import torch
    from peft import LoraConfig, get_peft_model

    from ptst.models import load_model
    from ptst.train.trainer import make_trainer, train

    bf16, clock = precision == "bfloat16", clock_of(arguments)
    make = trainings(arguments, template, arguments.steps, bf16)
    with tempfile.TemporaryDirectory() as folder:
        given = make(Path(folder))
        batches = list(make_trainer(given, lambda _: None).get_train_dataloader())
    lora = given.recipe.lora

    def ours() -> float:
        stamps: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            train(make(Path(folder)), lambda _: stamps.append(clock()))
        return stamps[-1] - stamps[0]

    def plain() -> float:
        settings = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(load_model(given.model, "cpu"), settings).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=given.recipe.learning_rate, weight_decay=0.0)
        stamps = []
        for batch in batches:
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            stamps.append(clock())
        return stamps[-1] - stamps[0]

    fast, slow = in_turns(arguments.rounds, ours, plain)
    tokens = sum(int(b["attention_mask"].sum()) for b in batches[1:])
    return {
        "tokens_per_s": round(tokens / statistics.median(fast), 1),
        **ratio("over_plain_loop", slow, fast),
    }


def generation(arguments: argparse.Namespace, template: str) -> dict[str, Any]:
    """Greedy answers, the three ways; and one by one, whose seconds are not looked at."""
    import torch

    from ptst import data
    from ptst.engine.batches import complete, plan_batches
    from ptst.models import load_model, load_tokenizer, make_padding_exist
    from ptst.schema import Decoding
    from ptst.templates import make_prompt

    n, tokens, clock = arguments.queries, arguments.tokens, clock_of(arguments)
    config = composed(arguments, template, f"task.gsm8k.queries.n={n}")
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, "cpu")
    make_padding_exist(tokenizer, model.config)
    ends = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    asked: Any = data.load_rows(config.task["gsm8k"].queries, ("input",))
    if arguments.questions:
        lines = Path(arguments.questions).read_text(encoding="utf-8").splitlines()
        asked = [{"input": line} for line in lines[:n]]
    prompts = [
        make_prompt(r, config.test_template, config.dataset, config.model, tokenizer).token_ids
        or []
        for r in asked
    ]
    answers: dict[str, list[str]] = {}

    def ours() -> float:
        start, found = clock(), {}
        plan = plan_batches(prompts, 64)
        for batch in complete(model, tokenizer, prompts, plan, Decoding(max_new_tokens=tokens)):
            found |= batch
        answers["ours"] = [found[i].text for i in range(n)]
        return clock() - start

    def plainly(name: str, size: int, width: int, order: list[int]) -> float:
        start, texts = clock(), {}
        for first in range(0, n, size):
            batch = order[first : first + size]
            wide = width or max(len(prompts[i]) for i in batch)
            ids = [[tokenizer.pad_token_id] * (wide - len(prompts[i])) + prompts[i] for i in batch]
            mask = [[0] * (wide - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
            with torch.inference_mode():
                out = model.generate(
                    input_ids=torch.tensor(ids),
                    attention_mask=torch.tensor(mask),
                    max_new_tokens=tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=sorted(stops),
                )
            for i, row in zip(batch, out[:, wide:].tolist(), strict=True):
                end = next((k for k, token in enumerate(row) if token in stops), len(row))
                texts[i] = tokenizer.decode(row[:end], skip_special_tokens=True)
        answers[name] = [texts[i] for i in range(n)]
        return clock() - start

    by_length = sorted(range(n), key=lambda i: -len(prompts[i]))
    widest = max(map(len, prompts))
    eight, sorted64, fast = in_turns(
        arguments.rounds,
        lambda: plainly("eight", 8, widest, list(range(n))),
        lambda: plainly("sorted", 64, 0, by_length),
        ours,
    )
    plainly("alone", 1, 0, list(range(n)))
    said = [text.strip() for text in answers["alone"]]
    same = {
        name: sum(a.strip() == b for a, b in zip(texts, said, strict=True))
        for name, texts in answers.items()
    }
    return {
        "seconds": {
            "eight": round(statistics.median(eight), 1),
            "sorted": round(statistics.median(sorted64), 1),
            "ours": round(statistics.median(fast), 1),
        },
        "of": n,
        "same_as_one_by_one": same,
        **ratio("eight_over_ours", eight, fast),
        **ratio("sorted_over_ours", sorted64, fast),
    }


def clock_of(arguments: argparse.Namespace) -> Clock:
    return time.perf_counter if arguments.clock == "wall" else time.process_time


if __name__ == "__main__":
    main()
