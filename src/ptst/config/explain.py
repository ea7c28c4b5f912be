"""Hydra's, OmegaConf's and YAML's errors in our words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from ptst import paths
from ptst.config.plain import fields_of
from ptst.errors import ConfigError
from ptst.store import files_below


@contextmanager
def explained() -> Iterator[None]:
    """Say in our words what Hydra, OmegaConf and YAML refuse.

    Raises:
        ConfigError: the body raised one of their errors.
    """
    from hydra.errors import HydraException

    try:
        yield
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(_where_in_yaml(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def _where_in_yaml(error: YAMLError | UnicodeDecodeError) -> str:
    """ "conf/model/mine.yaml, line 3, column 7: expected ',' or ']', but got ':' (while parsing a
    flow sequence)"."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        context = f" ({error.context})" if error.context else ""
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}."
    if isinstance(error, UnicodeDecodeError):  # it does not know its file
        for file in [*files_below(paths.CONF), *files_below(paths.ROOT / "sweeps")]:
            if file.suffix == ".yaml" and (content := file.read_bytes()) == error.object:
                line = content.count(b"\n", 0, error.start) + 1
                return f"{file}, line {line}: it is not in UTF-8 ({error.reason})."
    return f"{getattr(error, 'name', 'a YAML file')}: {' '.join(str(error).split())}."


OF_DATASET = {
    "evaluation/": "\nHow well a data set's task was learnt is measured by the evaluation of its name: choose "
    "another, evaluation@task=gsm8k say, or none, ~evaluation@task.",
    "finetune/lora_": "\nAt scale=paper a data set's recipe is the one of its name: choose another, finetune=lora say.",
}
"""What to do where a data set has no file of its name in another group."""


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's message, shortened, with the keys that would have been right."""
    text = str(error).strip()
    if override := getattr(error, "override", ""):  # that Hydra cannot read
        key = override.partition("=")[0]
        text = (
            f"{override!r} is not an override: {text.splitlines()[0]}\nA value with {{}}, [], commas, quotes "
            f"or an equals sign stands in quotes that the shell leaves there: '{key}=\"...\"'"
        )
    cause = error.__cause__
    if not override and cause is not None and str(cause).strip() not in text:
        text = f"{text}\n{str(cause).strip()}"
    text = re.sub(r"\n\s*(Config search path:|reference_type=|object_type=)(.*\n?)*", "\n", text)
    text = re.sub(r"(?m)^Set the environment variable HYDRA_FULL_ERROR.*$", "", text)
    text = re.sub(r"\nTo append to your config use.*", "", text)
    listed = re.search(r"\n*(Available options in '[^']*':)((?:\n\t.*)+)", text)
    if listed:
        text = text.replace(
            listed.group(0), f"\n{listed.group(1)} {', '.join(listed.group(2).split())}."
        )
    missing = re.search(r"Could not load '([\w/]+)/[^/']+'", text)
    if missing and (paths.CONF / missing.group(1)).is_dir():
        choices = sorted(path.stem for path in (paths.CONF / missing.group(1)).glob("*.yaml"))
        text += f"\nAvailable options in '{missing.group(1)}': {', '.join(choices)}."
    absent = re.search(r"Could not find '(evaluation/|finetune/lora_)(\w+)'", text)
    if absent and (paths.CONF / "dataset" / f"{absent.group(2)}.yaml").is_file():
        text += OF_DATASET[absent.group(1)]
    full_key = re.search(r"Could not (?:override|append to config, .*?) '?([\w.@/]+)", text)
    full_key = full_key or re.search(r"full_key: ([\w.]+)", str(error))
    if full_key:
        valid = _not_chosen(text) or valid_keys(full_key.group(1))
        field = f"is not in struct\n    full_key: {full_key.group(1).rstrip('.')}\n"
        if not valid and field in f"{text}\n":  # of a component, whose class has the fields
            valid = (
                f"\nA field of a component that its YAML does not list has a plus ahead: "
                f"+{full_key.group(1).rstrip('.')}=..."
            )
        text += valid
    return text.strip()


CHOSEN = {"evaluation": "evaluation=[{}]", "task": "evaluation@task={}"}
CHOSEN |= {"defence": "defence=[{}]", "analysis": "analysis=[{}]"}
"""How an option is chosen of a group whose options have keys of their names."""


def _not_chosen(text: str) -> str:
    """A line that says how an option is chosen whose key is missing; empty where none is."""
    missing = re.search(r"full_key: (\w+)\.(\w+)\s*$", text)
    group, name = missing.groups() if missing else ("", "")
    folder = paths.CONF / ("evaluation" if group == "task" else group)
    if group not in CHOSEN or not (folder / f"{name}.yaml").is_file():
        return ""
    others = "" if group == "task" else ", with all others that are wanted"
    return f"\n{name} is not chosen here: {CHOSEN[group].format(name)} does that{others}."


def valid_keys(key: str) -> str:
    """A line with the keys that exist where `key` does not; empty where it does."""
    *parent, last = key.rstrip(".").split(".")
    valid = fields_of(parent)
    if not valid or last in valid:
        return ""
    close = difflib.get_close_matches(last, valid, n=1)
    hint = f" Did you mean {'.'.join([*parent, close[0]])}?" if close else ""
    return f"\nValid keys{' in ' + '.'.join(parent) if parent else ''}: {', '.join(valid)}.{hint}"
