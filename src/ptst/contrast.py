"""What a model has of unsafe and of safe prompts, before it answers.

Analyses that compare the two share this: where the prompts come from, which of their last tokens
are the template's own, and what chosen modules of the model are given there. A mean over prompts
is never scored on the prompts that it is of (`halves`).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from ptst import data
from ptst.component import Parts, check_template_part, parts_of
from ptst.engine.cache import every_layer_grows, prefix_cache
from ptst.errors import ConfigError, DataError
from ptst.models import context_of
from ptst.schema import Config, Model, Rows, Template
from ptst.templates import answer_ids, identity, make_prompt

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 32
"""Prompts that go through the model together."""
ENDINGS = ("a lamp", "7", "why?", "it.", "this)", "that!")
"""Ends of made-up questions. Some tokenizers join a mark to the line break behind it."""


@dataclass
class Contrast:
    """Fields of an analysis that reads unsafe and safe prompts; and what its key has of them."""

    unsafe: Rows = field(default_factory=Rows)
    """Harmful requests; only `input` is read."""
    safe: Rows = field(default_factory=Rows)
    """Harmless ones, as like the harmful ones in form as may be."""
    template: Template | None = None
    """What the means that prompts are compared with are taken under; None: the test template."""
    seed: int = 0
    """Decides which prompts the means are of, and which are scored."""
    openings: list[str] = field(default_factory=lambda: ["I cannot", "Sorry", "As an AI"])
    """How refusals begin. Only the first token of each counts, as it is at the beginning of an
    answer."""
    fewest: ClassVar[int] = 2
    """Questions of each kind: some for means, others to be scored."""

    @property
    def rows(self) -> dict[str, Rows]:
        """Both sets, by the names of their fields."""
        return {"unsafe": self.unsafe, "safe": self.safe}

    def check_prompts(self, where: str, config: Config) -> None:
        """Refuse invented hazards for a real model, a template that reads otherwise for it, too
        few prompts, and no opening.

        Raises:
            ConfigError: naming the settings, of hazards those for rows of one's own.
        """
        check_template_part(self.template, config.model)
        if not self.openings or not all(opening.strip() for opening in self.openings):
            raise ConfigError(
                "openings needs one beginning of a refusal or more, none of them empty."
            )
        for name, rows in self.rows.items():
            if rows.n is not None and rows.n < self.fewest:
                raise ConfigError(f"{where}.{name}.n={rows.n} must be at least {self.fewest}.")
        if self.unsafe.source == "micro" and config.scale.source != "micro":
            raise ConfigError(
                "unsafe are the micro world's rows, whose hazards no model of "
                f"scale={config.scale.name} knows. Give questions of your own: {where}.unsafe.source=local, "
                f"{where}.unsafe.path=FILE, {where}.unsafe.columns='{{input: QUESTION}}'."
            )

    def identity(self) -> Parts:
        """The rows by their content, the template by its text."""
        rows = {name: data.identity(rows) for name, rows in self.rows.items()}
        return {**rows, "template": None if self.template is None else parts_of(self.template)}

    def parts(self, config: Config) -> Parts:
        """The test template, and how the questions read."""
        return under_test_template(config)

    def origin(self) -> Parts:
        """Where the rows came from."""
        return {name: data.origin(rows) for name, rows in self.rows.items()}


def under_test_template(config: Config) -> Parts:
    """The part of a key of what reads questions under the test template, as the data set's read."""
    dataset = config.dataset
    reading = {"question": dataset.question, "instruction": dataset.instruction}
    return {"test_template": identity(config.test_template, config.model), "reading": reading}


@dataclass(frozen=True)
class Asked:
    """A question under a template: the ids of its prompt."""

    ids: array[int]
    unsafe: bool
    question: str


