"""What answers prompts: a model on this machine, one behind an API, or no model at all.

Three layers meet here. An *engine* is named by a YAML and opens a *session*, which answers prompts
that are spelled already. A *dialogue* (ptst.dialogue) yields *asks* in words and is sent a *reply*
to each; a *guard* (ptst.guard) stands around every ask. `ptst.engine.rounds` advances all
conversations together, `ptst.engine.spelling` turns asks into prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from ptst.api.answers import whole_text
from ptst.chat import split_thinking
from ptst.component import Component, Parts, component_parts, parts_of, speed
from ptst.errors import ConfigError, DataError
from ptst.models import Files, Process
from ptst.schema import Config, Decoding, Evaluation, Template

DEVICES = ("auto", "cpu", "cuda")
Place = Literal["append", "prepend", "replace"]
"""Where a system prompt of a conversation's own stands beside the template's."""
THINKING_CUT_OFF = "its think block did not end within max_new_tokens"
"""Why an answer is withheld that ended at the length limit before it began."""
AS_IT_IS = "{input}"
"""The reading of a question that is asked in exactly these words."""

Stop = Callable[[], bool]
"""Whether work should stop where nothing is lost (a time limit comes near)."""
Message = Mapping[str, Any]
"""One turn of a conversation: {role, content}, the role user or assistant. The content is text; of
a user also a query's row, which then reads as a first question does."""


@dataclass(frozen=True)
class Completion:
    """What a session gives for one prompt.

    Attributes:
        tokens: the end included; None where they are not counted.
        finished: whether it ended before max_new_tokens.
        withheld: why there is no answer (an API's content filter); "" for every answer there is.
        ids: the token ids of the text, the end left out; empty where there are none.
        seen: what a watch noted, a number for each of `ids`, or a steer, for the end too; empty
            where nothing was noted.
    """

    text: str
    tokens: int | None
    finished: bool
    withheld: str = ""
    ids: tuple[int, ...] = ()
    seen: tuple[float, ...] = ()


class TooLong(DataError):
    """A prompt and its answer do not fit in the model's context."""


class Watch(Protocol):
    """Looks into a model while it writes, and may stop it."""

    def look(self, hidden: Any, step: int) -> tuple[Any, Any]:
        """Which rows of a batch to stop now, and what to note of each.

        Called at every token: what waits for a GPU here slows all answers down.

        Args:
            hidden: the last layer's states behind the final norm, of which the newest token was
                made; a tensor [rows, width].
            step: how many tokens each row has, from 1. A row that has ended, or was stopped, is of
                no account.

        Returns:
            Booleans, a tensor [rows]: the newest token is the last of a row that is stopped. And
            numbers, a tensor [rows], which are kept with the answer (`Reply.seen`); or None.
        """


@runtime_checkable
class Steer(Protocol):
    """Chooses what a model writes next, for greedy answers."""

    def choose(
        self, answers: Sequence[Sequence[int]], scores: Any, ends: frozenset[int]
    ) -> tuple[list[int], list[float]]:
        """The next token of each row, and what to note of each (`Reply.seen`).

        Called at every token: a GPU waits for it.

        Args:
            answers: the token ids that each row has written so far; rows that have ended are left
                out.
            scores: the model's scores of the next token, a tensor [rows, vocabulary].
            ends: the ids that end an answer.
        """


