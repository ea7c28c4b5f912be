"""What jobs ask a cluster for."""

from __future__ import annotations

import pytest

from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.slurm.settings import Resources, gpus_of

API = ("model=gpt35_turbo_0613", "finetune=openai")
JOBS = (("finetune",), ("generate", "judge"), ("generate",), ("judge",))


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        ((), (1, 1, 1, 0)),
        (("finetune.devices=4",), (4, 1, 1, 0)),
        (("engine.device=cpu", "judge=wildguard"), (0, 0, 0, 0)),
        (API, (0, 0, 0, 0)),
        (("judge=wildguard",), (1, 1, 1, 1)),
        ((*API, "judge=wildguard"), (0, 1, 0, 1)),
        (("stages=[judge]",), (0, 0, 0, 0)),
        (("stages=[judge]", "judge=wildguard"), (0, 1, 0, 1)),
        (("stages=[finetune,generate]", "judge=wildguard"), (1, 1, 1, 0)),
    ],
)
def test_a_job_asks_for_a_gpu_where_a_model_runs_in_it(
    words: tuple[str, ...], gpus: tuple[int, ...]
) -> None:
    config = compose(["scale=paper", *words])
    assert tuple(gpus_of(Resources(), stages, [config]) for stages in JOBS) == gpus


def test_what_is_asked_for_in_so_many_words_counts_unless_it_is_too_little() -> None:
    config = compose(["scale=paper", "finetune.devices=4"])
    assert gpus_of(Resources(gpus=0), ("generate", "judge"), [config]) == 0
    assert gpus_of(Resources(gpus=8), ("finetune",), [config]) == 8
    with pytest.raises(ConfigError, match=r"finetune\.gpus=2, but finetune\.devices=4"):
        gpus_of(Resources(gpus=2), ("finetune",), [config])
