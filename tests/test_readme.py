"""What the README shows is what is there."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from ptst.config import ROOT, compose
from ptst.sweep.grid import expand

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Every `ptst ...` line of the README's code blocks, as words."""
    blocks = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ptst ")]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_composes(words: list[str]) -> None:
    if words == ["--help"]:
        return
    options = ("question=", "watch=", "hydra")
    overrides = [w for w in words[1:] if not w.startswith(options)]
    if words and words[0] in ("-m", "plan", "status", "report"):
        assert len(expand(overrides).cells) > 1
    else:
        first = [] if not words or words[0] == "prompt" else words[:1]
        assert compose([*first, *overrides]).seed in (0, 1)


def test_the_worked_template_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptst.config import Template
    from ptst.templates import check_template, make_prompt

    (text,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    template = Template(**yaml.safe_load(text))
    config = compose([])
    check_template(template, "test_template", config.dataset)
    made = make_prompt({"input": "Why?"}, template, config.dataset, config.model).text
    assert made.startswith(f"[INST] <<SYS>>\n{template.system}\n<</SYS>>\n\nQuestion: Why?")


def test_every_path_that_is_named_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    code = [w for w in re.findall(r"`((?:conf|src|docs|benchmarks)/[\w./]*)`", README)]
    assert links
    for path in [*links, *code]:
        assert (ROOT / path).exists(), path


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
