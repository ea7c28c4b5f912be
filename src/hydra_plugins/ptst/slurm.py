"""`hydra/launcher=slurm`: what the sweeper hands a whole grid to, instead of launching its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ptst.slurm.settings import SlurmSettings

ConfigStore.instance().store(
    group="hydra/launcher", name="slurm_schema", node=SlurmSettings, provider="ptst"
)


class SlurmLauncher(Launcher):
    """Holds the settings; ptst.slurm submits, with the dependencies that a list of jobs does not
    have."""

    def __init__(self, **settings: Any) -> None:
        merged = OmegaConf.merge(OmegaConf.structured(SlurmSettings), settings)
        self.settings = cast(SlurmSettings, OmegaConf.to_object(merged))

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Nothing to set up."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Not for jobs one by one.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "hydra/launcher=slurm takes a whole grid: ptst -m ... hydra/launcher=slurm"
        )
