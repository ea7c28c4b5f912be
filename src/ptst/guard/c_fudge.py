"""c-FUDGE, simplified: of the likeliest next tokens those that make the text unsafe are masked.

Fonseca et al. 2025 (arXiv 2501.02018) compare SafeNudge with it, after FUDGE (Yang and Klein 2021,
arXiv 2104.05218), which weighs tokens by a classifier of the text so far instead of masking them.

    y = ""; at each step let x_1, ..., x_k be the model's k likeliest next tokens
    mask every x_i with p(unsafe | y + x_i) >= tau
    take the likeliest that is left; if none is left, the x_i with the smallest p

**Simplified**: the authors' classifier is a neural one (a sentence encoder and a small network on
top of it). Ours has no neural encoder: TF-IDF of n-grams of characters, and a logistic regression.
Both read the answer alone, without the question, and depend on no weights of the model that
answers, so that fine-tuning it cannot move them: that is the point of this guard beside SafeNudge.

Ours is greedy (the authors sample), so that the candidates need only be scored in order, until one
passes: the token is the same. p = tau masks, as in SafeNudge; in the authors' code it passes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ptst import data
from ptst.component import Parts
from ptst.engine import Ask, Reply, Tested
from ptst.errors import ConfigError
from ptst.guard import AskAll, Guard
from ptst.guard.calibration import calibrated, check_engine, check_numbers, harmless_asks
from ptst.probe import (
    Answer,
    GivenAnswers,
    States,
    check_classes,
    check_rows,
    facts_of,
    held_out,
    read_answers,
)
from ptst.schema import Config, Decoding, Rows
from ptst.store import read_json, write_json

if TYPE_CHECKING:
    from numpy import ndarray

TAU, K = 0.5, 100
"""The authors'."""
PREFIXES = (5, 10, 20, 40, 80)
"""From an answer's beginning to answers that are nearly whole, as the authors' classifier sees."""
NGRAMS: dict[str, Any] = {"analyzer": "char", "ngram_range": (3, 5)}
KEPT = "classifier.json"


@dataclass(frozen=True)
class TextClassifier:
    """Logistic regression of TF-IDF: plain numbers, for JSON.

    Attributes:
        vocabulary: n-grams of characters, each with its `idf` and coefficient.
    """

    vocabulary: list[str]
    idf: list[float]
    coefficients: list[float]
    intercept: float

    @cached_property
    def _vectorizer(self) -> Any:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        made = TfidfVectorizer(vocabulary=self.vocabulary, **NGRAMS)
        made.idf_ = np.array(self.idf)
        return made

    @cached_property
    def _weights(self) -> ndarray:
        import numpy as np

        return np.array(self.coefficients)

    def probabilities(self, values: Sequence[str] | ndarray) -> ndarray:
        """Of being unsafe, [n]; of n texts."""
        from scipy.special import expit

        found: ndarray = expit(self._vectorizer.transform(values) @ self._weights + self.intercept)
        return found

    @property
    def parts(self) -> dict[str, Any]:
        """What JSON keeps of it: `TextClassifier(**parts)` is it again."""
        return asdict(self)


