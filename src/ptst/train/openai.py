"""Fine-tuning at an OpenAI-compatible API: upload, job, wait; after a death, the same job again.

A job costs money from the moment it is created, so one that was created is found again whatever
happened: by the id kept in scratch, or by the fine-tuning's key, which the job carries as metadata;
and, once it has succeeded, in its model's name, for an API that keeps no metadata.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptst.api.endpoint import endpoint_of
from ptst.api.sdk import openai_client, pause
from ptst.errors import PtstError
from ptst.schema import Dataset, Finetune, Model, Template
from ptst.store import read_json, write_json, write_jsonl
from ptst.templates import Row, make_messages

POLL_SECONDS = 20.0
"""Between two looks at a job; the first looks follow each other sooner."""
LINE_SECONDS = 600.0
"""Between two lines about a job whose status stays."""
RETRIES = 6
"""Of one request, by the SDK."""
ENDED = ("succeeded", "failed", "cancelled")


def training_messages(
    rows: Sequence[Row], template: Template, dataset: Dataset, model: Model
) -> list[dict[str, Any]]:
    """Rows as the API takes them: {messages: [..., {role: assistant, content: output}]}."""
    return [
        {
            "messages": [
                *make_messages(row, template, dataset, model),
                {"role": "assistant", "content": str(row["output"])},
            ]
        }
        for row in rows
    ]


def train_at_api(
    model: Model,
    recipe: Finetune,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    key: str,
    out: Path,
    scratch: Path,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Fine-tune at the model's API and wait for it.

    Args:
        rows: of `training_messages`.
        key: the fine-tuning's key; the job carries it.
        out: receives `job.json`: {job, model, fine_tuned_model, trained_tokens, hyperparameters,
            ...}.
        scratch: ids of what was uploaded and created, for the next attempt.
        say: told the job's status whenever it changes, and every ten minutes.
        stop: asked while waiting; true ends the waiting and not the job, which the next attempt
            finds.

    Returns:
        Facts for the provenance.

    Raises:
        Interrupted: `stop` said so; the job goes on at the API.
        PtstError: the API refuses, or the job failed there, with its reason.
    """
    from openai import OpenAIError

    client = openai_client(endpoint_of(model, model.path), RETRIES)
    try:
        job = _job(client, model, recipe, rows, seed, key, scratch, say)
        job = _ended(client, job, say, stop)
    except OpenAIError as error:
        raise PtstError(
            f"fine-tuning {model.path} at {model.api and model.api.base_url}: {error}"
        ) from error
    if job.status != "succeeded" or not job.fine_tuned_model:
        (scratch / "job.json").unlink(missing_ok=True)  # the next attempt is a new job
        reason = job.error.message if job.error else "the API gives no reason"
        raise PtstError(f"fine-tuning job {job.id} ended {job.status}: {reason}")
    facts = {
        "job": job.id,
        "fine_tuned_model": job.fine_tuned_model,
        "trained_tokens": job.trained_tokens,
        "rows": len(rows),
    }
    write_json(
        out / "job.json", {**facts, **job.model_dump(mode="json", exclude={"organization_id"})}
    )
    return facts


def _ended(client: Any, job: Any, say: Callable[[str], None], stop: Callable[[], bool]) -> Any:
    """A job that has ended; until then `say` is told of it now and then."""
    status, wait, since, told = "", 0.5, 0.0, 0.0
    while job.status not in ENDED:
        now = time.monotonic()
        if job.status != status:
            status, since, told = job.status, now, -math.inf
        if now - told >= LINE_SECONDS:
            told = now
            minutes = (now - since) / 60
            say(f"{job.id}: {status} for {minutes:.0f} min, looked at every {POLL_SECONDS:.0f} s")
        goes_on = f"job {job.id} goes on at the API, and is found again"
        pause(min(wait, POLL_SECONDS), stop, goes_on)
        wait *= 1.5
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def fine_tuned_model(folder: Path) -> str:
    """The name under which the API has the model of a fine-tuning in the store."""
    return str(read_json(folder / "job.json")["fine_tuned_model"])


def _job(
    client: Any,
    model: Model,
    recipe: Finetune,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    key: str,
    scratch: Path,
    say: Callable[[str], None],
) -> Any:
    """The job of this fine-tuning: one that is there already, or a new one."""
    kept = scratch / "job.json"
    if recorded := _recorded(kept, client.fine_tuning.jobs, say):
        return recorded
    for job in client.fine_tuning.jobs.list(limit=100):
        # Created, and this process died before it could write that down. A failed one is done
        # again.
        if _is_of(job, key) and job.status not in ("failed", "cancelled"):
            say(f"{job.id}: found at the API, {job.status}")
            write_json(kept, {"id": job.id})
            return job
    uploaded = scratch / "file.json"
    if not _recorded(uploaded, client.files, say):
        file = scratch / f"ptst-{key}.jsonl"
        write_jsonl(file, rows)
        with file.open("rb") as stream:
            found = client.files.create(file=stream, purpose="fine-tune")
        write_json(uploaded, {"id": found.id})
    settings: dict[str, Any] = {
        "n_epochs": int(recipe.epochs),
        "batch_size": recipe.batch_size,
    }
    if recipe.learning_rate_multiplier is not None:
        settings["learning_rate_multiplier"] = recipe.learning_rate_multiplier
    # Not tried again here: a job whose answer was lost is there, and the next attempt finds it.
    job = client.with_options(max_retries=0).fine_tuning.jobs.create(
        model=model.path,
        training_file=read_json(uploaded)["id"],
        method={"type": "supervised", "supervised": {"hyperparameters": settings}},
        metadata={"ptst": key},
        suffix=_suffix(key),
        seed=seed,
    )
    write_json(kept, {"id": job.id})
    say(f"{job.id}: created, {sum(len(json.dumps(row)) for row in rows)} characters")
    return job


def _recorded(record: Path, there: Any, say: Callable[[str], None]) -> Any:
    """What the API has under the id in a record; where it has nothing any more, the record goes.

    Args:
        there: the client's jobs, or its files.
    """
    from openai import NotFoundError

    if not record.exists():
        return None
    name = read_json(record)["id"]
    try:
        return there.retrieve(name)
    except NotFoundError as error:
        say(
            f"{name} is gone at the API, and is made anew where no other is found ({error.message})"
        )
        record.unlink()
        return None


def _suffix(key: str) -> str:
    return f"ptst-{key[:8]}"


def _is_of(job: Any, key: str) -> bool:
    """Whether a job is a fine-tuning's. Its model is ft:<base>:<organisation>:<suffix>:<id>."""
    named = (job.metadata or {}).get("ptst")
    return named == key if named else f":{_suffix(key)}:" in (job.fine_tuned_model or "")
