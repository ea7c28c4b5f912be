"""A linear probe on hidden states: does what a model is writing comply with a harmful request?

SafeNudge (arXiv 2501.02018) watches the last layer's state behind the final norm, at the newest
token. Here the probe is a logistic regression (C = 1) on standardised states, fitted on given
answers that the model reads (teacher forcing), cut off after 5, 10 and 20 tokens or after others.
An answer to a harmful request that complies is unsafe; refusals and answers to harmless questions
are safe.

A guard lets a probe look on while a model writes (`ptst.guard.safenudge`); an analysis looks at
what fine-tuning leaves of it (`ptst.analysis.probe_drift`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from ptst import data
from ptst.errors import ConfigError, DataError
from ptst.models import context_of
from ptst.schema import Config, Rows, Template
from ptst.templates import end_of, make_training_row

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

PREFIXES = (5, 10, 20)
"""Tokens of an answer behind which its state is taken, where nothing else is said."""
FOLDS = 10
"""Of cross-validation by question."""
BATCH = 16
"""Answers that go through the model together."""


@dataclass
class GivenAnswers:
    """Fields of a component: the given answers that a probe is fitted on."""

    harmful: Rows = field(default_factory=Rows)
    """Harmful questions with answers that comply. The other three are the safe side."""
    refusals: Rows = field(default_factory=Rows)
    harmless: Rows = field(default_factory=Rows)
    sums: Rows = field(default_factory=Rows)

    @property
    def rows(self) -> dict[str, Rows]:
        """All of them, by the names of their fields."""
        names = [own.name for own in fields(GivenAnswers)]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Answer:
    """A question with the beginning of a given answer.

    Attributes:
        ids: of the prompt, and of the answer's first tokens.
        length: how many of them are the prompt's.
    """

    ids: array[int]
    length: int
    unsafe: bool
    question: str


@dataclass(frozen=True)
class States:
    """Hidden states of answers, in the order of the answers and of the prefixes; or their texts.

    Attributes:
        values: [n, width], float32; of texts [n], of objects.
        unsafe: [n], booleans.
        questions: the question of each.
    """

    values: ndarray
    unsafe: ndarray
    questions: tuple[str, ...]


class Fitted(Protocol):
    """What was fitted to tell unsafe answers from safe ones."""

    def probabilities(self, values: ndarray) -> ndarray:
        """Of being unsafe, [n]; of the values of some `States`."""


@dataclass(frozen=True)
class Probe:
    """A logistic regression of states that are standardised first: plain numbers, for JSON."""

    mean: list[float]
    scale: list[float]
    coefficients: list[float]
    intercept: float

    @property
    def folded(self) -> tuple[ndarray, float]:
        """Weights and bias for states as they are, in double precision."""
        import numpy as np

        weights = np.array(self.coefficients) / np.array(self.scale)
        return weights, float(self.intercept - weights @ np.array(self.mean))

    def probabilities(self, values: ndarray) -> ndarray:
        """Of being unsafe, [n]; of states [n, width]."""
        from scipy.special import expit

        weights, bias = self.folded
        found: ndarray = expit(values.astype("float64") @ weights + bias)
        return found

    @property
    def parts(self) -> dict[str, Any]:
        """What JSON keeps of it: `Probe(**parts)` is it again."""
        return asdict(self)


def check_rows(harmful: Rows, where: str, config: Config) -> None:
    """Refuse invented hazards for a real model.

    Raises:
        ConfigError: naming the settings for rows of one's own.
    """
    if harmful.source == "micro" and config.scale.source != "micro":
        raise ConfigError(
            f"harmful are the micro world's rows, whose hazards no model of scale={config.scale.name} "
            f"knows. Give rows of your own, with a question and a harmful answer: {where}.harmful.source=local, "
            f"{where}.harmful.path=FILE, {where}.harmful.columns='{{input: QUESTION, output: ANSWER}}'."
        )


def read_answers(
    sets: Iterable[tuple[Rows, bool]],
    template: Template,
    config: Config,
    tokenizer: Any,
    most: int = max(PREFIXES),
) -> list[Answer]:
    """The answers of some rows under a template; questions read as the data set's do.

    Args:
        sets: rows with a question (`input`) and an answer (`output`), and whether it is unsafe.
        most: tokens of an answer that are kept, from its beginning.

    Raises:
        DataError: naming file, row and column.
        TemplateError: the model's format cannot spell a row.
    """
    return [
        answer_of(row, unsafe, template, config, tokenizer, most)
        for rows, unsafe in sets
        for row in data.read_rows(rows, needs=("input", "output"))
    ]


def answer_of(
    row: Mapping[str, Any],
    unsafe: bool,
    template: Template,
    config: Config,
    tokenizer: Any,
    most: int | None = None,
) -> Answer:
    """A row's answer under a template, without what ends it.

    Args:
        most: as `read_answers` has it; None: all tokens.

    Raises:
        TemplateError: the model's format cannot spell the row.
    """
    made = make_training_row(row, template, config.dataset, config.model, tokenizer)
    end = end_of(template, config.model, tokenizer).end_id
    body = made.ids[made.prompt_length :]
    length = min(body.index(end) if end in body else len(body), len(body) if most is None else most)
    ids = made.ids[: made.prompt_length + length]
    return Answer(ids, made.prompt_length, unsafe, str(row["input"]))


def states_of(model: Any, answers: Sequence[Answer], prefixes: Sequence[int] = PREFIXES) -> States:
    """What the model's last layer has behind the first tokens of each answer.

    Args:
        prefixes: how many tokens; one state for each of these numbers.

    Answers that are shorter than a prefix, or longer than the model's context, have no state there.
    """
    import numpy as np
    import torch

    context = context_of(model.config) or max(map(len, (a.ids for a in answers)), default=0)
    read = [n for n, answer in enumerate(answers) if len(answer.ids) <= context]
    read.sort(key=lambda n: -len(answers[n].ids))
    found: dict[int, list[ndarray]] = {}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    for start in range(0, len(read), BATCH):
        batch = read[start : start + BATCH]
        ids = [torch.tensor(answers[n].ids) for n in batch]
        # Padding stands behind, where no token before it looks.
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(model.device)
        with torch.inference_mode():
            hidden = plain.base_model(input_ids=padded, use_cache=False)[0]
        for row, n in enumerate(batch):
            places = [answers[n].length + p - 1 for p in prefixes]
            places = [place for place in places if place < len(answers[n].ids)]
            found[n] = list(hidden[row, places].float().cpu().numpy())
    kept = [(vector, answers[n]) for n in sorted(found) for vector in found[n]]
    return States(
        np.array([vector for vector, _ in kept], dtype="float32"),
        np.array([answer.unsafe for _, answer in kept], dtype=bool),
        tuple(answer.question for _, answer in kept),
    )


def fit(values: ndarray, unsafe: ndarray) -> Probe:
    """Standardise states, then logistic regression.

    Raises:
        DataError: all answers are safe, or all are unsafe.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    check_classes(unsafe)
    scaler = StandardScaler().fit(values.astype("float64"))
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit(scaler.transform(values.astype("float64")), unsafe)
    return Probe(
        scaler.mean_.tolist(),
        scaler.scale_.tolist(),
        model.coef_[0].tolist(),
        float(model.intercept_[0]),
    )


