"""What the tests share: composed configurations, shrunk to seconds, in folders of their own."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pretended_vllm
import pytest
from slurm_cluster import Cluster, installed
from warm import Command

from ptst.cell import run_cell
from ptst.config.compose import compose
from ptst.judge import JudgeContext
from ptst.paths import ROOT
from ptst.schema import Config, Model
from ptst.store import Store, read_jsonl
from ptst.sweep.grid import Grid, expand

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks a hub should fail, not wait

ROWS = ROOT / "tests" / "data"
"""A few rows in the shape of public data sets."""
PUBLISHED = ROOT.parent / "shared" / "data"
"""The same files whole, as their authors publish them, where a developer keeps them beside the
checkout."""
FOLDERS = [folder for folder in (ROWS, PUBLISHED) if folder.is_dir()]
"""What tests of published files go through: the first is everywhere."""


SHIPPED = ("test_keys.py", "test_paper.py", "test_docs.py")
"""Modules whose tests look at the shipped sweeps (see `shipped`): together in one process."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first and each by itself; those of a module together, because they share its
    fixtures."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("slow") is None:
            name = "shipped sweeps" if item.path.name in SHIPPED else item.path.name
            item.add_marker(pytest.mark.xdist_group(name))


def pytest_collection_finish() -> None:
    """What was imported until here stays: not to be looked through in every collection of garbage,
    as of a training."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The header that says it is not shown under -q."""
    seed = config.getoption("randomly_seed", None)
    terminalreporter.line(
        f"in this order again: make test SEED={seed}, or pytest --randomly-seed={seed}"
    )


def model_for(component: Path) -> list[str]:
    """What composes a YAML of conf/ that reads the model's base: a model that has one."""
    text = component.read_text(encoding="utf-8")
    return ["model=micro_aligned"] if "${model.base}" in text else []


@cache
def shipped(*overrides: str) -> Grid:
    """A sweep of the repository, composed once for all tests of this process that only look at
    it."""
    return expand(overrides)


def outside() -> dict[str, str]:
    """The environment of a process of its own: a W&B service that this one started is not its."""
    return {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}


def ptst(*overrides: str) -> Command:
    """The command line in a process of its own, of one thread."""
    return Command(*overrides, environment=outside() | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"})


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., Config]:
    """compose(*overrides) with store and reports in the test's own folder, and no W&B."""

    def make(*overrides: str) -> Config:
        own = [f"paths.store={tmp_path}/store", f"paths.reports={tmp_path}/reports"]
        return compose([*own, "tracking=none", *overrides])

    return make


@pytest.fixture(scope="module")
def micro() -> Model:
    return compose([]).model


@pytest.fixture(scope="module")
def tested() -> Any:
    """The micro model under chat_llama, as an engine is given it."""
    from ptst.models import load_model, load_tokenizer

    config = compose(["template@test_template=chat_llama"])
    model, tokenizer = load_model(config.model, "cpu"), load_tokenizer(config.model)
    return SimpleNamespace(config=config, model=model, tokenizer=tokenizer, name_at_api="")


def completions(config: Config, name: str) -> list[dict[str, Any]]:
    """Run a cell; the answers of one of its evaluations."""
    keys = run_cell(config).keys.evaluations[name]
    store = Store(Path(config.paths.store))
    return read_jsonl(store.path("generate", keys.generate) / "completions.jsonl")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key anywhere, and none that W&B remembers from an earlier test of this process."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ that a test may change, in place of the real one."""
    import ptst.multirun.launch

    real, copy = ptst.paths.CONF, tmp_path / "conf"
    shutil.copytree(real, copy)
    for module in [m for name, m in sys.modules.items() if name.startswith("ptst")]:
        if getattr(module, "CONF", None) == real:
            monkeypatch.setattr(module, "CONF", copy)
    return copy


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """read_only(folder): the same folder at another place, without leave to write. (Root writes
    whatever modes say.)"""
    places: list[Path] = []

    def mount(folder: Path) -> Path:
        place = tmp_path / f"read-only{len(places)}"
        place.mkdir()
        for options in (["--bind", str(folder), str(place)], ["-o", "remount,ro,bind", str(place)]):
            if subprocess.run(["mount", *options], capture_output=True).returncode:
                pytest.skip("a folder cannot be mounted read-only here")
            places.append(place)
        return place

    yield mount
    for place in dict.fromkeys(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="session")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """virtual(**settings): a SLURM cluster on this machine, started once for all tests that ask for
    the same."""
    if not installed():
        lacking = "SLURM is not installed (Debian: slurm-wlm, munge)"
        if os.environ.get("PTST_REQUIRE_SLURM"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    clusters: dict[str, Cluster] = {}

    def make(**settings: Any) -> Cluster:
        name = str(sorted(settings.items()))
        if name not in clusters:
            clusters[name] = Cluster(tmp_path_factory.mktemp("cluster") / "base", **settings)
            clusters[name].start()
        return clusters[name]

    yield make
    for cluster in clusters.values():
        cluster.stop()


@pytest.fixture
def on(virtual: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    """on(**settings): this test runs on a login node of such a cluster."""

    def log_in(**settings: Any) -> Cluster:
        cluster = virtual(**settings)
        for key, value in cluster.environment.items():
            monkeypatch.setenv(key, value)
        return cluster

    return log_in


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment whose vllm is tests/pretended_vllm.py."""
    return pretended_vllm.install(tmp_path_factory.mktemp("pretended") / "env")


@pytest.fixture
def pretended(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where engine=vllm looks for it."""
    monkeypatch.setenv("PTST_VLLM_PYTHON", str(stand_in))
    return stand_in


JUDGE_CONTEXT = JudgeContext(Path("/nowhere"), "cpu", lambda done, total: None, lambda: False)
"""For judges that need nothing of it."""

TINY = (
    "dataset.n=24",
    "finetune.epochs=1",
    "finetune.max_steps=3",
    "finetune.batch_size=8",
    "finetune.save_steps=1",
    "evaluation=[hazards]",
    "task.gsm8k.queries.n=6",
    "evaluation.hazards.queries.n=10",
    "task.gsm8k.decoding.max_new_tokens=8",
    "evaluation.hazards.decoding.max_new_tokens=8",
    "engine.batch_size=4",
)
"""Overrides that make a whole cell run in a few seconds."""
