"""The sweeper behind `ptst -m`, a thin layer: the grid is ptst.sweep's, the jobs are a
launcher's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="ptst",
    node={"_target_": "hydra_plugins.ptst.sweeper.GridSweeper", "aimed": []},
    provider="ptst",
)


class GridSweeper(Sweeper):
    """Expands, checks and freezes the grid, then launches one job per model.

    Args:
        aimed: overrides that Hydra has not seen (`ptst.multirun.launch.multirun`).
    """

    def __init__(self, aimed: Sequence[str] = ()) -> None:
        self.aimed = list(aimed)
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from ptst.multirun.launch import FrozenLoader

        frozen: Any = FrozenLoader()
        context = HydraContext(config_loader=frozen, callbacks=hydra_context.callbacks)
        self.hydra_context, self.config = context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> int:
        """Run the grid.

        Returns:
            How many cells are not done at the end.
        """
        from hydra_plugins.ptst.slurm import SlurmLauncher
        from ptst.multirun.launch import sweep

        GlobalHydra.instance().clear()  # the cells are composed by a Hydra of their own
        assert self.launcher is not None and self.config is not None
        launcher = self.launcher
        ours = self.config.hydra.overrides.hydra  # Hydra hands on those of the task alone
        arguments = [
            *arguments,
            *self.aimed,
            *(word for word in ours if word.lstrip("+").startswith("hydra.searchpath=")),
        ]
        if isinstance(launcher, SlurmLauncher):
            from ptst.multirun.slurm import submit_sweep

            return submit_sweep(arguments, launcher.settings)

        def launch(file: Path, jobs: Sequence[list[int]], wait: bool) -> list[list[int]]:
            if not jobs:
                return []
            overrides = [[f"file={file}", f"cells={job}", f"wait={wait}"] for job in jobs]
            try:
                done = launcher.launch(overrides, initial_job_idx=0)
                # raises what a job raised: cells' failures are not among it
                return [job for job, run in zip(jobs, done, strict=True) if not run.return_value]
            finally:
                if "joblib" in type(launcher).__module__:
                    _end_workers()

        return sweep(arguments, launch)


def _end_workers() -> None:
    """End joblib's processes, which it keeps for the next run: with this one's environment, memory
    and GPU."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True)
