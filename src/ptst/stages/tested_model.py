"""The model that cells test."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

from ptst import models
from ptst.config import Config
from ptst.errors import PtstError
from ptst.keys import CellKeys, tested_epoch
from ptst.quiet import quiet
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
        self.device = config.engine.device
        self.finetuning = keys.finetune
        self.epoch = tested_epoch(config.finetune)
        self.store = store

    @cached_property
    def tokenizer(self) -> Any:
        """The base model's tokenizer (fine-tuning does not change it)."""
        quiet()
        return self.held.tokenizer(self.model_config)

    @property
    def name_at_api(self) -> str:
        """What the model, or its fine-tuning, is called at its API.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out).
        """
        if self.finetuning is None:
            return self.model_config.path
        from ptst.finetune.openai import fine_tuned_model

        return fine_tuned_model(self._tuned())

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
            PtstError: the fine-tuning is not in the store, or has no weights of the epoch that is to be tested.
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

    @cached_property
    def model(self) -> Any:
        """The fine-tuned model, or the untouched one.

        Raises:
            PtstError: the fine-tuning is not in the store (`stages` left it out), or ended before, or
                did not keep, the epoch that is to be tested.
        """
        quiet()
        device = models.pick_device(self.device)
        if self.finetuning is None:
            return self.held.base.untouched(self.model_config, device)
        folder = self.weights()
        if self.method == "full":
            tuned = dataclasses.replace(self.model_config, path=str(folder), revision=None)
            self.held.base.forget()  # there may not be room for both
            return models.load_model(tuned, device)
        return self.held.base.adapted(self.model_config, device, self.method, folder)