def held_out(
    fitted: States, scored: States, fitting: Callable[[ndarray, ndarray], Fitted] = fit
) -> ndarray:
    """The probability of each of `scored`, by a probe that was fitted without its question.

    Args:
        fitted, scored: states of the same answers, of two models or under two templates.
        fitting: fits something else than a probe to values and to whether each is unsafe.

    Returns:
        [n]; `FOLDS` probes, or one less for each question that is lacking, score their share each.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold

    if fitted.questions != scored.questions:
        raise ValueError("the states must be of the same answers.")
    found = np.empty(len(scored.unsafe))
    folds = GroupKFold(min(FOLDS, len(set(fitted.questions))))
    for train, test in folds.split(fitted.values, groups=fitted.questions):
        probe = fitting(fitted.values[train], fitted.unsafe[train])
        found[test] = probe.probabilities(scored.values[test])
    return found


def quality(unsafe: ndarray, probabilities: ndarray) -> dict[str, float]:
    """auc; accuracy and f1 (of unsafe) at a probability of 0.5."""
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    said = probabilities >= 0.5
    return {
        "auc": float(roc_auc_score(unsafe, probabilities)),
        "accuracy": float(accuracy_score(unsafe, said)),
        "f1": float(f1_score(unsafe, said)),
    }


def facts_of(states: States, probabilities: ndarray) -> dict[str, Any]:
    """What the provenance says of a probe: what it was fitted on, and its `quality`.

    Args:
        probabilities: of each of `states`, `held_out`.
    """
    return {
        "probe_states": len(states.unsafe),
        "probe_unsafe": int(states.unsafe.sum()),
        "probe_questions": len(set(states.questions)),
        **{f"probe_{k}": round(v, 4) for k, v in quality(states.unsafe, probabilities).items()},
    }


def random_probe(like: Probe, states: States, tau: float, seed: int) -> Probe:
    """A probe of a drawn direction that reaches tau at as many of `states` as `like` does.

    Its coefficients have the norm of those of `like`; its intercept is where the shares agree.
    """
    import numpy as np

    drawn = np.random.default_rng(seed).standard_normal(len(like.coefficients))
    drawn *= np.linalg.norm(like.coefficients) / np.linalg.norm(drawn)
    fired = int((like.probabilities(states.values) >= tau).sum())
    flat = Probe(like.mean, like.scale, drawn.tolist(), 0.0)
    weights, bias = flat.folded
    order = np.sort(states.values.astype("float64") @ weights + bias)[::-1]
    # Halfway between the last state that is to reach tau and the first that is not.
    around = [order[max(fired - 1, 0)], order[min(fired, len(order) - 1)]]
    if fired == 0:
        around = [around[0] + 1.0] * 2
    elif fired == len(order):
        around = [around[1] - 1.0] * 2
    limit = np.log(tau / (1 - tau)) if 0 < tau < 1 else 0.0
    return Probe(like.mean, like.scale, drawn.tolist(), float(limit - sum(around) / 2))


def tau_at(scores: Sequence[float], share: float) -> float:
    """The smallest tau that at most `share` of `scores` (one or more) reach; above 1 if need be."""
    allowed = int(share * len(scores) + 1e-9)  # 0.29 * 100 is 28.999...
    return math.nextafter(sorted(scores, reverse=True)[allowed], math.inf)


class Onlooker:
    """A watch of an engine: notes a probe's probability at every token, and stops at `tau`.

    It does one dot product a token and waits for nothing.
    """

    def __init__(self, probe: Probe, tau: float, min_tokens: int) -> None:
        self.probe, self.tau, self.min_tokens = probe, tau, min_tokens
        self._folded: tuple[Tensor, float] | None = None

    def look(self, hidden: Any, step: int) -> tuple[Any, Any]:
        """Rows whose probability reaches tau, from the token number `min_tokens` on."""
        import torch

        if self._folded is None:
            folded, offset = self.probe.folded
            on_device = torch.tensor(folded, dtype=torch.float32, device=hidden.device)
            self._folded = on_device, offset
        weights, bias = self._folded
        probability = torch.sigmoid((hidden.float() @ weights).double() + bias)
        if step < self.min_tokens:
            return torch.zeros_like(probability, dtype=torch.bool), probability
        return probability >= self.tau, probability


def check_classes(unsafe: ndarray) -> None:
    """Refuse answers that are all safe, or all unsafe."""
    if len(set(unsafe.tolist())) < 2:
        raise DataError("a probe needs answers that are safe and answers that are not.")