@dataclass(frozen=True)
class Ask:
    """What a model is asked next, in words.

    Attributes:
        row: a query's columns, of which the test template makes the first prompt.
        later: the turns behind that prompt, the assistant's first, a user's last.
        reading: how the row reads (`Evaluation.question`); None: as the evaluation says.
        template: None: the cell's test template.
        model: the cell's model, or the one that it was before fine-tuning.
        decoding: None: the evaluation's.
        begin: what the answer begins with, text or token ids. The model continues it; the reply
            does not repeat it.
        ids: whether the reply has token ids, to begin another answer with them.
        watch: may stop the answer, whose reply then is not `finished`; or a steer, which chooses
            its tokens. None: nothing looks.
        system: a system prompt of the conversation's own, for chat templates; it takes the place of
            the instruction that the row or the data set has. None: there is none.
        place: where `system` stands: behind the template's system prompt after an empty line
            ("append"), ahead of it ("prepend"), or alone ("replace").
        once: whether equal asks of a round are answered together, once: what is greedy and about no
            query in particular need not be asked again. (Asks of queries are never equal.)
    """

    row: Mapping[str, Any]
    later: tuple[Message, ...] = ()
    reading: str | None = None
    template: Template | None = None
    model: Literal["tested", "untuned"] = "tested"
    decoding: Decoding | None = None
    begin: tuple[str | tuple[int, ...], ...] = ()
    ids: bool = False
    watch: Watch | Steer | None = None
    system: str | None = None
    place: Place = "append"
    once: bool = False

    def then(self, reply: Reply, question: str | Mapping[str, Any]) -> Ask:
        """The same conversation, one exchange later: what was replied, and the next question.

        Args:
            question: text, which is said as it is; or a query's row, which reads as the evaluation
                and the test template say, as the first question of a conversation does.
        """
        said = {"role": "assistant", "content": reply.text}
        return replace(self, later=(*self.later, said, {"role": "user", "content": question}))

    @property
    def question(self) -> str:
        """The words of the last question."""
        asked = self.later[-1]["content"] if self.later else self.row
        return asked if isinstance(asked, str) else str(asked["input"])


def question(text: str) -> Ask:
    """A question of its own, in exactly these words, under the test template."""
    return Ask({"input": text}, reading=AS_IT_IS)


@dataclass(frozen=True)
class Reply:
    """What came back for an ask.

    Attributes:
        text: the answer without its think block; "" where it was withheld.
        tokens: as `Completion.tokens`; those of the think block count.
        finished: whether it ended by itself.
        thinking: what stood in its think block; None where there was none.
        withheld: why there is no answer.
        ids: as `Completion.ids`.
        seen: as `Completion.seen`.
        reason: why a guard put it in the place of the model's answer; "" where none did.
        score: how suspicious a guard found the model's answer, the higher the more; None where no
            guard gave a score. A guard that compares it with a threshold gives it for every answer,
            so that any other threshold can be looked at afterwards.
    """

    text: str
    tokens: int | None
    finished: bool
    thinking: str | None = None
    withheld: str = ""
    ids: tuple[int, ...] = ()
    seen: tuple[float, ...] = ()
    reason: str = ""
    score: float | None = None

    def replaced(self, text: str, reason: str) -> Reply:
        """Another text in the place of this one, and why."""
        return replace(self, text=text, reason=reason, thinking=None, withheld="", finished=True)

    @property
    def columns(self) -> dict[str, Any]:
        """What a row of completions.jsonl says of it."""
        return {
            **({} if self.thinking is None else {"thinking": self.thinking}),
            "completion": self.text,
            "tokens": self.tokens,
            "finished": self.finished,
            **({"withheld": self.withheld} if self.withheld else {}),
        }


def read_reply(completion: Completion, opened: bool) -> Reply:
    """A completion without its think block.

    Args:
        opened: whether the prompt ended within a think block.
    """
    thinking, text = split_thinking(whole_text(completion.text), opened)
    withheld = completion.withheld
    if text is None and not withheld:
        withheld = THINKING_CUT_OFF
    return Reply(
        text or "",
        completion.tokens,
        completion.finished and text is not None,
        thinking,
        withheld,
        completion.ids,
        completion.seen,
    )


