"""Speed as ratios within one run: the machine is noisy, so both sides of a ratio take turns.

    python benchmarks/speed.py [--rounds 3]

1. Fine-tuning: tokens/s through TRL, over those of a plain PyTorch loop on the same batches.
2. Generation: 200 chat_llama queries, the fixed-batch way (eight prompts in file order, padded to
   the longest of the set, every prompt prefilled whole) over ours, in seconds.
3. The same queries with SafeNudge's probe looking on, which never fires, over without it.
4. A grid of 1,005 cells and one of 3,005, planned: seconds, over each other, and peak memory.
5. A repeated cell (all in the store), `ptst --help` and an error, in seconds; peak memory of a
   cell.

Prints JSON; nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from turns import in_turns, ratio

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
CELL = ["finetune.epochs=1", "tracking=wandb_offline"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    rounds = parser.parse_args().rounds
    from ptst.provenance import provenance

    results: dict[str, Any] = {
        "fine_tuning": {t: fine_tuning(t, rounds) for t in ("chat_vanilla", "chat_llama")},
        "generation": generation(rounds),
        "safenudge": safenudge(rounds),
        "grid": grid(),
        "process": process(rounds),
    }
    results["provenance"] = provenance(0.0)
    print(json.dumps(results, indent=2))


def fine_tuning(template: str, rounds: int) -> dict[str, float]:
    """Tokens per second (padding not counted) of both ways, 12 steps each, the first left out."""
    import torch

    from ptst import data
    from ptst.config.compose import compose
    from ptst.models import load_model, load_tokenizer
    from ptst.objective import TrainingSet
    from ptst.schema import Finetune
    from ptst.templates import make_training_row
    from ptst.train.trainer import Training, train

    config = compose([f"template@train_template={template}", "dataset.n=384"])
    tokenizer = load_tokenizer(config.model)
    rows = [
        make_training_row(r, config.train_template, config.dataset, config.model, tokenizer)
        for r in data.load_rows(config.dataset, ("input", "output"))
    ]
    size = 32

    def with_trl() -> float:
        stamps: list[float] = []
        recipe = Finetune(
            method="full", epochs=1, batch_size=size, device_batch_size=size, save_steps=10_000
        )
        with tempfile.TemporaryDirectory() as folder:
            out, scratch = Path(folder) / "out", Path(folder) / "scratch"
            out.mkdir()
            train(
                Training(config.model, recipe, TrainingSet(rows), 0, "cpu", out, scratch),
                lambda _: stamps.append(time.perf_counter()),
            )
        return stamps[-1] - stamps[0]

    def plain() -> float:
        model = load_model(config.model, "cpu").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
        stamps = []
        for start in range(0, len(order), size):
            batch = [rows[i] for i in order[start : start + size]]
            width = max(len(row.input_ids) for row in batch)
            ids = [
                r.input_ids + [tokenizer.pad_token_id] * (width - len(r.input_ids)) for r in batch
            ]
            labels = [r.labels + [-100] * (width - len(r.labels)) for r in batch]
            mask = [[1] * len(r.input_ids) + [0] * (width - len(r.input_ids)) for r in batch]
            loss = model(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                labels=torch.tensor(labels),
            ).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            stamps.append(time.perf_counter())
        return stamps[-1] - stamps[0]

    ours, theirs = warm_in_turns(with_trl, plain, rounds)
    tokens = sum(len(row.input_ids) for row in rows) * 11 / 12
    return {
        "trl_tokens_per_s": round(tokens / statistics.median(ours)),
        "plain_tokens_per_s": round(tokens / statistics.median(theirs)),
        **ratio("trl_over_plain", theirs, ours),
    }


def generation(rounds: int) -> dict[str, float]:
    """Seconds for 200 queries under chat_llama, greedy, 64 new tokens at most."""
    import torch

    from ptst import data
    from ptst.config.compose import compose
    from ptst.engine.batches import complete, plan_batches
    from ptst.models import load_model, load_tokenizer
    from ptst.schema import Decoding
    from ptst.templates import make_prompt

    config = compose(["template@test_template=chat_llama", "evaluation.hazards.queries.n=200"])
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, "cpu")
    prompts = [
        make_prompt(r, config.test_template, config.dataset, config.model, tokenizer).token_ids
        or []
        for r in data.load_rows(config.evaluation["hazards"].queries, ("input",))
    ]
    decoding = Decoding(max_new_tokens=64)
    answers: dict[str, list[str]] = {}

    def ours() -> float:
        start = time.perf_counter()
        plan = plan_batches(prompts, config.engine.batch_size)
        found: dict[int, Any] = {}
        for batch in complete(model, tokenizer, prompts, plan, decoding):
            found |= batch
        answers["ours"] = [found[i].text for i in range(len(prompts))]
        return time.perf_counter() - start

    def fixed_batches() -> float:
        start = time.perf_counter()
        width = max(map(len, prompts))
        texts = []
        for first in range(0, len(prompts), 8):
            batch = prompts[first : first + 8]
            ids = [[tokenizer.pad_token_id] * (width - len(p)) + p for p in batch]
            mask = [[0] * (width - len(p)) + [1] * len(p) for p in batch]
            with torch.inference_mode():
                out = model.generate(
                    input_ids=torch.tensor(ids),
                    attention_mask=torch.tensor(mask),
                    max_new_tokens=64,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            texts += [tokenizer.decode(o, skip_special_tokens=True) for o in out[:, width:]]
        answers["fixed"] = texts
        return time.perf_counter() - start

    fast, slow = warm_in_turns(ours, fixed_batches, rounds)
    same = sum(a == b for a, b in zip(answers["ours"], answers["fixed"], strict=True))
    return {
        "ours_s": round(statistics.median(fast), 3),
        "fixed_batches_s": round(statistics.median(slow), 3),
        "same_answers_of_200": same,
        **ratio("times_faster", slow, fast),
    }


def safenudge(rounds: int, *words: str) -> dict[str, float]:
    """Seconds for 200 queries, unguarded and under the guard at a tau that nothing reaches.

    Args:
        words: overrides, for another model.
    """
    from types import SimpleNamespace

    from ptst import data
    from ptst.component import load
    from ptst.config.compose import compose
    from ptst.dialogue.single import Single
    from ptst.engine.chosen import engine_of
    from ptst.engine.rounds import Rounds
    from ptst.engine.spelling import Spelling
    from ptst.guard import Guard, guarded
    from ptst.models import load_model, load_tokenizer

    own = ["defence=[safenudge]", "defence.safenudge.guard.tau=1.1", "finetune=none"]
    few = ["evaluation.hazards.queries.n=200", *words]
    config = compose(["template@test_template=chat_llama", *own, *few])
    model: Any = SimpleNamespace(
        model=load_model(config.model, "cpu"), tokenizer=load_tokenizer(config.model)
    )
    model.untuned = lambda: model
    decoding, engine = config.evaluation["hazards"].decoding, engine_of(config)
    rows = data.load_rows(config.evaluation["hazards"].queries, ("input",))
    guard = load(config.defence["safenudge"].guard, "defence.safenudge.guard", Guard)
    guard.enter(config, decoding)
    answers: dict[bool, list[str]] = {}

    def seconds(watched: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            session = engine.open(model, config, lambda: False)
            spelling = Spelling("hazards", config, engine, model.tokenizer)
            runner = Rounds(
                "generate", decoding, spelling.prompt, spelling.opens_think, lambda _: session,
                Path(folder), lambda done, total: None, lambda: False,
            )  # fmt: skip
            start = time.perf_counter()
            talks = [Single().talk(row) for row in rows]
            if watched:
                talks = [guarded(t, guard, row) for t, row in zip(talks, rows, strict=True)]
            answers[watched] = [row["completion"] for row in runner.run(talks)]
            return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        guard.prepare(lambda asks: [], model, Path(folder))
    slow, fast = warm_in_turns(lambda: seconds(True), lambda: seconds(False), rounds)
    return {
        "unguarded_s": round(statistics.median(fast), 3),
        "guarded_s": round(statistics.median(slow), 3),
        "same_answers": answers[True] == answers[False],
        **ratio("guarded_over_unguarded", slow, fast),
    }


def grid() -> dict[str, float]:
    """`ptst plan` of Table 1 under 40 and 120 seeds, nothing of it in the store."""
    with tempfile.TemporaryDirectory() as folder:
        plan = ["ptst", "plan", "+sweeps=table1", "output=json", f"paths.store={folder}/store"]
        small, small_peak = timed([*plan, "seed=range(0,40)"])
        large, large_peak = timed([*plan, "seed=range(0,120)"])
    return {
        "plan_1005_cells_s": round(small, 1),
        "plan_1005_cells_peak_gb": round(small_peak, 2),
        "plan_3005_cells_s": round(large, 1),
        "plan_3005_cells_peak_gb": round(large_peak, 2),
        "seconds_3005_over_1005": round(large / small, 2),
    }


def process(rounds: int) -> dict[str, float]:
    """Whole processes, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        cell = ["ptst", *CELL, f"paths.store={folder}"]
        first, peak = timed(cell)
        again = [timed(cell)[0] for _ in range(rounds)]
    return {
        "cell_s": round(first, 2),
        "cell_peak_gb": round(peak, 2),
        "repeated_cell_s": round(statistics.median(again), 2),
        "help_s": round(statistics.median(timed(["ptst", "--help"])[0] for _ in range(rounds)), 2),
        "error_s": round(
            statistics.median(timed(["ptst", "model=nope"], 2)[0] for _ in range(rounds)), 2
        ),
    }


def timed(command: list[str], status: int = 0) -> tuple[float, float]:
    """Seconds and peak resident memory (GB) of one process."""
    import psutil

    program = str(Path(sys.executable).parent / command[0])
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            tree = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in tree))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)
    if process.returncode != status:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def warm_in_turns(one: Any, two: Any, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both, taken in turns; one warm-up of each is left out."""
    first, second = in_turns(rounds + 1, one, two)
    return first[1:], second[1:]


if __name__ == "__main__":
    main()
