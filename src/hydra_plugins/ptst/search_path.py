"""Lets `+sweeps=table1` find sweeps/table1.yaml, which lies beside conf/ and not in it."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ptst.paths import ROOT


class Sweeps(SearchPathPlugin):
    """Appends the checkout, whose folder sweeps/ is then a group."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("ptst", f"file://{ROOT}")