class Tested(Protocol):
    """A model that an engine opens. Each property is loaded when it is first asked for."""

    @property
    def model(self) -> Any:
        """The transformers model, fine-tuned or not."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def name_at_api(self) -> str:
        """What it is called at its API."""

    @property
    def files(self) -> Files:
        """Where its weights lie, for an engine that loads them itself."""

    def serve(self, which: Hashable, start: Callable[[], Process]) -> Any:
        """The process of such an engine, which outlives a session: the next one finds it.

        Args:
            which: what it has loaded, and how.
            start: starts it, where the one that there is serves another model, or none does.
        """

    def untuned(self) -> Tested:
        """The model before it was fine-tuned. What is loaded of this one is loaded again."""


class Session:
    """An opened engine. Override `one`; or `plan` and `answer` where prompts are answered together.

    Attributes:
        how: what decides the batches, for the name of a journal: another `how` does not read it.
        stops_itself: whether `answer` asks the `stop` of `Engine.open`, so that nobody else need.
        halved: how often a batch was answered in halves, because it did not fit in memory.
    """

    how: str = "one"
    stops_itself: bool = False
    halved: int = 0

    def one(self, prompt: Any, decoding: Decoding) -> Completion:
        """Answer one prompt.

        Args:
            prompt: token ids or messages, as `Engine.reads` says.
        """
        raise NotImplementedError

    def plan(self, prompts: Sequence[Any]) -> list[list[int]]:
        """The indices of the prompts that are answered together, in the order of answering."""
        return [[i] for i in range(len(prompts))]

    def answer(
        self, prompts: Sequence[Any], batches: Sequence[Sequence[int]], decoding: Decoding
    ) -> Iterator[dict[int, Completion]]:
        """Answer some batches.

        Args:
            prompts: those that were planned, also those not in `batches`.
            batches: of `plan`, in its order, without those that are done.

        Yields:
            The completions of a batch by prompt index, as they come.
        """
        for batch in batches:
            yield {i: self.one(prompts[i], decoding) for i in batch}

    def watched(
        self,
        prompts: Sequence[Any],
        batches: Sequence[Sequence[int]],
        decoding: Decoding,
        watch: Watch | Steer,
    ) -> Iterator[dict[int, Completion]]:
        """As `answer`, under a watch or a steer.

        Raises:
            ConfigError: nothing can look into this engine's model.
        """
        raise ConfigError(
            f"{type(self).__name__} lets nothing look into its model while it writes; choose engine=transformers, "
            "or another guard."
        )


@dataclass(frozen=True)
class Batching:
    """How an engine answers prompts together.

    Attributes:
        size: how many are under way at once.
        shares_prefix: whether what all of them begin with is computed once.
    """

    size: int
    shares_prefix: bool


@dataclass
class Engine(Component):
    """Opens a model. A class of your own says what it reads and overrides `open`."""

    reads: ClassVar[Literal["tokens", "messages"]] = "tokens"
    """What a prompt is: token ids, or messages [{role, content}, ...]. Bare text is one message."""
    has_weights: ClassVar[bool] = True
    """Whether it needs the model's files on this machine."""
    watches: ClassVar[bool] = False
    """Whether its sessions answer under a watch (`Session.watched`)."""

    device: str = speed("auto")
    """`auto` takes CUDA where there is one; which GPU is said by CUDA_VISIBLE_DEVICES."""

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(f"device={self.device} is not one of: {', '.join(DEVICES)}.")

    def open(self, tested: Tested, config: Config, stop: Stop) -> Session:
        """Make ready to answer. Weights are loaded by the first answer.

        Args:
            tested: the model; its properties load what they give.
            config: the cell's; of its evaluations only the one that is to be answered.
            stop: for sessions that stop themselves.
        """
        raise NotImplementedError

    def parts(self, config: Config, evaluation: Evaluation) -> Parts:
        """What it adds to the key of completions: `engine`, `decoding`, and what else decides."""
        named = component_parts(self, f"{type(self).__module__}.{type(self).__qualname__}")
        return {
            "engine": {**named, "version": self.version},
            "decoding": decoding_parts(evaluation.decoding),
        }

    def facts(self, config: Config) -> dict[str, Any]:
        """What the provenance of completions says of it, beside what a session counts."""
        return {}

    def batching(self) -> Batching | None:
        """For the formula of `ptst plan`; None where it does not hold for this engine."""
        return None


def decoding_parts(decoding: Decoding) -> Parts:
    """What of a decoding decides an answer: of a greedy one its length alone."""
    if decoding.temperature == 0:
        return {"max_new_tokens": decoding.max_new_tokens, "temperature": 0}
    parts = parts_of(decoding)
    if decoding.samples == 1:
        del parts["samples"]
    return parts