def fit_texts(values: ndarray, unsafe: ndarray) -> TextClassifier:
    """Fit to texts [n] and whether each is unsafe [n], with C = 1.

    Raises:
        DataError: all are safe, or all are unsafe.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    check_classes(unsafe)
    vectorizer = TfidfVectorizer(**NGRAMS)
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit(vectorizer.fit_transform(values), unsafe)
    return TextClassifier(
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.tolist(),
        model.coef_[0].tolist(),
        float(model.intercept_[0]),
    )


def texts_behind(answers: Sequence[Answer], prefixes: Sequence[int], tokenizer: Any) -> States:
    """The texts of the first tokens of each answer; none behind a prefix that it is shorter than.

    Args:
        prefixes: how many tokens; one text for each of these numbers.
    """
    import numpy as np

    begun = [(a.ids[a.length : a.length + p], p, a) for a in answers for p in prefixes]
    kept = [(list(ids), a) for ids, p, a in begun if len(ids) == p]
    return States(
        np.array(texts_of([ids for ids, _ in kept], tokenizer), dtype=object),
        np.array([a.unsafe for _, a in kept], dtype=bool),
        tuple(a.question for _, a in kept),
    )


def texts_of(ids: Sequence[Sequence[int]], tokenizer: Any) -> list[str]:
    """The texts of several answers, without control tokens; a think block counts as text."""
    texts: list[str] = tokenizer.batch_decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


class Masking:
    """A steer of an engine: takes the likeliest token whose text does not reach tau."""

    def __init__(
        self, classifier: TextClassifier, tokenizer: Any, tau: float, k: int, min_tokens: int
    ) -> None:
        self.classifier, self.tokenizer = classifier, tokenizer
        self.tau, self.k, self.min_tokens = tau, k, min_tokens

    def choose(
        self, answers: Sequence[Sequence[int]], scores: Any, ends: frozenset[int]
    ) -> tuple[list[int], list[float]]:
        """The tokens; and of each row the probability with the likeliest one, 0 where none is
        looked at yet.

        One text a row is scored, and more only where that one is masked.
        """
        tokens: list[int] = scores.argmax(-1).tolist()
        noted = [0.0] * len(answers)
        looked_at = [n for n, ids in enumerate(answers) if len(ids) + 1 >= self.min_tokens]
        with_likeliest = [(answers[n], tokens[n]) for n in looked_at]
        for n, p in zip(looked_at, self._probabilities(with_likeliest, ends), strict=True):
            noted[n] = p
            if p >= self.tau:
                tokens[n] = self._another(answers[n], scores[n], tokens[n], p, ends)
        return tokens, noted

    def _another(
        self, answer: Sequence[int], scores: Any, masked: int, p: float, ends: frozenset[int]
    ) -> int:
        """The next best of the k likeliest; where all are masked, the least bad."""
        likeliest = scores.topk(min(self.k, len(scores))).indices.tolist()
        rest = [token for token in likeliest if token != masked][: self.k - 1]
        least, start, size = (p, masked), 0, 4
        while start < len(rest):
            some = rest[start : start + size]
            found = self._probabilities([(answer, token) for token in some], ends)
            for other, token in zip(found, some, strict=True):
                if other < self.tau:
                    return token
                least = min(least, (other, token), key=lambda pair: pair[0])
            start, size = start + size, 4 * size
        return least[1]

    def _probabilities(
        self, candidates: Sequence[tuple[Sequence[int], int]], ends: frozenset[int]
    ) -> list[float]:
        """Of each answer with a token behind it; the end adds no text."""
        if not candidates:
            return []
        ids = [[*answer, *([] if t in ends else [t])] for answer, t in candidates]
        found: list[float] = self.classifier.probabilities(texts_of(ids, self.tokenizer)).tolist()
        return found


@dataclass
class CFudge(GivenAnswers, Guard):
    """Masks tokens behind which a classifier of the answer so far calls it unsafe.

    The score of an answer is the highest probability with the token that the model wanted, from
    the token `min_tokens` on, until one was masked; 0 where it ended before.
    """

    key_name: ClassVar[str] = "c_fudge"

    prefixes: list[int] = field(default_factory=lambda: list(PREFIXES))
    """Tokens of an answer behind which the classifier is fitted: a text for each number."""
    k: int = K
    """How many of the likeliest tokens are candidates. With 1 no answer changes."""
    tau: float | None = TAU
    """A probability from which on a candidate is masked; above 1 none is. None: calibrated."""
    fpr: float = 5.0
    """Per cent of harmless answers in which a calibrated tau may mask anything, at most."""
    calibration: Rows = field(default_factory=Rows)
    """Harmless questions, on the tested model's answers to which tau is calibrated, together with
    those of `calibration_sums`. What the classifier's own rows ask is left out."""
    calibration_sums: Rows = field(default_factory=Rows)
    min_tokens: int = 1
    """No token before this one is masked."""

    def __post_init__(self) -> None:
        check_numbers(self.tau, self.fpr, self.prefixes, self.min_tokens)
        if self.k < 1:
            raise ConfigError(f"k={self.k} must be at least 1.")

    def check(self, config: Config) -> None:
        """Refuse engines whose tokens cannot be chosen, sampling, and invented hazards for a real
        model."""
        check_engine(config, "chooses tokens while the model writes")
        check_rows(self.harmful, self.where, config)

    def identity(self) -> Parts:
        """The rows by their content."""
        rows = {name: data.identity(own) for name, own in self.rows.items()}
        asked = {
            name: data.identity(own) if self.tau is None else None
            for name, own in self._asked.items()
        }
        return {**rows, **asked}

    def enter(self, config: Config, decoding: Decoding) -> None:
        self.config = config

    def prepare(self, ask: AskAll, tested: Tested, folder: Path) -> dict[str, Any]:
        """Fit the classifier, and say how well it does on questions that it was not fitted on;
        calibrate tau.

        Raises:
            PtstError: there is nothing to calibrate on.
        """
        if not (folder / KEPT).is_file():
            fitted, facts = self._fitted(tested.tokenizer)
            write_json(folder / KEPT, {"classifier": fitted.parts, "facts": facts})
        kept = read_json(folder / KEPT)
        classifier, facts = TextClassifier(**kept["classifier"]), dict(kept["facts"])
        if self.tau is None:
            asks = harmless_asks(self._asked.values(), self.rows.values(), self.where)
            replies = ask([replace(one, ids=True, once=True) for one in asks])
            scores = [self._highest(reply, classifier, tested.tokenizer) for reply in replies]
            self.tau, found = calibrated(scores, self.fpr, self._asked, "masked")
            facts |= found
        self.steer = Masking(classifier, tested.tokenizer, self.tau, self.k, self.min_tokens)
        return {"tau": self.tau, **facts}

    def talk(self, ask: Ask, row: Mapping[str, Any]) -> Generator[Ask, Reply, Reply]:
        """The answer, with tokens masked."""
        reply = yield replace(ask, watch=self.steer)
        looked_at = reply.seen[self.min_tokens - 1 :]
        assert self.tau is not None  # prepare has been here
        reached = next((p for p in looked_at if p >= self.tau), None)
        if reached is None:
            return replace(reply, score=max(looked_at, default=0.0))
        return replace(reply, score=reached, reason="masked")

    def _fitted(self, tokenizer: Any) -> tuple[TextClassifier, dict[str, Any]]:
        sets = [(rows, name == "harmful") for name, rows in self.rows.items()]
        template, most = self.config.test_template, max(self.prefixes)
        answers = read_answers(sets, template, self.config, tokenizer, most)
        texts = texts_behind(answers, self.prefixes, tokenizer)
        facts = {
            **facts_of(texts, held_out(texts, texts, fit_texts)),
            "rows_from": {name: data.origin(rows) for name, rows in self.rows.items()},
        }
        return fit_texts(texts.values, texts.unsafe), facts

    def _highest(self, reply: Reply, classifier: TextClassifier, tokenizer: Any) -> float:
        """The score of an answer that nothing was masked in."""
        lengths = range(self.min_tokens, len(reply.ids) + 1 + reply.finished)
        texts = texts_of([reply.ids[:n] for n in lengths], tokenizer)
        return float(max(classifier.probabilities(texts))) if texts else 0.0

    @property
    def _asked(self) -> dict[str, Rows]:
        return {"calibration": self.calibration, "calibration_sums": self.calibration_sums}
