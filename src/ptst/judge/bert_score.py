"""BERTScore (Zhang et al. 2020): how alike an answer and its reference are, token by token, to a
RoBERTa.

Each token of one text is matched with the most similar one of the other, by the cosine of their
embeddings. Precision is the mean over the answer's tokens, recall over the reference's, F1 their
harmonic mean (equations of section 3; no idf weights, no rescaling).

It is computed here, and not by the package bert-score (0.3.13, the last), because that one changes
its numbers under transformers 5 without a word: the space that it asks of RoBERTa's tokenizer
before a text's first word is dropped, and an empty answer is an error. With its own settings the
two agree (tests/judge/test_bert_score.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ptst import models
from ptst.errors import ConfigError, DataError, Interrupted
from ptst.judge import Judge, JudgeContext, Score
from ptst.schema import Model


@dataclass
class BertScore(Judge):
    """F1 of the completion against the row's `output`, from 0 to 1 (paper, appendix F.5).

    The paper says "BERTScore" with RoBERTa-large and layer 17; that it means F1, and leaves out idf
    weights and rescaling, is assumed (they are the package's defaults). An empty completion has 0.
    """

    key_name: ClassVar[str] = "ptst.judge.bert_score.BertScore"
    path: str = field(default="FacebookAI/roberta-large", metadata={"key": False})  # see `identity`
    """A Hugging Face model id, or a directory (then its content counts in the key); its tokenizer
    and weights (safetensors)."""
    revision: str | None = field(
        default="722cf37b1afa9454edce342e7895e588b6ff1d59", metadata={"key": False}
    )
    """Commit of the hub repository; null with another `path`."""
    layer: int = 17
    """The layer whose output is compared, from 1."""
    batch_size: int = field(default=32, metadata={"key": False})
    labels: ClassVar[tuple[str, ...]] = ("scored",)
    needs: ClassVar[tuple[str, ...]] = ("output",)
    version: ClassVar[int] = 1
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("layer", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"judge.{name}={getattr(self, name)} must be at least 1.")

    def identity(self) -> dict[str, Any]:
        """What the key has in place of `path` and `revision`: a directory counts by its content."""
        return models.weights(self._model, "judge.path")

    def origin(self) -> dict[str, Any]:
        """Its model's path, and the commit that the hub's cache had of it."""
        return models.origin(self._model)

    def ready(self) -> None:
        """Whether its model can be had and has the layer, by its configuration; before anything is
        trained.

        Raises:
            ConfigError: it cannot, or has fewer layers.
        """
        self._config()

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Whether there is something to compare an answer with.

        Raises:
            DataError: the row's `output` is empty.
        """
        if not str(row["output"]).strip():
            raise DataError(f"query {row['id']}: its reference, `output`, is empty.")

    def scores(
        self, items: Sequence[tuple[Mapping[str, Any], str]], context: JudgeContext
    ) -> Iterator[Score]:
        """Score each completion; the reason gives precision and recall.

        Raises:
            DataError: a row's `output` is empty.
            ConfigError: the model cannot be had, or has fewer layers.
            Interrupted: the context said stop.
        """
        for row, _ in items:
            self.check_row(row)
        pairs = [(completion.strip(), str(row["output"]).strip()) for row, completion in items]
        order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        order = [i for i in order if pairs[i][0]]
        found: dict[int, tuple[float, float]] = {}
        embed = self._encoder(context.device).embed if order else None
        for start in range(0, len(order), self.batch_size):
            if context.stop():
                raise Interrupted(f"BERTScore: {start} of {len(order)} answers, to be scored again")
            batch = order[start : start + self.batch_size]
            assert embed is not None
            answers, references = (embed([pairs[i][side] for i in batch]) for side in (0, 1))
            found |= zip(batch, precision_and_recall(*answers, *references), strict=True)
            context.tell(len(found), len(order))
        for i in range(len(pairs)):
            precision, recall = found.get(i, (0.0, 0.0))
            total = precision + recall
            reason = f"precision {precision:.4f}, recall {recall:.4f}"
            f1 = 2 * precision * recall / total if total else 0.0
            yield Score(
                "scored",
                min(1.0, max(0.0, f1)),  # in float32, a cosine of 1 may be a little more
                reason if i in found else "empty completion",
            )

    def _encoder(self, device: str) -> _Encoder:
        from transformers import AutoModel, AutoTokenizer

        config = self._config()
        config.num_hidden_layers = self.layer  # those above are not needed
        try:
            tokenizer = AutoTokenizer.from_pretrained(**self._where)
            model = AutoModel.from_pretrained(
                config=config, use_safetensors=True, dtype="float32", **self._where
            )
        except (OSError, ValueError) as error:
            raise self._unavailable(error) from error
        return _Encoder(tokenizer, model.to(models.pick_device(device)).eval())

    def _config(self) -> Any:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(**self._where)
        except (OSError, ValueError) as error:
            raise self._unavailable(error) from error
        if config.num_hidden_layers < self.layer:
            raise ConfigError(
                f"judge.layer={self.layer}: {self.path} has {config.num_hidden_layers} layers."
            )
        return config

    @property
    def _model(self) -> Model:
        return Model("the judge", self.path, revision=self.revision)

    @property
    def _where(self) -> dict[str, Any]:
        folder = models.local_folder(self._model, "judge.path")  # the one that `identity` read
        return {
            "pretrained_model_name_or_path": str(folder or self.path),
            "revision": self.revision,
            "trust_remote_code": False,
        }

    def _unavailable(self, error: Exception) -> ConfigError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ConfigError(
            f"judge.path={self.path} cannot be loaded: {reason}\nDownload it first with `hf download`, "
            "or give a directory, with judge.revision=null."
        )


@dataclass
class _Encoder:
    tokenizer: Any
    model: Any

    def embed(self, texts: Sequence[str]) -> tuple[Any, Any, Any]:
        """Embeddings of unit length, shape (text, token, width); which are tokens, and which count.

        The tokens that a tokenizer puts around a text can be matched with but do not count, as in
        the package.
        """
        import torch

        room = self.model.config.max_position_embeddings - self.model.config.pad_token_id - 1
        encoded = self.tokenizer(
            [f" {text}" for text in texts],  # RoBERTa spells a text's first word as any other
            padding=True,
            truncation=True,
            max_length=min(room, self.tokenizer.model_max_length),
            split_special_tokens=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        special = encoded.pop("special_tokens_mask").bool()
        mask = encoded["attention_mask"].bool()
        with torch.inference_mode():
            hidden = self.model(**encoded).last_hidden_state
        return torch.nn.functional.normalize(hidden, dim=-1), mask, mask & ~special


def precision_and_recall(
    answers: Any,
    in_answer: Any,
    counts_in_answer: Any,
    references: Any,
    in_ref: Any,
    counts_in_ref: Any,
) -> list[tuple[float, float]]:
    """BERTScore's precision and recall of each pair of texts.

    Args:
        answers, references: tensors of embeddings of unit length, shape (pair, token, width).
        in_answer, in_ref: which of them are tokens and no padding, shape (pair, token).
        counts_in_answer, counts_in_ref: which of those count; at least one each.
    """
    similar = answers @ references.transpose(1, 2)
    similar = similar.masked_fill(~(in_answer[:, :, None] & in_ref[:, None, :]), float("-inf"))

    def mean(best: Any, counts: Any) -> Any:
        return best.masked_fill(~counts, 0).sum(1) / counts.sum(1)

    precision = mean(similar.amax(2), counts_in_answer)
    recall = mean(similar.amax(1), counts_in_ref)
    return list(zip(precision.tolist(), recall.tolist(), strict=True))
