"""Loading models and tokenizers: safetensors only, no code from the hub, plain errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptst.errors import ConfigError
from ptst.models.sources import local_folder
from ptst.progress import say
from ptst.schema import Model


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
        raise ConfigError(unavailable(model, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: Model, device: str, **kwargs: Any) -> Any:
    """The causal language model on `device`, in evaluation mode.

    Args:
        kwargs: passed on to transformers (for example a quantization configuration).

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
        raise ConfigError(unavailable(model, error)) from error
    # generate() takes from the model's own generation configuration whatever its caller leaves open
    # (for example a repetition penalty); only what ends an answer is kept of it.
    own = loaded.generation_config
    loaded.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    return loaded.eval() if "quantization_config" in kwargs else loaded.to(device).eval()


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
        raise ConfigError(unavailable(model, error)) from error


def downloaded(model: Model) -> Path:
    """The folder of a model's weights and configuration: its own, or the hub's cache.

    Raises:
        ConfigError: they cannot be had, with the library's reason.
    """
    if (folder := local_folder(model)) is not None:
        return folder
    from huggingface_hub import snapshot_download

    files = ["model*.safetensors", "*.json"]
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=files))
    except (OSError, ValueError) as error:
        raise ConfigError(unavailable(model, error)) from error


def ends_of(model: Model) -> frozenset[int]:
    """The token ids that end an answer by the model's own generation configuration.

    Raises:
        ConfigError: its files cannot be had, with the library's reason.
    """
    from transformers import GenerationConfig

    source = str(local_folder(model) or model.path)
    try:
        own = GenerationConfig.from_pretrained(source, revision=model.revision)
    except OSError:  # a model need not have one: transformers then makes it of the model's own
        own = GenerationConfig.from_model_config(load_config(model))
    return ids_of(own.eos_token_id)


def ids_of(token_ids: int | list[int] | None) -> frozenset[int]:
    """One token id, several, or none, as configurations have them."""
    listed = token_ids if isinstance(token_ids, list) else [token_ids]
    return frozenset(token for token in listed if token is not None)


def context_of(config: Any) -> int | None:
    """Positions that a model has, from its configuration; None where that names no limit.

    A model for several modalities says it of its text model.
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def make_padding_exist(tokenizer: Any, config: Any) -> None:
    """Give the tokenizer a pad token that the model has an embedding for, where its own has none.

    A line says so. Padding is masked, so any token does. A special one is taken where there is one.

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


def unavailable(model: Model, error: Exception) -> str:
    """Why a model cannot be had, and what to do, for an error's message."""
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
