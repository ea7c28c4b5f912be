"""Between stages 1 and 2: a defence changes the weights once, after training."""

from __future__ import annotations

import time

from ptst.component import Context, load
from ptst.keys import CellKeys, slot
from ptst.posthoc import PostHoc
from ptst.progress import progress
from ptst.quiet import quiet
from ptst.schema import Config
from ptst.stages.base import Stop, never, write_provenance
from ptst.stages.tested_model import TestedModel, without_adapter
from ptst.store import Store


def posthoc(
    config: Config,
    keys: CellKeys,
    store: Store,
    made: dict[str, float],
    model: TestedModel,
    stop: Stop = never,
) -> None:
    """Fine-tuned weights, or the untouched model's, become other weights of the whole model.

    An adapter is merged, in the model's own precision: first, or last where the step says so.
    """
    filled = slot(config, "posthoc")
    if filled is None or keys.posthoc is None:
        return
    with store.make("posthoc", keys.posthoc, keys.posthoc_parts, stop) as work:
        if work is None:
            return
        started = time.monotonic()
        quiet()
        name, node = filled
        step = load(node, f"defence.{name}.posthoc", PostHoc)
        with progress(f"defence {name}") as advance:

            def tell(done: int, total: int) -> None:
                advance(done, total, "")
                work.tell(done, total)

            tuned = model.merged() if step.merged else model.trained()
            about = (config, model.tokenizer, model.picked, work.scratch, tell, stop)
            facts = step.apply(tuned, model.untouched(), Context(*about, model.training()))
            without_adapter(tuned).save_pretrained(work.result / "weights")
        made["posthoc"] = time.monotonic() - started
        seconds = work.maker.spent + made["posthoc"]
        write_provenance(work.result, config, seconds, {**facts, **step.origin()})
