"""The configuration: its dataclasses here; how it is composed and checked in the modules.

Those stand higher than most rooms, because they ask components what they refuse.
"""

from ptst.config.schema import (
    STAGES,
    Api,
    Config,
    Dataset,
    Decoding,
    Defence,
    Evaluation,
    Finetune,
    Lora,
    Mix,
    Model,
    Paths,
    Rows,
    Scale,
    Sweep,
    TableMetric,
    Template,
    Tracking,
    Turn,
    Variant,
)

__all__ = [
    "STAGES",
    "Api",
    "Config",
    "Dataset",
    "Decoding",
    "Defence",
    "Evaluation",
    "Finetune",
    "Lora",
    "Mix",
    "Model",
    "Paths",
    "Rows",
    "Scale",
    "Sweep",
    "TableMetric",
    "Template",
    "Tracking",
    "Turn",
    "Variant",
]
