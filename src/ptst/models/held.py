"""Models that stay loaded for a run: each once, with adapters that take turns on it."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ptst.errors import ConfigError, in_one_line
from ptst.models.loading import (
    context_of,
    load_config,
    load_model,
    load_tokenizer,
    quantization,
    unavailable,
)
from ptst.models.sources import local_folder
from ptst.schema import Model


@dataclass(frozen=True)
class Files:
    """Where the weights of a model lie, for a program that loads them itself.

    Attributes:
        model: whole weights, in a folder or on the hub.
        adapter: the folder of a LoRA adapter that belongs on them.
    """

    model: Model
    adapter: Path | None = None


class Process(Protocol):
    """A process that has loaded a model and answers with it."""

    @property
    def alive(self) -> bool:
        """Whether it still answers."""

    def close(self) -> None:
        """End it, and wait until it has ended."""


class Served:
    """A model in a process of its own, started once while the same one is asked for."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._which: Hashable = None

    def get(self, which: Hashable, start: Callable[[], Process]) -> Any:
        """The process that serves `which`; the one that served another is ended first."""
        if self._process is None or which != self._which or not self._process.alive:
            self.forget()
            self._process, self._which = start(), which
        return self._process

    def forget(self) -> None:
        """End the process, so that there is room for another model."""
        if self._process is not None:
            self._process.close()
            self._process = self._which = None


class BaseModel:
    """A base model on which adapters take turns, loaded once while the same one is asked for."""

    def __init__(self) -> None:
        self._loaded: Any = None
        self._adapted: Any = None
        self._which: tuple[Any, ...] | None = None

    def untouched(self, model: Model, device: str, method: str = "none") -> Any:
        """The base model without any adapter, quantised where the fine-tuning method says so."""
        which = (model, device, quantization(method, device) != {})
        if which != self._which:
            self.forget()
            self._loaded = load_model(model, device, **quantization(method, device))
            self._which = which
        if self._adapted is not None:
            self._loaded, self._adapted = self._adapted.unload(), None
        return self._loaded

    def adapted(self, model: Model, device: str, method: str, folder: Path) -> Any:
        """The base model under the adapter in `folder`; valid until another is asked for.

        Raises:
            PtstError: it does not fit the model, with PEFT's reason.
        """
        from peft import PeftModel

        base = self.untouched(model, device, method)
        unfit = f"the adapter in {folder} cannot be loaded onto {model.name}"
        with in_one_line(unfit):
            self._adapted = PeftModel.from_pretrained(base, str(folder)).eval()
        # Merged, an adapter costs nothing at each step; but adding it to weights of half precision
        # or less would round much of it away. Merged into a copy: subtracting it again would round,
        # too.
        exact = model.dtype == "float32" and not quantization(method, device)
        if exact and not _adapts_shared_weights(self._adapted):
            merged = copy.deepcopy(self._adapted).merge_and_unload()
            self._loaded, self._adapted = self._adapted.unload(), None
            return merged
        return self._adapted

    def forget(self) -> None:
        """Drop the model, so that there is room for another."""
        if self._loaded is not None:
            self._loaded = self._adapted = self._which = None
            give_back_memory()


def give_back_memory() -> None:
    """Leave a GPU's memory that nothing here holds any more, as of a training, to others."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _adapts_shared_weights(adapted: Any) -> bool:
    """Whether an adapter is on weights that another module uses, too (embeddings tied to the head).

    In training that other module went without the adapter; merged, it would get it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses = Counter(id(weight) for _, weight in adapted.named_parameters(remove_duplicate=False))
    layers = (module for module in adapted.modules() if isinstance(module, BaseTunerLayer))
    return any(uses[id(layer.get_base_layer().weight)] > 1 for layer in layers)


class Held:
    """The models of one run, of a cell or of a job of a sweep; nothing of it outlives the run.

    Attributes:
        base: what the cells test.
        judge: a judge's own model, from one evaluation to the next.
        served: what the cells test, where an engine loads it in a process of its own.
        told: lines about them that were said already, so that each is said once.
    """

    def __init__(self) -> None:
        self.base = BaseModel()
        self.judge = BaseModel()
        self.served = Served()
        self.told: set[str] = set()
        self._refused: dict[tuple[str, str | None], Exception | None] = {}
        self._tokenizers: dict[tuple[str, str | None], Any] = {}
        self._contexts: dict[tuple[str, str | None], int | None] = {}

    def tokenizer(self, model: Model) -> Any:
        """See `load_tokenizer`; loaded once."""
        which = (model.path, model.revision)
        if which not in self._tokenizers:
            self._tokenizers[which] = load_tokenizer(model)
        return self._tokenizers[which]

    def context(self, model: Model) -> int | None:
        """How many tokens the model reads at most; None where its configuration does not say."""
        which = (model.path, model.revision)
        if which not in self._contexts:
            self._contexts[which] = context_of(load_config(model))
        return self._contexts[which]

    def check_access(self, model: Model) -> None:
        """Refuse a hub model whose files cannot be had, by asking for the smallest of them, once.

        Raises:
            ConfigError: it is gated, is not there, or the hub cannot be asked, with what to do.
        """
        if local_folder(model) is not None:
            return
        asked = (model.path, model.revision)
        if asked not in self._refused:
            self._refused[asked] = _refusal(model)
        if (error := self._refused[asked]) is not None:
            raise ConfigError(unavailable(model, error)) from error


def _refusal(model: Model) -> Exception | None:
    """Why the hub does not give a model's smallest file."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(model.path, "config.json", revision=model.revision)
    except (OSError, ValueError) as error:
        return error
    return None
