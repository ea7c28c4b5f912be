"""Loading models and tokenizers: safetensors only, no code from the hub, plain errors."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptst.chat import chat_source, is_ours
from ptst.config import ROOT, Model
from ptst.errors import ConfigError, in_one_line
from ptst.hub import commit_of
from ptst.progress import say
from ptst.store import fingerprint

SPELLING = 2
"""Raised where a chat format of a model's own is spelled, ended or read otherwise than before."""

ALL_LINEAR = "all-linear"
"""As the only target module: PEFT's word for every linear layer but the head."""


def identity(model: Model) -> dict[str, Any]:
    """What decides the model's answers and how prompts are spelled for it, for keys.

    A model behind an API is known by where it is asked and its name there.
    """
    own: dict[str, Any] = {}
    if model.question is not None:
        own["question"] = model.question
    # What came later is part of a key only where it is not at its default.
    added: dict[str, Any] = {"chat_args": {}, "date": None, "default_system": True}
    own |= {name: v for name, old in added.items() if (v := getattr(model, name)) != old}
    if model.api is not None:
        return {"api": model.api.base_url.rstrip("/"), "path": model.path, **own}
    return {
        **weights(model),
        "chat": chat_source(model),
        "completion_prefix": model.completion_prefix,
        "dtype": model.dtype,
        **({} if is_ours(model) else {"spelling": SPELLING}),
        **own,
    }


def weights(model: Model, where: str = "model.path") -> dict[str, Any]:
    """What decides the weights alone: a directory's content, or the hub's id and commit.

    Raises:
        ConfigError: the path looks like a directory and is none; `where` says whose it is.
    """
    folder = local_folder(model, where)
    if folder is not None:
        return {"sha256": fingerprint(folder)}
    return {"path": model.path, "revision": model.revision}


def local_folder(model: Model, where: str = "model.path") -> Path | None:
    """The model's directory, or None where its path is a hub id.

    Raises:
        ConfigError: the path looks like a directory and is none.
    """
    if model.api is not None:
        return None
    folder = Path(model.path).expanduser()
    for candidate in (folder, ROOT / folder):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    if folder.is_absolute() or model.path.startswith((".", "~")) or model.path.count("/") != 1:
        raise ConfigError(
            f"{where}={model.path}: no such model directory (one with a config.json). "
            "A hub model is written owner/name."
        )
    return None


def origin(model: Model) -> dict[str, Any]:
    """Where a model that was used came from, for the provenance of what it made."""
    if model.api is not None:
        return {"path": model.path, "api": model.api.base_url}
    local = local_folder(model) is not None
    commit = None if local else commit_of(model.path, "model", model.revision)
    return {"path": model.path, "commit": commit}


def load_tokenizer(model: Model, local_only: bool = False) -> Any:
    """The tokenizer, padding on the left, with a pad token (EOS where it has none).

    Args:
        local_only: do not ask the hub; take what is on this machine.

    Raises:
        ConfigError: it cannot be had, with the library's reason.
    """
    from transformers import AutoTokenizer

    source = str(local_folder(model) or model.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source,
            revision=model.revision,
            trust_remote_code=False,
            padding_side="left",
            local_files_only=local_only,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(_unavailable(model, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: Model, device: str, **kwargs: Any) -> Any:
    """The causal language model on `device`, in evaluation mode.

    Args:
        kwargs: passed on to transformers (a quantization configuration, say).

    Raises:
        ConfigError: it cannot be had, with the library's reason.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    source = str(local_folder(model) or model.path)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source,
            revision=model.revision,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            use_safetensors=True,
            trust_remote_code=False,
            **kwargs,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(_unavailable(model, error)) from error
    # generate() takes from the model's own generation configuration whatever its caller leaves open
    # (a repetition penalty, say); only what ends an answer is kept of it.
    own = loaded.generation_config
    loaded.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    return loaded.eval() if "quantization_config" in kwargs else loaded.to(device).eval()


def make_padding_exist(tokenizer: Any, config: Any) -> None:
    """Give the tokenizer a pad token that the model has an embedding for, and say so, where its own has none.

    Padding is masked, so any token does. A special one is taken where there is one.

    Args:
        config: the model's.
    """
    embeddings = config.get_text_config().vocab_size
    pad = tokenizer.pad_token_id
    if pad is not None and pad < embeddings:
        return
    special = (tokenizer.unk_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    taken = next(
        token
        for i in (*special, *range(embeddings))
        if i is not None and i < embeddings and (token := tokenizer.convert_ids_to_tokens(i))
    )
    why = "there is no pad token"
    if pad is not None:
        why = f"the pad token {tokenizer.pad_token!r} is {pad}, and the model has {embeddings} embeddings"
    say(f"{why}: {taken!r} takes its place, where no answer and no loss depends on it")
    tokenizer.pad_token = taken


def load_config(model: Model) -> Any:
    """The model's configuration, which is a small file.

    Raises:
        ConfigError: it cannot be had, with the library's reason.
    """
    from transformers import AutoConfig

    source = str(local_folder(model) or model.path)
    try:
        return AutoConfig.from_pretrained(source, revision=model.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(_unavailable(model, error)) from error


def _architecture(model: Model) -> Any:
    """The model with all its modules and without a single weight."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(model)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:  # no causal language model
        raise ConfigError(_unavailable(model, error)) from error


def linear_layers(model: Model) -> list[str]:
    """Names of the model's linear layers without the head, as LoRA's target modules take them.

    No weights are read, and no memory is taken for them.

    Raises:
        ConfigError: the model's configuration cannot be had, or is of no causal language model.
    """
    return _linear_layers(_architecture(model))


def _linear_layers(built: Any) -> list[str]:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = built.get_output_embeddings()
    linear = (
        name
        for name, module in built.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not head
    )
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear))


