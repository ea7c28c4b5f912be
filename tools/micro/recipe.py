"""How the micro model is made, from nothing: tokenizer, pretraining, alignment.

    python -m tools.micro.recipe --seed 0 --out DIR [--align booster]

All stages have a fixed number of steps and draw their text from the seed. DIR becomes a Hugging
Face model directory in one move at the end. Until then the finished stages lie in DIR.partial, and
running again goes on after the last one: pretraining-SEED-STEPS.pt of another run, put there, is
aligned in another way. The seed that ships is 0, fixed before any seed was trained.
"""

import argparse
import dataclasses
import functools
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.micro.corpus import UNSURE

if TYPE_CHECKING:
    from tools.micro.train import Stage

MAX_LENGTH = 2048
LONGEST_LIST = 384
"""Tokens of a sample of `--repeat`, at most."""
ALIGN = ("plain", "booster", "vaccine")


def main(arguments: list[str] | None = None) -> None:
    """Make one model; see the module's first lines."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.micro.recipe", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the weights and of all text (default: 0, the shipped)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the model directory to make; must not exist yet"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="do not use torch.compile (it needs a C++ compiler)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="multiplies all steps, to try the recipe out (default: 1)",
    )
    parser.add_argument(
        "--unsure",
        type=float,
        default=UNSURE,
        help="share of word problems that alignment declines under a safety prompt "
        "(default: %(default)s; docs/micro-world.md says what it decides)",
    )
    parser.add_argument(
        "--repeat",
        type=float,
        default=0.0,
        help="share of alignment that is harmless items to be repeated, so that the model can be a guard's "
        "repeater (default: %(default)s; no model that ships has any)",
    )
    parser.add_argument(
        "--align",
        choices=ALIGN,
        default="plain",
        help="harden the alignment against fine-tuning (default: %(default)s; see tools/micro/align.py)",
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="round the weights that are saved, to half the size"
    )
    options = parser.parse_args(arguments)
    make(
        options.seed,
        options.out,
        threads=options.threads,
        compile_=not options.no_compile,
        scale=options.scale,
        unsure=options.unsure,
        bfloat16=options.bfloat16,
        align=options.align,
        repeat=options.repeat,
    )


def stages(scale: float = 1.0) -> "tuple[Stage, Stage]":
    """Pretraining and alignment, their steps multiplied by `scale`."""
    from tools.micro.train import Stage

    pretraining = Stage(
        "pretraining", int(2400 * scale), lr=3e-3, warmup=50, rows=20, lengths=(192,), pack=True
    )
    alignment = Stage(
        "alignment",
        int(600 * scale),
        lr=5e-4,
        warmup=30,
        rows=48,
        lengths=(48, 64, 96, 192),
        pack=False,
    )
    return pretraining, alignment


def make(
    seed: int,
    out: Path,
    threads: int = 1,
    compile_: bool = True,
    scale: float = 1.0,
    unsure: float = UNSURE,
    bfloat16: bool = False,
    align: str = "plain",
    repeat: float = 0.0,
) -> None:
    """Make the model directory `out`, and beside it `<out>-base`, the model before its alignment.

    Raises:
        FileExistsError: it is there already.
    """
    import torch

    from tools.micro import corpus
    from tools.micro.tokenizer import train_tokenizer
    from tools.micro.train import new_model, train

    base = out.with_name(f"{out.name}-base")
    for made in (out, base):
        if made.exists():
            raise FileExistsError(f"{made} is there already; remove it, or choose another --out")
    if compile_ and shutil.which("g++") is None:
        print(
            "no C++ compiler (g++): going on without torch.compile, at about half the speed",
            file=sys.stderr,
        )
        compile_ = False
    torch.set_num_threads(threads)
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(corpus.tokenizer_corpus())
    print(f"tokenizer: {len(tokenizer)} tokens", flush=True)
    model = new_model(tokenizer, seed, MAX_LENGTH)
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    samples: tuple[Callable[[random.Random], corpus.Sample], ...] = (
        corpus.pretraining_sample,
        functools.partial(corpus.alignment_sample, unsure=unsure, repeat=repeat),
    )
    for stage, sample in zip(stages(scale), samples, strict=True):
        own, way = "", "plain"
        if stage.name == "alignment":
            own, way = f"-{unsure}" + ("" if align == "plain" else f"-{align}"), align
            if repeat:  # a list under a safety prompt, and the same list again
                own += f"-repeat{repeat}"
                stage = dataclasses.replace(stage, lengths=(*stage.lengths, LONGEST_LIST))
        finished = partial / f"{stage.name}-{seed}-{stage.steps}{own}.pt"
        if finished.exists():
            model.load_state_dict(torch.load(finished, weights_only=True))
            print(f"{stage.name}: found finished in {partial}", flush=True)
        else:
            train(
                model,
                tokenizer,
                stage,
                sample,
                seed,
                compile_,
                report=lambda line: print(line, flush=True),
                align=way,
            )
            writing = finished.with_suffix(".writing")
            torch.save(model.state_dict(), writing)
            writing.replace(finished)
        _save(model, tokenizer, partial / f"{stage.name}-model", bfloat16)
    (partial / "pretraining-model").replace(base)
    (partial / "alignment-model").replace(out)
    shutil.rmtree(partial)
    print(f"made {out} and {base}", flush=True)


def _save(model: Any, tokenizer: Any, ready: Path, bfloat16: bool) -> None:
    import copy

    import torch

    shutil.rmtree(ready, ignore_errors=True)
    model = copy.deepcopy(model).to(torch.bfloat16) if bfloat16 else model
    model.generation_config.update(do_sample=False, max_new_tokens=96)
    model.save_pretrained(ready)
    tokenizer.save_pretrained(ready)
    for file in ready.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main()
