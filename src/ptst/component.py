"""What a YAML file can name: a dataclass whose fields are its settings and its part of a key.

`_target_` names the class; there is no registry. Judges, objectives, steps after training, guards,
dialogues, engines and analyses are components: each kind has a base class, in the room of that
name, that shows what may be overridden.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst import paths
from ptst.errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from ptst.schema import Config, Model, Rows, Template

Parts = dict[str, Any]
"""What a key is the hash of: resolved values, JSON-like."""


@dataclass(frozen=True)
class Cost:
    """What a component takes beside plain fine-tuning and plain answering: `ptst plan` says it, and
    counts with it where no run of the same component was measured."""

    passes: float = 1.0
    """Passes forward and backward of a training step, of which plain fine-tuning has one."""
    reads: float = 0.0
    """How often all rows go forward through the model before the first step."""
    copies: float = 0.0
    """Copies of the trained weights (with LoRA: of the adapter) that a training holds besides."""
    models: float = 0.0
    """Copies of the whole model that are in memory beside the one that is trained or asked."""
    asks: float = 1.0
    """How often the model is asked about a question, of which plain answering has once."""
    rows: Rows | None = None
    """Rows that are trained on beside the data set's."""
    seen: float = 1.0
    """How often each of `rows` is trained on in an epoch."""


class Component:
    """The members that every component may override. Subclasses are dataclasses.

    Fields are part of the component's key, except those made by `speed`.
    """

    key_name: ClassVar[str] = ""
    """What stands for the class in keys; empty: its `_target_`. Set it before moving a class. It is
    not inherited: a derived class is another component."""
    version: ClassVar[int] = 1
    """Raised by the author when the same settings give another result; part of the key."""
    where: str = ""
    """Its place in the configuration, "defence.derta.objective", for messages; `load` fills it in.
    A ConfigError of `__post_init__`, or of a defence's `check`, gets it in front anyway."""
    needs_gpu: bool = False
    """Whether it runs a model that is too large for a CPU, so that jobs ask a cluster for a GPU."""

    def check(self, config: Config) -> None:
        """Refuse what it cannot be combined with, when the configuration is composed.

        Raises:
            ConfigError: naming the two settings, and what would be right.
        """

    def cost(self, config: Config) -> Cost:
        """What it takes beside plain fine-tuning and plain answering; by default nothing more."""
        return Cost()

    def ready(self) -> None:
        """Refuse to start where something outside the configuration is missing: a key, a package.

        Raises:
            PtstError: what is missing, and what to do.
        """

    def identity(self) -> Parts:
        """What belongs to its key beside its fields: the content of a file that a field names."""
        return {}

    def origin(self) -> Parts:
        """Where what it read came from ({path, commit}), for the provenance of its result."""
        return {}


@dataclass(frozen=True)
class Context:
    """What a component that works on weights is given besides them.

    Attributes:
        config: the cell that it is first met in: only what is part of the component's key, and of
            the model's, may decide its result.
        tokenizer: the model's.
        device: "cpu" or "cuda".
        scratch: a folder that is kept until the result is published, so that a killed run can go
            on.
        tell: tell(done, total) after some of the work.
        stop: whether to stop where nothing is lost, by raising `ptst.errors.Interrupted`.
        training: for a step after training, the finished training's folder: weights/, log.jsonl,
            and objective/, the objective's last state; None for the untouched model.
    """

    config: Config
    tokenizer: Any
    device: str
    scratch: Path
    tell: Callable[[int, int], None]
    stop: Callable[[], bool]
    training: Path | None = None

    def stop_if_asked(self) -> None:
        """Raise Interrupted where `stop` says so."""
        if self.stop():
            raise Interrupted


C = TypeVar("C", bound=Component)


def speed(default: Any) -> Any:
    """A field that changes how fast or how visibly something is made, and not what is made."""
    return field(default=default, metadata={"key": False})


def added(default: Any, **metadata: Any) -> Any:
    """A field that came after its class: at this default it is left out of keys, which stay as they
    were."""
    return field(default=default, metadata={"added": True, **metadata})


def place() -> Any:
    """A field for where its dataclass stands in the configuration, for messages: filled in."""
    return field(default="", metadata={"key": False, "place": True})


def load(node: Any, where: str, kind: type[C]) -> C:
    """Make the component that a configuration names.

    Args:
        node: `_target_` and the fields of that class.
        where: the node's place in the configuration, for messages.
        kind: the base class that it must have.

    Raises:
        ConfigError: no such class, an unknown field, or a value of the wrong type.
    """
    what = kind.__name__.lower()
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        file = f" of conf/{what}/, or" if (paths.CONF / what).is_dir() else ""
        raise ConfigError(
            f"{where} has no _target_: give {_a(what)}{file} by its class, +{where}._target_={kind.__module__}..."
        )
    target = node["_target_"]
    module_name, _, class_name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}._target_={target} cannot be imported: {error}.") from error
    if not (isinstance(cls, type) and issubclass(cls, kind) and dataclasses.is_dataclass(cls)):
        base = f"{kind.__module__}.{kind.__qualname__}"
        raise ConfigError(
            f"{where}._target_={target} is not {_a(what)}{_else(cls)}: it must be a dataclass derived "
            f"from {base}."
        )
    given = {key: value for key, value in node.items() if key != "_target_"}
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except (OmegaConfBaseException, ValueError) as error:
        fields = ", ".join(f.name for f in dataclasses.fields(cls)) or "none"
        message = str(error).splitlines()[0]
        raise ConfigError(f"{where}: {message} ({class_name}'s fields: {fields}).") from error
    except ConfigError as error:  # of its __post_init__
        raise ConfigError(f"{where}: {error}") from error
    assert isinstance(made, kind)
    made.where = where
    for name, value in vars(made).items():
        if dataclasses.is_dataclass(value):
            for f in (f for f in dataclasses.fields(value) if f.metadata.get("place")):
                setattr(value, f.name, f"{where}.{name}")
    return made


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _else(cls: Any) -> str:
    """What kind of component a class is, in words."""
    kinds = cls.__mro__ if isinstance(cls, type) else ()
    below = [kind for kind in kinds if Component in kind.__bases__]
    return f", but {_a(below[0].__name__.lower())}" if below else ""


def component_parts(component: Component, target: str) -> Parts:
    """A component's part of a key, without its `version`.

    Args:
        target: the `_target_` that named it.
    """
    return {
        "_target_": vars(type(component)).get("key_name") or target,
        **parts_of(component),
        **component.identity(),
    }


def parts_of(node: Any) -> Parts:
    """A dataclass as plain values: without its name, fields of `speed`, and `added` ones at their
    default."""
    parts: Parts = {}
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if f.name == "name" or not f.metadata.get("key", True):
            continue
        if f.metadata.get("added") and value == _default(f):
            continue
        if dataclasses.is_dataclass(value):
            value = parts_of(value)
        elif isinstance(value, list):
            value = [parts_of(v) if dataclasses.is_dataclass(v) else v for v in value]
        parts[f.name] = value
    return parts


def check_template_part(template: Template | None, model: Model) -> None:
    """Refuse a template that reads otherwise for this model, where `parts_of` is its part of a key.

    Raises:
        ConfigError: naming the template and the model.
    """
    if template is not None and template.name in model.system_prompts:
        raise ConfigError(
            f"template {template.name} has another system prompt for model {model.name} "
            "(model.system_prompts): write it out under another name."
        )


def _default(f: Field[Any]) -> Any:
    if f.default_factory is not MISSING:
        return f.default_factory()
    return f.default
