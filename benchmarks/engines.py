"""engine=vllm beside engine=transformers, on a model of yours: the same answers? how quickly?

    python benchmarks/engines.py MODEL [--queries FILE] [--n 64] [--tokens 64] [--rounds 3]

MODEL is a folder or a hub id of a chat model, FILE has a question a line; without it, how-to
questions of the micro world are asked, which are harmless. Both engines answer the same token ids
greedily, under chat_vanilla and under chat_llama, and take turns. Loading is measured apart. Prints
JSON: seconds (median, least, greatest), how many answers are the same, and for the others from
which token on they differ. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ENGINES = ("transformers", "vllm")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("--queries", type=Path, help="a file with a question a line")
    parser.add_argument("--n", type=int, default=64, help="questions (default 64)")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens at most (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine (default 3)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("overrides", nargs="*", help="of both engines: engine.batch_size=64")
    options = parser.parse_intermixed_args()
    from ptst.provenance import provenance

    sessions = {name: Opened(name, options) for name in ENGINES}
    results: dict[str, Any] = {
        "load_s": {name: round(own.load_s, 1) for name, own in sessions.items()}
    }
    for template in ("chat_vanilla", "chat_llama"):
        results[template] = compared(template, sessions, options)
        print(json.dumps({template: results[template]}), file=sys.stderr, flush=True)
    facts = sessions["vllm"].engine.facts(sessions["vllm"].config)
    print(json.dumps(results | {"vllm": facts, "provenance": provenance(0.0)}, indent=2))


class Opened:
    """A model that one of the engines has loaded."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        from ptst.engine.chosen import engine_of
        from ptst.keys import cell_keys
        from ptst.stages.tested_model import TestedModel
        from ptst.store import Store

        self.words = [
            *(f"engine={name}", "finetune=none", f"model.path={options.model}"),
            *("model.name=mine", "model.chat=null", "model.completion_prefix="),
            *(f"model.dtype={options.dtype}", *options.overrides),
        ]
        self.config = config = composed(*self.words)
        self.engine = engine_of(config)
        self.tested = TestedModel(config, cell_keys(config), Store(Path(config.paths.store)))
        start = time.perf_counter()
        self.answers([[1, 2, 3]], "chat_vanilla", 1)
        self.load_s = time.perf_counter() - start

    def answers(self, prompts: list[list[int]], template: str, tokens: int) -> list[Any]:
        """Greedy answers under a template."""
        from ptst.schema import Decoding

        config = composed(*self.words, f"template@test_template={template}")
        session = self.engine.open(self.tested, config, lambda: False)
        found: dict[int, Any] = {}
        for made in session.answer(prompts, session.plan(prompts), Decoding(max_new_tokens=tokens)):
            found |= made
        return [found[i] for i in range(len(prompts))]


def composed(*words: str) -> Any:
    """A configuration with how-to questions."""
    from ptst.config.compose import compose

    return compose(["evaluation=[howto]", "tracking=none", *words])


def compared(
    template: str, sessions: dict[str, Opened], options: argparse.Namespace
) -> dict[str, Any]:
    """Both engines on the same prompts, in turns."""
    from ptst.engine import question
    from ptst.engine.spelling import Spelling

    own = sessions["vllm"]
    config = composed(*own.words, f"template@test_template={template}")
    spelling = Spelling(None, config, own.engine, own.tested.tokenizer)
    prompts = [spelling.prompt(question(text)) for text in questions(config, options)]
    took: dict[str, list[float]] = {name: [] for name in ENGINES}
    made: dict[str, list[Any]] = {}
    for _ in range(options.rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            made[name] = session.answers(prompts, template, options.tokens)
            took[name].append(time.perf_counter() - start)
    differ = [
        first_difference(a.ids, b.ids)
        for a, b in zip(*made.values(), strict=True)
        if a.ids != b.ids
    ]
    ratios = [b / a for a, b in zip(*took.values(), strict=True)]
    return {
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "answer_tokens": sum(answer.tokens for answer in made["transformers"]),
        "same": len(prompts) - len(differ),
        "others_differ_from_token": sorted(differ),
        **{f"{name}_s": spread(seconds) for name, seconds in took.items()},
        "vllm_over_transformers": spread(ratios),
    }


def questions(config: Any, options: argparse.Namespace) -> list[str]:
    """Of the file, or of the micro world's how-to questions."""
    from ptst import data

    if options.queries:
        lines = options.queries.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()][: options.n]
    rows = data.read_rows(config.evaluations["howto"].queries, ("input",))
    return [row["input"] for row in rows][: options.n]


def first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The number of the first token that differs, from 1."""
    alike = [a == b for a, b in zip(one, other, strict=False)]
    return 1 + (alike.index(False) if False in alike else len(alike))


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest."""
    found = (statistics.median(values), min(values), max(values))
    return [round(value, 2) for value in found]


if __name__ == "__main__":
    main()
