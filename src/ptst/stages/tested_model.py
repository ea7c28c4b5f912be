"""The model that cells test."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path
from typing import Any

from ptst import models
from ptst.engine.chosen import engine_of
from ptst.errors import PtstError
from ptst.keys import CellKeys, tested_epoch
from ptst.quiet import quiet
from ptst.schema import Config, Model
from ptst.store import Store


class TestedModel:
    """The model that cells test: loaded when the first of them needs it, once.

    What it is made of is all it knows: a test template, say, is the cell's.

    Args:
        held: the models of the run, of which the base model serves several fine-tunings in turn.
    """

    __test__ = False  # not a test class, whatever pytest reads into the name

    def __init__(
        self, config: Config, keys: CellKeys, store: Store, held: models.Held | None = None
    ) -> None:
        self.held = held or models.Held()
        self.model_config = config.model
        self.method = config.finetune.method
        self.device = engine_of(config).device
        self.finetuning = keys.finetune
        self.posthoc = keys.posthoc
        self.epoch = tested_epoch(config.finetune)
        self.store = store

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer (fine-tuning does not change it)."""
        quiet()
        return self.held.tokenizer(self.model_config)

    def untuned(self) -> TestedModel:
        """The model as it was before fine-tuning. What is loaded of this one has to be loaded
        again."""
        vars(self).pop("model", None)
        base = copy.copy(self)
        base.method, base.finetuning, base.posthoc, base.epoch = "none", None, None, None
        return base

    @property
    def name_at_api(self) -> str:
        """What the model, or its fine-tuning, is called at its API.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out).
        """
        if self.finetuning is None:
            return self.model_config.path
        from ptst.train.openai import fine_tuned_model

        return fine_tuned_model(self._tuned())

    @property
    def files(self) -> models.Files:
        """Where its weights lie, for an engine that loads them itself.

        Raises:
            PtstError: as `model`.
        """
        if self.posthoc is not None:
            return models.Files(self._in(self._changed()))
        if self.finetuning is None:
            return models.Files(self.model_config)
        folder = self.weights()
        if self.method == "full":
            return models.Files(self._in(folder))
        return models.Files(self.model_config, folder)

    def serve(self, which: Hashable, start: Callable[[], models.Process]) -> Any:
        """See `ptst.models.held.Served`. What is loaded here makes room for another process."""

        def alone() -> models.Process:
            self.held.base.forget()
            self.held.judge.forget()
            models.give_back_memory()  # what a training in this process had
            return start()

        return self.held.served.get(which, alone)

    def _tuned(self) -> Path:
        assert self.finetuning is not None
        folder = self.store.path("finetune", self.finetuning)
        if not folder.is_dir():
            raise PtstError(
                f"fine-tuning {self.finetuning} is not in {self.store.root}: run the cell with "
                "stages=[finetune] first, or with all stages."
            )
        return folder

    def weights(self) -> Path:
        """Where the fine-tuned weights are.

        Raises:
            PtstError: the fine-tuning is not in the store, or has no weights of the epoch that is
                to be tested.
        """
        artifact = self._tuned()
        if self.epoch is None:
            return artifact / "weights"
        folder = artifact / "epochs" / str(self.epoch)
        if not folder.is_dir():
            kept = sorted(int(path.name) for path in artifact.glob("epochs/*"))
            raise PtstError(
                f"fine-tuning {self.finetuning} has no weights of finetune.epoch={self.epoch}; it has "
                f"those of {', '.join(f'epoch {n}' for n in kept) or 'no epoch'} and of its end "
                "(finetune.epoch=null). It stopped before (finetune.max_steps), or an older version "
                f"made it: delete {artifact} to make it again."
            )
        return folder

    @property
    def picked(self) -> str:
        """The device that the configuration comes to here."""
        return models.pick_device(self.device)

    @cached_property
    def model(self) -> Any:
        """What the cell tests: the fine-tuned model, after a defence's step, or the untouched one.

        Raises:
            PtstError: the weights are not in the store (`stages` left them out), or the fine-tuning
                ended before, or did not keep, the epoch that is to be tested.
        """
        quiet()
        if self.posthoc is not None:
            self.held.base.forget()  # there may not be room for both
            return self._whole(self._changed())
        if self.finetuning is None:
            return self.held.base.untouched(self.model_config, self.picked)
        folder = self.weights()
        if self.method == "full":
            self.held.base.forget()
            return self._whole(folder)
        return self.held.base.adapted(self.model_config, self.picked, self.method, folder)

    def untouched(self) -> Any:
        """The model before it was fine-tuned."""
        quiet()
        return self.held.base.untouched(self.model_config, self.picked)

    def alone(self) -> Any:
        """What the cell tests, `merged`, with nothing else of this one in memory that can be loaded
        again."""
        vars(self).pop("model", None)
        self.held.base.forget()
        return self.merged(tested=True)

    def merged(self, tested: bool = False) -> Any:
        """The fine-tuned model as whole weights, a copy that may be changed.

        Args:
            tested: after a defence's step, as the cell tests it; False: as training left it.
        """
        quiet()
        if tested and self.posthoc is not None:
            return self._whole(self._changed())
        return without_adapter(self.trained())

    def trained(self) -> Any:
        """As training left it: `merged` but for an adapter, which stands beside the weights."""
        quiet()
        if self.finetuning is None:
            return models.load_model(self.model_config, self.picked)
        folder = self.weights()
        if self.method == "full":
            return self._whole(folder)
        from peft import PeftModel

        base = models.load_model(self.model_config, self.picked)
        return PeftModel.from_pretrained(base, str(folder))

    def training(self) -> Path | None:
        """What training left, all of it; None where nothing was trained."""
        return None if self.finetuning is None else self._tuned()

    def _whole(self, folder: Path) -> Any:
        return models.load_model(self._in(folder), self.picked)

    def _in(self, folder: Path) -> Model:
        """The whole weights in a folder of the store."""
        return dataclasses.replace(self.model_config, path=str(folder), revision=None)

    def _changed(self) -> Path:
        assert self.posthoc is not None
        folder = self.store.path("posthoc", self.posthoc) / "weights"
        if not folder.is_dir():
            raise PtstError(
                f"weights {self.posthoc} are not in {self.store.root}: run the cell with "
                "stages=[finetune] first, or with all stages."
            )
        return folder


def without_adapter(trained: Any) -> Any:
    """The whole weights, in which an adapter is merged where there is one."""
    from peft import PeftModel

    return trained.merge_and_unload() if isinstance(trained, PeftModel) else trained