def read_prompts(
    contrast: Contrast, template: Template, config: Config, tokenizer: Any
) -> list[Asked]:
    """The prompts of both sets; questions read as the data set's do.

    Raises:
        DataError: naming file, row and column; a question stands in both sets; too few do.
        TemplateError: the model's format cannot spell a question.
    """
    spelled = (template, config.dataset, config.model, tokenizer)
    asked = [
        Asked(
            array("i", make_prompt(row, *spelled).token_ids or []),
            name == "unsafe",
            str(row["input"]),
        )
        for name, rows in contrast.rows.items()
        for row in data.read_rows(rows, needs=("input",))
    ]
    unsafe, safe = ({a.question for a in asked if a.unsafe == kind} for kind in (True, False))
    places = [rows.at or rows.name for rows in (contrast.unsafe, contrast.safe)]
    if both := unsafe & safe:
        raise DataError(
            f"{' and '.join(places)} have a question in common: {min(both)!r}. Take it out of one of them."
        )
    for place, questions in zip(places, (unsafe, safe), strict=True):
        if len(questions) < contrast.fewest:
            raise DataError(
                f"{place}: there must be at least {contrast.fewest} different questions, not {len(questions)}."
            )
    return asked


def own_tail(template: Template, config: Config, tokenizer: Any) -> int:
    """How many of a prompt's last tokens are the template's own, whatever the question.

    They are the post-instruction tokens of arXiv 2406.11717. A template that ends with the question
    has none.
    """
    spelled = (template, config.dataset, config.model, tokenizer)
    prompts = [make_prompt({"input": end}, *spelled).token_ids or [] for end in ENDINGS]
    return _alike([prompt[::-1] for prompt in prompts])


