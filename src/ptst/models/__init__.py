"""Models and tokenizers: where they come from, how they are loaded, and how long they stay."""

from ptst.models.held import BaseModel, Files, Held, Process, give_back_memory
from ptst.models.loading import (
    context_of,
    downloaded,
    ends_of,
    ids_of,
    load_config,
    load_model,
    load_tokenizer,
    make_padding_exist,
    pick_device,
    quantization,
)
from ptst.models.modules import (
    ALL_LINEAR,
    check_targets,
    linear_layers,
    linear_weights,
    missing_modules,
)
from ptst.models.sources import identity, local_folder, origin, weights

__all__ = [
    "ALL_LINEAR",
    "BaseModel",
    "Files",
    "Held",
    "Process",
    "check_targets",
    "context_of",
    "downloaded",
    "ends_of",
    "give_back_memory",
    "identity",
    "ids_of",
    "linear_layers",
    "linear_weights",
    "load_config",
    "load_model",
    "load_tokenizer",
    "local_folder",
    "make_padding_exist",
    "missing_modules",
    "origin",
    "pick_device",
    "quantization",
    "weights",
]
