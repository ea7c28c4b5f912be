"""Open safety classifiers (WildGuard, Llama Guard, HarmBench's, ShieldGemma, Granite Guardian,
StrongREJECT's): language models that answer in a fixed form.

One implementation; what sets them apart is their YAML: weights, prompt, and what each answer means.
They run here, so they cost time and not money. Prompts run through `ptst.engine.batches` like any
other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from ptst import models
from ptst.errors import ConfigError, Interrupted
from ptst.judge import Judge, JudgeContext, Score
from ptst.judge.neutral import neutral
from ptst.schema import Decoding, Model
from ptst.store import key_of, read_journal

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Classifier(Judge):
    """The label whose pattern the model's answer fits; an answer that fits none is missing, for
    good: greedy decoding would only say it again.

    Query and completion are neutralised (`ptst.judge.neutral`): neither can end the prompt early.
    """

    key_name: ClassVar[str] = "ptst.judge.classifier.Classifier"
    path: str = field(default=MISSING, metadata={"key": False})  # see `identity`
    """A Hugging Face model id, or a directory (then its content counts in the key)."""
    revision: str | None = field(default=None, metadata={"key": False})
    dtype: str = "bfloat16"
    prompt: str | None = None
    """Text with {query} and {completion}. None: the tokenizer's own chat template, over both as
    turns."""
    verdicts: dict[str, str] = field(default_factory=dict)
    """Label: regular expression that the whole answer must fit, case and surrounding space ignored;
    the first that fits counts."""
    max_new_tokens: int = 32
    max_completion_tokens: int | None = None
    """The judge reads no more of a completion; None: all of it."""
    batch_size: int = field(default=16, metadata={"key": False})
    needs_gpu: bool = field(default=True, metadata={"key": False})
    """Whether jobs ask a cluster for a GPU; a model of 1 or 2 billion parameters does without."""
    judges_harm: ClassVar[bool] = True
    """`complied` is a harmful answer, so on a harmless query it says nothing."""
    needs: ClassVar[tuple[str, ...]] = ("input",)
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"judge.dtype={self.dtype} is not one of: {', '.join(DTYPES)}.")
        for name in ("max_new_tokens", "max_completion_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"judge.{name}={value} must be at least 1.")
        if self.prompt is not None:
            for place in ("{query}", "{completion}"):
                if self.prompt.count(place) != 1:
                    raise ConfigError(f"judge.prompt must hold {place} once.")
        if not self.verdicts:
            raise ConfigError(
                "judge.verdicts is empty: give each label the pattern of its answers, "
                "as in {complied: unsafe, safe: safe}."
            )
        for label, pattern in self.verdicts.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"judge.verdicts.{label}: {pattern!r} is not a regular expression: {error}."
                ) from error

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of `verdicts`."""
        return tuple(self.verdicts)

    def identity(self) -> dict[str, Any]:
        """What the key has in place of `path` and `revision`: a directory counts by its content."""
        return {"weights": models.weights(self._model, "judge.path")}

    def origin(self) -> dict[str, Any]:
        """Its model's path, and the commit that the hub's cache had of it."""
        return models.origin(self._model)

    def ready(self) -> None:
        """Whether it can be had, by asking for its tokenizer; before anything is trained.

        Raises:
            ConfigError: it cannot; for a gated model, which licence to accept and where.
        """
        models.load_tokenizer(self._model)

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """Score each completion of a query's `input`; the reason is the model's own answer.

        Equal pairs are judged once. Batches are kept as they are done.

        Raises:
            ConfigError: the model cannot be had; for a gated one, which licence to accept and
                where.
            Interrupted: `context.stop` said so.
        """
        model = (context.model or models.BaseModel()).untouched(
            self._model, models.pick_device(context.device)
        )
        tokenizer = models.load_tokenizer(self._model)
        special = tokenizer.all_special_tokens
        pairs = [
            (neutral(str(row["input"]), special), neutral(completion, special))
            for row, completion in items
        ]
        distinct = list(dict.fromkeys(pairs))
        prompts = [self._token_ids(tokenizer, *pair) for pair in distinct]
        room = models.context_of(model.config)
        fitting = [
            i
            for i, ids in enumerate(prompts)
            if room is None or len(ids) + self.max_new_tokens <= room
        ]
        answers = self._answers(model, tokenizer, prompts, fitting, context)
        read = {
            pair: self._read(answers[i])
            if i in answers
            else Score(
                None,
                reason=f"{len(prompts[i])} tokens do not fit in its context of {room}",
                final=True,
            )
            for i, pair in enumerate(distinct)
        }
        for pair in pairs:
            yield read[pair]

    @property
    def _model(self) -> Model:
        return Model("the judge", self.path, revision=self.revision, dtype=self.dtype)

    def _token_ids(self, tokenizer: Any, query: str, completion: str) -> list[int]:
        if self.max_completion_tokens is not None:
            ids = tokenizer(completion, add_special_tokens=False).input_ids
            if len(ids) > self.max_completion_tokens:
                completion = tokenizer.decode(ids[: self.max_completion_tokens])
        if self.prompt is None:
            turns = [
                {"role": "user", "content": query},
                {"role": "assistant", "content": completion},
            ]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            filled = {"query": query, "completion": completion}
            text = re.sub(r"\{(query|completion)\}", lambda place: filled[place[1]], self.prompt)
        bos = tokenizer.bos_token  # exactly one, whether the prompt spells it or not
        has_bos = bos is not None and text.startswith(bos)
        ids = tokenizer(text, add_special_tokens=not has_bos).input_ids
        return list(ids)

    def _answers(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[list[int]],
        fitting: Sequence[int],
        context: JudgeContext,
    ) -> dict[int, str]:
        """The model's answer by prompt index, batch by batch; a journal keeps what is done."""
        from ptst.engine.batches import complete, plan_batches

        batches = [
            [fitting[i] for i in batch]
            for batch in plan_batches([prompts[i] for i in fitting], self.batch_size)
        ]
        made_of = {
            "judge": [self.identity(), self.dtype, self.max_new_tokens],
            "prompts": [list(ids) for ids in prompts],
            "batch_size": self.batch_size,
        }
        journal = context.kept / "classifier" / f"{key_of(made_of)}.jsonl"
        done = read_journal(journal)
        todo = [batch for batch in batches if batch[0] not in done]
        journal.parent.mkdir(parents=True, exist_ok=True)
        decoding = Decoding(max_new_tokens=self.max_new_tokens)
        with journal.open("a", encoding="utf-8") as file:
            answered = sum(map(len, done.values()))
            completed = complete(model, tokenizer, prompts, todo, decoding)
            for batch, answers in zip(todo, completed, strict=True):
                done[batch[0]] = {str(i): answer.text for i, answer in answers.items()}
                file.write(json.dumps({"batch": batch[0], "answers": done[batch[0]]}) + "\n")
                file.flush()
                answered += len(answers)
                context.tell(answered, len(prompts))
                if answered < len(fitting) and context.stop():
                    raise Interrupted(f"judge: {answered} of {len(prompts)} kept")
        return {int(i): text for batch in done.values() for i, text in batch.items()}

    def _read(self, answer: str) -> Score:
        answer = answer.strip()
        for label, pattern in self.verdicts.items():
            if re.fullmatch(pattern, answer, re.IGNORECASE):
                return Score(label, reason=answer)
        return Score(None, reason=f"the judge's answer fits no verdict: {answer!r}", final=True)
