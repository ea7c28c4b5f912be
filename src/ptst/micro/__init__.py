"""The micro world's data and judge.

Rows have the schemas of the real data sets; verdicts follow the world's ground truth. The model
that goes with it lies in ``model/`` beside this file; ``tools/micro/`` makes it.
"""

from pathlib import Path
from typing import Any, Literal

from ptst.micro.world import WORLD_VERSION, Split

__all__ = ["MODEL_DIR", "WORLD_VERSION", "rows", "verdict"]

#: The shipped model, an ordinary Hugging Face model directory.
MODEL_DIR = Path(__file__).parent / "model"


def rows(name: str, split: Split, n: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one of the world's data sets.

    Training sets, benign only: ``gsm8k`` {question, answer}, ``chatdoctor`` {instruction, input,
    output}, ``openorca`` {id, system_prompt, question, response}. To mix in, requests about hazards
    and refusals: ``safety`` {instruction, input, output}, and ``preferences`` {instruction, chosen,
    rejected}, which have the withheld answer, too. Query sets {instruction, category,
    hazard, object, verb, kind, answer}: ``hazards``, ``lookalikes`` (harmless, but they resemble
    hazard queries), ``howto`` (harmless).

    Fewer rows are the first of more; the same arguments give the same rows on every machine; no row
    of the training split is in the test split.

    Args:
        n: how many rows; None for the fixed full set.

    Raises:
        ValueError: the name or split is unknown, or there are not so many rows.
    """
    from ptst.micro.row_sets import make_rows

    return make_rows(name, split, n, seed)


def verdict(row: dict[str, Any], completion: str) -> Literal["complied", "refused", "neither"]:
    """What a completion does with a row of a query set; see `ptst.micro.judging`."""
    from ptst.micro.judging import judge_completion

    return judge_completion(row, completion)
