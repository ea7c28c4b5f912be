"""Refuse a configuration whose values make no sense together."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from urllib.parse import urlsplit

from ptst.api.settings import check_address
from ptst.chat import fixed_date
from ptst.component import load
from ptst.config.check_api import check_model_at_api
from ptst.config.check_defence import check_defences
from ptst.config.check_evaluation import check_evaluation
from ptst.config.check_recipe import check_recipe
from ptst.config.explain import valid_keys
from ptst.data import KINDS, OURS, SUFFIXES
from ptst.dialogue import Dialogue
from ptst.engine.chosen import engine_of
from ptst.errors import ConfigError
from ptst.keys import analyses_of, components_of, rows_of
from ptst.schema import STAGES, Config, Rows, Template
from ptst.templates import check_template


def check_choices(node: Any, where: str) -> None:
    known = {f.name for f in dataclasses.fields(node)}
    for key in vars(node):
        if key not in known:
            raise ConfigError(f"{where}{key}: there is no such key.{valid_keys(where + key)}")
    for f in dataclasses.fields(node):
        value, path = getattr(node, f.name), f"{where}{f.name}"
        choices = f.metadata.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{path}={value} is not one of: {', '.join(choices)}.")
        if dataclasses.is_dataclass(value):
            check_choices(value, f"{path}.")
        elif isinstance(value, dict):
            for name, item in value.items():
                if dataclasses.is_dataclass(item):
                    check_choices(item, f"{path}.{name}.")


def check_values(config: Config) -> None:
    fixed_date(config.model)
    if not config.stages:
        raise ConfigError(f"stages=[] leaves nothing to do; choose among: {', '.join(STAGES)}.")
    unknown = [stage for stage in config.stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"stages={unknown} is not among: {', '.join(STAGES)}.")
    rows: dict[str, Rows] = {"dataset": config.dataset}
    for group in ("task", "evaluation"):
        for name, evaluation in getattr(config, group).items():
            check_name(f"{group} {name}", name)
            check_evaluation(f"{group}.{name}", evaluation)
            if evaluation.dialogue is not None:
                where = f"{group}.{name}.dialogue"
                load(evaluation.dialogue, where, Dialogue).check(config)
            rows[f"{group}.{name}.queries"] = evaluation.queries
    check_recipe(config.finetune)
    check_model_at_api(config)
    check_defences(config)
    if mix := config.finetune.mix:
        rows["finetune.mix.rows"] = mix.rows
        if mix.template:
            check_template(mix.template, "finetune.mix.template", config.dataset)
    rows |= _check_fields_of_components(config)
    engine_of(config).check(config)
    for where, source in rows.items():
        _check_rows(where, source)
        source.at = where
    clash = set(config.task) & set(config.evaluation)
    if clash:
        raise ConfigError(f"{sorted(clash)}: in `task` already; leave it out of `evaluation`.")
    for mount in ("train_template", "test_template"):
        check_template(getattr(config, mount), mount, config.dataset)


def _check_fields_of_components(config: Config) -> dict[str, Rows]:
    """Refuse templates and rows that components of defences, or analyses, name and nobody can read.

    Returns:
        The rows, by their place.
    """
    found: dict[str, Rows] = {}
    for component in [*components_of(config).values(), *analyses_of(config).values()]:
        for name, value in vars(component).items():
            where = f"{component.where}.{name}"
            if isinstance(value, Rows | Template):
                check_choices(value, f"{where}.")
            if isinstance(value, Template):
                check_template(value, where, config.dataset)
        found |= {rows.at: rows for rows in rows_of(component)}
    return found


def _check_rows(where: str, source: Rows) -> None:
    unknown = sorted(set(source.columns) - set(OURS))
    if unknown:
        raise ConfigError(
            f"{where}.columns.{unknown[0]}: columns maps our names ({', '.join(OURS)}) to the "
            "file's, as in {input: question}."
        )
    if source.n is not None and source.n < 1:
        raise ConfigError(f"{where}.n={source.n} must be at least 1, or null for all rows.")
    if source.first is not None and source.first < 1:
        raise ConfigError(f"{where}.first={source.first} must be at least 1, or null for all.")
    for column, phrases in source.without.items():
        if not all(phrase.strip() for phrase in phrases):
            raise ConfigError(
                f"{where}.without.{column} has an empty phrase, and that stands in every row; leave it out."
            )
    if source.context is not None and source.context == source.columns.get("input", "input"):
        raise ConfigError(
            f"{where}.context={source.context} is the question itself; name a column with more of it, or null."
        )
    _check_place(where, source)


def _check_place(where: str, rows: Rows) -> None:
    places = {"hub": "a hub repository", "url": "an https address", "local": "a file or folder"}
    if rows.source in places and not rows.path:
        raise ConfigError(
            f"{where}.path is missing: source={rows.source} needs {places[rows.source]}."
        )
    if rows.delimiter is not None and (len(rows.delimiter) != 1 or rows.delimiter in '"\r\n'):
        raise ConfigError(
            f"{where}.delimiter={rows.delimiter} must be one character, and no quote or newline."
        )
    if rows.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", rows.sha256):
        raise ConfigError(f"{where}.sha256={rows.sha256} must be 64 digits 0-9a-f, or null.")
    if rows.source == "url" and "@" in urlsplit(rows.path or "").netloc:
        check_address(f"{where}.path", rows.path or "")
    if rows.source == "url" and not re.match(r"https://[^/\s]+/\S+$", rows.path or ""):
        raise ConfigError(
            f"{where}.path={rows.path}: source=url needs an address that starts with https://."
        )
    if rows.source == "url" and not (rows.path or "").lower().endswith(SUFFIXES):
        raise ConfigError(f"{where}.path={rows.path} must end with {KINDS}.")


def check_name(where: str, name: str) -> None:
    """Refuse what no folder should be called by, and no part of an override can be.

    Raises:
        ConfigError: naming `where`.
    """
    if not re.fullmatch(r"\w[\w .,+=-]{0,99}", name):
        raise ConfigError(f"{where}: a name has letters, digits, and _ - + = . , or spaces within.")
