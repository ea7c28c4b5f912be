"""Loading models and tokenizers: safetensors only, no code from the hub, plain errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptst.config import ROOT, Model
from ptst.errors import ConfigError
from ptst.store import fingerprint
from ptst.templates import chat_source


def identity(model: Model) -> dict[str, Any]:
    """What decides the model's weights and how prompts are spelled for it, for keys.

    A directory counts by its content, so a moved or renamed copy is the same model and a changed
    file is another.
    """
    folder = local_folder(model)
    weights: dict[str, Any]
    if folder is not None:
        weights = {"sha256": fingerprint(folder)}
    else:
        weights = {"path": model.path, "revision": model.revision}
    return {
        **weights,
        "chat": chat_source(model),
        "completion_prefix": model.completion_prefix,
        "dtype": model.dtype,
    }


def local_folder(model: Model) -> Path | None:
    """The model's directory, or None where `model.path` is a hub id.

    Raises:
        ConfigError: the path looks like a directory and is none.
    """
    folder = Path(model.path).expanduser()
    for candidate in (folder, ROOT / folder):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    if folder.is_absolute() or model.path.startswith((".", "~")) or model.path.count("/") != 1:
        raise ConfigError(
            f"model.path={model.path}: no such model directory (one with a config.json). "
            "A hub model is written owner/name."
        )
    return None


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
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    page = f"https://huggingface.co/{model.path}"
    gated = "gated repo" in str(error).lower()
    hint = (
        f"It is gated: accept its licence at {page} and log in with `hf auth login`."
        if gated
        else "Set model.path to a model directory, or download it first with `hf download`."
    )
    return f"model {model.name} ({model.path}) cannot be loaded: {reason}\n{hint}"
