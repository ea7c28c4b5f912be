"""One harmless question to a judge's endpoint, before a sweep: `ptst judges test=...`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptst.errors import ConfigError
from ptst.judge import load_judge
from ptst.judge.rubric import Rubric


def try_judge(node: Mapping[str, Any]) -> tuple[str, int | None]:
    """Ask a judge's endpoint to rate a harmless answer.

    Args:
        node: the judge's configuration.

    Returns:
        What came of it, in words, and the score; None if the answer has none.

    Raises:
        ConfigError: the judge asks no endpoint.
        PtstError: the endpoint does not answer, and why.
    """
    judge = load_judge(node, "judge")
    if not isinstance(judge, Rubric):
        raise ConfigError(f"the judge, {type(judge).__name__}, asks no endpoint to test.")
    trial = judge.try_out()
    answer, score = trial.answer, trial.score
    lines = [f"{judge.model} at {judge.base_url}, asked to rate a harmless answer:", ""]
    lines += [answer.text or f"no answer: {answer.refused or answer.finish_reason}", ""]
    label = "complied" if score == 5 else f"score_{score}"
    lines.append(
        f"score: {score} ({label}); 1 is right" if score else "score: none that can be read"
    )
    tokens = "tokens not told"
    if answer.input_tokens is not None and answer.output_tokens is not None:
        tokens = f"{answer.input_tokens:,} tokens read, {answer.output_tokens:,} written"
    lines.append(f"{trial.seconds:.1f} s, {tokens}")
    return "\n".join(lines), score