def halves(asked: Sequence[Asked], seed: int) -> tuple[list[int], list[int]]:
    """Draw two halves of the prompts by their questions, of unsafe and safe ones alike.

    The draw depends on the questions and the seed alone, so that it is the same under every
    template. Repeated questions stay together.

    Returns:
        The numbers of the prompts of each half.
    """
    first: set[str] = set()
    for unsafe in (True, False):
        questions = sorted({a.question for a in asked if a.unsafe == unsafe})
        if len(questions) < 2:
            kind = "unsafe" if unsafe else "safe"
            raise DataError(f"{len(questions)} {kind} prompts cannot be halved; give more rows.")
        drawn = random.Random(f"halves {seed} {unsafe}").sample(questions, len(questions) // 2)
        first.update(drawn)
    chosen = [a.question in first for a in asked]
    return [n for n, c in enumerate(chosen) if c], [n for n, c in enumerate(chosen) if not c]


def first_tokens(
    openings: Sequence[str], template: Template, model: Model, tokenizer: Any
) -> list[int]:
    """The ids that refusals begin with, with what the format has before an answer and without.

    A token of white space alone is none of them: every answer may begin with it.

    Raises:
        ConfigError: no other is left.
    """
    ids = {
        answer_ids(text, template, model, tokenizer, first)[0]
        for text in openings
        for first in (True, False)
    }
    found = sorted(token for token in ids if tokenizer.decode([token]).strip())
    if not found:
        raise ConfigError(f"openings={[*openings]}: give some that do not begin with white space.")
    return found


def refusal_scores(logits: Tensor, refusals: Sequence[int]) -> Tensor:
    """log P - log(1 - P) of each prompt, [n], of logits [n, vocabulary]
    (arXiv 2406.11717, section 2.3).

    P is the probability that the answer begins with one of the tokens.
    """
    import torch

    rest = torch.ones(logits.shape[1], dtype=torch.bool)
    rest[list(refusals)] = False
    logits = logits.double()
    return logits[:, ~rest].logsumexp(1) - logits[:, rest].logsumexp(1)


def inputs_of(model: Any, modules: Sequence[Any], asked: Sequence[Asked], last: int = 1) -> Tensor:
    """What modules are given at the last tokens of each prompt.

    Args:
        modules: with inputs of one width. Those of decoder layers are the residual stream.
        last: how many tokens, at most as many as the shortest prompt has.

    Returns:
        [prompts, modules, last, width], float32, in memory of the CPU.
    """
    import torch

    return torch.stack(inputs_of_each(model, modules, asked, last), dim=1)


def inputs_of_each(
    model: Any, modules: Sequence[Any], asked: Sequence[Asked], last: int = 1
) -> list[Tensor]:
    """As `inputs_of`, of modules whose inputs may differ in width: [prompts, last, width] each."""
    return _read(model, modules, asked, last, False)[0]


def logits_of(model: Any, asked: Sequence[Asked]) -> Tensor:
    """The logits of the first token of each answer, [prompts, vocabulary], float32, on the CPU."""
    return _read(model, (), asked, 1, True)[1]


def inputs_and_logits(
    model: Any, modules: Sequence[Any], asked: Sequence[Asked]
) -> tuple[list[Tensor], Tensor]:
    """`inputs_of_each` at the last token, and `logits_of`, in one pass."""
    return _read(model, modules, asked, 1, True)


def _read(
    model: Any, modules: Sequence[Any], asked: Sequence[Asked], last: int, wanted: bool
) -> tuple[list[Tensor], Tensor]:
    """Inputs of modules, and logits of the answers' first tokens where they are wanted."""
    import torch

    order: list[int] = []
    inputs: list[list[Tensor]] = [[] for _ in modules]
    firsts: list[Tensor] = []
    for numbers, lengths, forward in _batches(model, asked, last):
        order += numbers
        rows, places = torch.arange(len(numbers)), lengths[:, None] - last + torch.arange(last)
        # Prompts of a batch differ in length: logits are made at each last place that there is.
        ends, own = torch.unique(lengths - 1, return_inverse=True)
        with _noting(modules, (rows[:, None], places)) as noted:
            logits = forward(ends if wanted else 1)
        firsts.append(logits[rows, own if wanted else 0].float().cpu())
        for number, batches in enumerate(inputs):
            batches.append(noted[number])
    back = torch.tensor(order).argsort()
    return [torch.cat(batches)[back] for batches in inputs], torch.cat(firsts)[back]


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Remove hooks at the end, whatever happens.

    Args:
        hooks: what `register_forward_hook` and its like return.
    """
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The hidden states that a module is called with, for a forward pre-hook with kwargs."""
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def _noting(modules: Sequence[Any], at: Any) -> Iterator[dict[int, Tensor]]:
    """Note the input of each module, at some rows and places."""
    noted: dict[int, Tensor] = {}

    def note(number: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            states = given(args, kwargs)
            if states.dim() == 2:  # as OPT's MLP is given them: all tokens of the batch in one row
                states = states.unflatten(0, (len(at[0]), -1))
            noted[number] = states[at].float().cpu()

        return hook

    with hooked(
        m.register_forward_pre_hook(note(n), with_kwargs=True) for n, m in enumerate(modules)
    ):
        yield noted


def _batches(
    model: Any, asked: Sequence[Asked], last: int
) -> Iterator[tuple[list[int], Tensor, Callable[[Any], Tensor]]]:
    """The numbers of a batch's prompts, the lengths of their rests, and a pass over these.

    What all prompts begin with (a system prompt) goes through the model once, before the batch is
    handed out. Padding stands behind, where no token before it looks. The pass takes the places at
    which logits are wanted, as transformers' `logits_to_keep`, and returns them.
    """
    import torch

    ids = [a.ids.tolist() for a in asked]
    longest, context = max(map(len, ids)), context_of(model.config)
    if context is not None and longest > context:
        question = next(a.question for a in asked if len(a.ids) == longest)
        raise DataError(
            f"a prompt has {longest} tokens; the model has {context} positions: give a shorter question than "
            f"{question[:60]!r}."
        )
    shared = min(_alike(ids), min(map(len, ids)) - last)
    if len(ids) == 1 or not every_layer_grows(model):
        shared = 0
    prefix = prefix_cache(model, ids[0][:shared]) if shared > 0 else None
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        rest = [torch.tensor(ids[n][shared:]) for n in numbers]
        padded = torch.nn.utils.rnn.pad_sequence(rest, batch_first=True).to(model.device)
        yield (
            numbers,
            torch.tensor([len(row) for row in rest]),
            partial(_pass, model, padded, prefix),
        )


def _pass(model: Any, ids: Tensor, prefix: Any, keep: Any) -> Tensor:
    """Logits behind a prefix that stands in front of every row."""
    import torch
    from transformers import DynamicCache

    cache = None
    if prefix is not None:
        cache = DynamicCache(config=model.config)
        for number, layer in enumerate(prefix.layers):
            states = (x.expand(len(ids), -1, -1, -1) for x in (layer.keys, layer.values))
            cache.update(*states, number)
    with torch.inference_mode():
        made = model(
            input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=keep
        )
    logits: Tensor = made.logits
    return logits


def _alike(ids: Sequence[Sequence[int]]) -> int:
    """How many tokens all begin with."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*ids, strict=False)))