def missing_modules(model: Model, targets: Sequence[str]) -> list[str]:
    """Which of LoRA's target modules the model does not have; PEFT would leave them out in silence.

    A target is a module's whole name, or what follows a dot in it (PEFT 0.21, check_target_module_exists).

    Raises:
        ConfigError: as `linear_layers`.
    """
    return _missing_modules(_architecture(model), targets)


def _missing_modules(built: Any, targets: Sequence[str]) -> list[str]:
    if list(targets) == [ALL_LINEAR]:
        return []
    names = [f".{name}" for name, _ in built.named_modules()]
    return [t for t in targets if not any(name.endswith(f".{t}") for name in names)]


def check_targets(model: Model, targets: Sequence[str]) -> None:
    """Refuse target modules for LoRA that the model does not have, or that would not be trained.

    Raises:
        ConfigError: naming them, and the linear layers that there are.
    """
    built = _architecture(model)
    head = built.get_output_embeddings()
    names = [f".{name}" for name, module in built.named_modules() if module is head]
    if heads := [t for t in targets if any(name.endswith(f".{t}") for name in names)]:
        raise ConfigError(
            f"finetune.lora.target_modules: {heads[0]} is the head of {model.name}. TRL's loss reads its "
            "weights directly, so an adapter on it would not be trained; leave it out."
        )
    if missing := _missing_modules(built, targets):
        raise ConfigError(
            f"finetune.lora.target_modules: {model.name} has no {', '.join(missing)}; its linear layers "
            f"are: {', '.join(_linear_layers(built))}. Name some of them, or take all: [{ALL_LINEAR}]."
        )


def context_of(config: Any) -> int | None:
    """Positions that a model has, from its configuration; None where that names no limit.

    A model for several modalities says it of its text model.
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def _adapts_shared_weights(adapted: Any) -> bool:
    """Whether an adapter is on weights that another module uses, too: embeddings that are tied to the head.

    In training that other module went without the adapter; merged, it would get it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses = Counter(id(weight) for _, weight in adapted.named_parameters(remove_duplicate=False))
    layers = (module for module in adapted.modules() if isinstance(module, BaseTunerLayer))
    return any(uses[id(layer.get_base_layer().weight)] > 1 for layer in layers)


class BaseModel:
    """A base model on which adapters take turns: loaded once for as long as the same one is asked for."""

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
        # or less would round much of it away. Merged into a copy: subtracting it again would round, too.
        exact = model.dtype == "float32" and not quantization(method, device)
        if exact and not _adapts_shared_weights(self._adapted):
            merged = copy.deepcopy(self._adapted).merge_and_unload()
            self._loaded, self._adapted = self._adapted.unload(), None
            return merged
        return self._adapted

    def forget(self) -> None:
        """Drop the model, so that there is room for another."""
        if self._loaded is None:
            return
        import torch

        self._loaded = self._adapted = self._which = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Held:
    """The models of one run, of a cell or of a job of a sweep; nothing of it outlives the run.

    Attributes:
        base: what the cells test.
        judge: a judge's own model, from one evaluation to the next.
        told: lines about them that were said already, so that each is said once.
    """

    def __init__(self) -> None:
        self.base = BaseModel()
        self.judge = BaseModel()
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
            raise ConfigError(_unavailable(model, error)) from error


def _refusal(model: Model) -> Exception | None:
    """Why the hub does not give a model's smallest file."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(model.path, "config.json", revision=model.revision)
    except (OSError, ValueError) as error:
        return error
    return None


def quantization(method: str, device: str) -> dict[str, Any]:
    """What `load_model` needs for a fine-tuning method: for qlora 4-bit NF4, else nothing.

    NF4 with double quantisation is QLoRA's own setting (Dettmers et al. 2023).

    Raises:
        ConfigError: qlora without CUDA or without bitsandbytes.
    """
    if method != "qlora":
        return {}
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if not device.startswith("cuda"):
        raise ConfigError(f"finetune=qlora needs a CUDA device; this is {device}. Use lora.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("finetune=qlora needs bitsandbytes: pip install -e '.[qlora]'.")
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        "device_map": {"": device},
    }


def pick_device(device: str) -> str:
    """`auto` becomes cuda where there is CUDA, else cpu; anything else stays.

    Raises:
        ConfigError: a CUDA device was asked for and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"engine.device={device}, but PyTorch sees no CUDA device; use cpu.")
    return device


def _unavailable(model: Model, error: Exception) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    page = f"https://huggingface.co/{model.path}"
    if "gated repo" in str(error).lower():
        hint = f"It is gated: accept its licence at {page} and log in with `hf auth login`."
    elif isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        hint = f"Check its path and its revision={model.revision} against {page}."
    else:
        hint = "Set its path to a model directory, or download it first with `hf download`."
    return f"model {model.name} ({model.path}) cannot be loaded: {reason}\n{hint}"
