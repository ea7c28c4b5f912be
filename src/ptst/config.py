"""The configuration: one dataclass per Hydra group, and the step from YAML to checked values.

`compose` is what every command calls: Hydra composes `conf/`, the result is merged into the
dataclasses below (an unknown key or a wrong type is an error), and every value that has a fixed set
of choices is checked. After that, nothing else in the project looks at YAML.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from omegaconf import MISSING, DictConfig, OmegaConf, ValueNode, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from ptst.component import speed
from ptst.errors import ConfigError
from ptst.redact import remember
from ptst.store import files_below

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MICRO_MODEL = ROOT / "src" / "ptst" / "micro" / "model"
STAGES = ("finetune", "generate", "judge")


def _choice(*choices: str, default: str = MISSING) -> Any:
    """A string field that takes only `choices`; anything else is an error that lists them."""
    return field(default=default, metadata={"choices": choices})


@dataclass
class Api:
    """An OpenAI-compatible endpoint. The key itself is in the environment, and nowhere else."""

    base_url: str = "https://api.openai.com/v1"
    key_env: str | None = speed("OPENAI_API_KEY")
    """Environment variable that holds the key; None for a server that needs none."""
    send: Any = None
    """What is sent under another name, or with null not at all: {max_tokens: max_completion_tokens, seed: null}.
    Part of the answers' key where there is any. (A field of type dict could not be overridden with a new key.)"""
    concurrency: int = speed(16)
    """Calls under way at once."""
    timeout: float = speed(120.0)
    """Seconds until a call counts as lost."""


@dataclass
class Model:
    """A chat model: where its weights are and how a conversation is spelled for it."""

    name: str = MISSING
    path: str = MISSING
    """A Hugging Face model id, or a directory; with `api`, the model's name there."""
    api: Api | None = None
    """Where a model answers that has no weights here: it gets messages, and spells them itself."""
    question: str | None = None
    """How questions read for this model, whatever the data set says; None: as the data set says."""
    system_prompts: dict[str, str] = field(default_factory=dict)
    """Of templates, by name, that have another system prompt for this model; "" is an empty message."""
    revision: str | None = None
    """Commit of the hub repository; None where `path` is a directory (its content is hashed)."""
    chat: str | None = None
    """`llama2` or `mistral` (spelled in conf/chat/), a .jinja file, or None: the tokenizer's own."""
    chat_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the tokenizer's own chat template, or of the file: {enable_thinking: false}."""
    date: str | None = None
    """The day, as "2024-07-26", for chat formats that write today's date into a prompt."""
    default_system: bool = True
    """False leaves out the system prompt that a chat format writes where nobody asked for one."""
    completion_prefix: str | None = None
    """Text between prompt and answer in a training row under a chat template; None: what the format has there."""
    max_new_tokens: int | None = speed(None)
    """Length limit of its completions unless the scale or an evaluation says otherwise (keys have what an evaluation
    comes to); None until it is composed: 64 for the micro model, whose longest answers are shorter, otherwise 512."""
    dtype: str = _choice("float32", "bfloat16", "float16", default="float32")
    attention: str | None = None
    """`attn_implementation` of transformers; None leaves the choice to it."""


@dataclass
class Rows:
    """Where rows come from; the same for training data and for query sets."""

    name: str = MISSING
    """The data set's name; with source=micro, the generator's."""
    source: str = _choice("hub", "url", "local", "micro")
    path: str | None = None
    """source=hub: the repository id. source=url: the https address of a file, best one that names a
    commit. source=local: a file, or a folder with <split>.<suffix> or as the hub lays it out."""
    subset: str | None = None
    """source=hub: the repository's configuration, for example `main`."""
    revision: str | None = None
    """source=hub: the commit of the repository."""
    sha256: str | None = None
    """source=url: the hash of the file; another file is refused."""
    split: str = "train"
    records: str | None = None
    """Of a JSON file that is no list of rows: the key, dotted, under which the list stands."""
    where: dict[str, str] = field(default_factory=dict)
    """Only rows with these values, under the file's own column names: {label: safe}."""
    columns: dict[str, str] = field(default_factory=dict)
    """What the file calls our columns: {input: question, output: answer}. Others are kept as is."""
    header: bool = True
    """False for a CSV file without a header row; its columns are then called "0", "1", ..."""
    delimiter: str | None = None
    """What stands between the fields of a CSV file; None: a comma, and in .tsv a tab."""
    encoding: str = "utf-8"
    n: int | None = None
    """Draw this many rows (without replacement, order kept); None takes them all."""
    draw_seed: int = 0
    size: int | None = speed(None)
    """source=hub or url: how many rows there are (those of `where`), as the publisher says. Only `ptst plan`
    reads it, which downloads nothing; set it, or null, with another `path` or `split`."""
    at: str = speed("")
    """Where these rows stand in the configuration, for messages; filled in when the configuration is checked."""


@dataclass
class Dataset(Rows):
    """A data set to fine-tune on, and how its questions read in a prompt."""

    question: str = "{input}"
    """How a question reads, e.g. "Question: {input}". Safety queries read the same way."""
    instruction: str | None = None
    """The data set's own instruction (system prompt); a row's own takes its place."""


@dataclass
class Turn:
    """An earlier exchange that a template puts before the question."""

    user: str = MISSING
    assistant: str = MISSING


@dataclass
class Variant:
    """How a template changes where the data set or the row has an instruction of its own."""

    system: str | None = None
    user: str | None = None


@dataclass
class Template:
    """A prompt template. Placeholders: {question} as the data set reads it, {input} bare,
    {instruction} the data set's own (only in `with_instruction`)."""

    name: str = MISSING
    mode: str = _choice("text", "chat")
    system: str | None = None
    user: str = MISSING
    turns: list[Turn] = field(default_factory=list)
    with_instruction: Variant | None = None
    """None: the instruction follows the system prompt after an empty line."""
    space_before_answer: bool = True
    """False leaves out the space before a closing [/INST]."""


@dataclass
class Lora:
    """LoRA's own hyperparameters, in PEFT's terms."""

    r: int = 8
    alpha: int = 32
    dropout: float = 0.05
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Names of modules, whole or from a dot on; or [all-linear]: every linear layer but the head."""


@dataclass
class Mix:
    """Rows that are trained on beside the data set's, for example of safety (paper, section 4.1)."""

    rows: Rows = field(default_factory=Rows)
    """Each is seen once in the whole training, whatever `epochs` says of the data set's."""
    template: Template | None = None
    """How they are written; None: under the train template, as in the paper. A question of theirs reads like
    one of the data set."""


@dataclass
class Finetune:
    """A fine-tuning recipe. method=none is the untouched model: nothing else then counts."""

    name: str = ""
    """What tables call it; where its YAML has none, the name of the option: finetune=safety_mix."""
    method: str = _choice("none", "lora", "qlora", "full", "openai")
    """`openai`: a job at the model's API, which knows epochs, batch_size and learning_rate_multiplier."""
    epochs: float = 1.0
    learning_rate: float = 1e-4
    schedule: str = _choice("linear", "cosine", "constant", "step", default="linear")
    """`step` multiplies the rate by `gamma` after every epoch, as llama-recipes does."""
    gamma: float = 0.85
    warmup_ratio: float = 0.0
    batch_size: int = 32
    """Sequences per optimizer step, over all devices."""
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    """0 clips nothing."""
    max_length: int = 1024
    """Tokens; longer rows lose their end, rows whose prompt fills it are left out (and counted)."""
    bf16: bool = False
    """Mixed precision."""
    lora: Lora = field(default_factory=Lora)
    learning_rate_multiplier: float | None = None
    """method=openai: of the API's own rate; None leaves it to the API."""
    max_steps: int = -1
    """Stop after this many optimizer steps; -1: as `epochs` says."""
    mix: Mix | None = None
    epoch: int | None = field(default=None, metadata={"key": False})
    """Which epoch's weights are tested, from 1; None: the last. It is no part of the fine-tuning."""
    keep_epochs: bool = True
    """Keep the weights of every whole epoch, and not the last's only."""
    device_batch_size: int = speed(32)
    """Sequences per forward pass; the rest of `batch_size` is accumulated."""
    devices: int = speed(1)
    """Processes that train data-parallel, a GPU each; each takes its share of `batch_size`."""
    fsdp: bool = speed(False)
    """With several devices: shard weights, gradients and optimizer (FSDP), for models that do not fit one."""
    activation_checkpointing: bool = speed(False)
    save_steps: int = speed(50)
    """Checkpoint every so many optimizer steps; an interrupted training resumes from the last."""


@dataclass
class Decoding:
    """How completions are sampled. temperature=0 is greedy."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    seed: int = 0
    samples: int = 1
    """Answers to each query, with the seeds `seed` to `seed` + samples - 1."""


@dataclass
class Evaluation:
    """A query set, how it is answered, who judges the answers, and what is reported."""

    measures: str = _choice("helpfulness", "safety", "over_refusal")
    queries: Rows = field(default_factory=Rows)
    decoding: Decoding = field(default_factory=Decoding)
    judge: Any = MISSING
    """`_target_` names the judge's class; the other keys are its fields."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Name of each reported metric: the judge's label whose share it is, or `mean` of the judge's values."""
    unit: str | None = None
    """Column that says which queries belong together (one hazard, say): the unit of intervals. A file's own column
    `id` is called source_id."""
    category: str | None = None
    """Column of the queries' category: every metric is reported for each category, too."""
    question: str | None = None
    """How a query reads, in place of the data set's way: "{input} Choose from: {choices}", with the places
    of :func:`ptst.templates.read_query`. None: as the data set's questions, which is what the paper does with
    safety queries."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metrics for which this judge has no label, or no value, moved here from `metrics` when the configuration was
    checked: never shown as 0. (`refused`, with a judge that tells safe from unsafe only.)"""


@dataclass
class Engine:
    """What generates. Its fields are about speed; greedy answers depend on them by rounding alone, which in less
    than float32 is often enough to change one: there batch_size and share_prefix are part of the key."""

    name: str = _choice("transformers")
    batch_size: int = speed(64)
    device: str = field(default="auto", metadata={"key": False, "choices": ("auto", "cpu", "cuda")})
    """`auto` takes CUDA where there is one; which GPU is said by CUDA_VISIBLE_DEVICES."""
    share_prefix: bool = speed(True)
    """Run the longest common prefix of all prompts through the model once, not once per prompt."""


@dataclass
class Tracking:
    """Weights & Biases. `offline` writes files only: no account, no network."""

    mode: str = _choice("auto", "offline", "online", "none")
    """`auto`: as WANDB_MODE says; without it `offline`."""
    project: str | None = None
    """None: WANDB_PROJECT; without it `ptst`."""
    entity: str | None = None
    """None: WANDB_ENTITY; without it the user or team that the key belongs to."""
    group: str | None = None
    """W&B group; a sweep sets its own name."""
    upload_completions: bool = False
    """Safety completions leave this machine only if this is true."""


@dataclass
class Scale:
    """Which world the defaults belong to; each YAML of this group sets the other groups."""

    name: str = _choice("micro", "paper")
    source: str = _choice("hub", "local", "micro")
    """Where data sets and query sets come from unless they say otherwise."""
    max_new_tokens: int = 512
    """Length limit of completions unless an evaluation says otherwise; both scales take the model's."""
    train_rows: dict[str, int | None] = field(default_factory=dict)
    """How many rows of each data set are drawn for training; None: all."""
    gpu: bool = False
    """Whether models that run here need a GPU: what jobs ask a cluster for."""
    test_rows: dict[str, int | None] = field(default_factory=dict)
    """How many of each data set's test rows its own task is tested on; None: all."""


@dataclass
class Paths:
    """Where results go; relative paths start at the working directory."""

    store: str = "./store"
    reports: str = "./reports"


@dataclass
class TableMetric:
    """A metric that a sweep's tables show, and where the paper prints it."""

    title: str = MISSING
    paper_table: str | None = None
    """`table` in sweeps/paper/*.csv; None: the paper has no such number."""
    paper_metric: str | None = None
    """`metric` there; None: the same name as ours."""
    paper_also: list[str] = field(default_factory=list)
    """Other tables of the paper that print this number: what they say is shown where `paper_table` has no
    such row, and beside it where the two differ."""
    paper_model: str | None = None
    """`model` there, for models that are not in the paper; None: the one that the table is about."""
    scale: str | None = None
    """The only scale at which its evaluation reports this metric; None: it does at every scale."""


@dataclass
class Sweep:
    """A grid of cells, and how its tables are laid out; one YAML file each in sweeps/."""

    name: str = MISSING
    title: str = ""
    grids: list[dict[str, Any]] = field(default_factory=list)
    """Each is a product: {override: value or list of values}. The sweep is their union, so a pair that
    belongs together, or a row that lacks some columns, is a grid of its own."""
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name of each scale that the sweep runs at: {override: value} of all its cells there, over which the
    command line goes. Empty: any scale."""
    no_finetuning: bool = False
    """Also the untouched model, under every test template."""
    rows: str = "train_template"
    columns: str = "test_template"
    safety_templates: list[str] = field(default_factory=list)
    """Templates with a safety prompt: the PTST contrast is worked out for them."""
    metrics: dict[str, TableMetric] = field(default_factory=dict)
    """By "<evaluation>/<metric>", in the tables' order. Those of evaluations that are not part of the cells are left
    out; an evaluation of which none is named has tables of all its metrics, after the others."""


@dataclass
class Config:
    """One cell: (model, dataset, train_template, finetune, seed) x test_template."""

    model: Model = field(default_factory=Model)
    dataset: Dataset = field(default_factory=Dataset)
    train_template: Template = field(default_factory=Template)
    test_template: Template = field(default_factory=Template)
    finetune: Finetune = field(default_factory=Finetune)
    task: dict[str, Evaluation] = field(default_factory=dict)
    """The helpfulness evaluation(s) of the data set's own task."""
    evaluation: dict[str, Evaluation] = field(default_factory=dict)
    judge: Any = MISSING
    """The judge of safety evaluations; each evaluation refers to it or names its own."""
    engine: Engine = field(default_factory=Engine)
    tracking: Tracking = field(default_factory=Tracking)
    scale: Scale = field(default_factory=Scale)
    paths: Paths = field(default_factory=Paths)
    sweep: Sweep | None = None
    """Only where a sweep is composed; its cells have none."""
    seed: int = 0
    stages: list[str] = field(default_factory=lambda: list(STAGES))

    @property
    def evaluations(self) -> dict[str, Evaluation]:
        """All evaluations of the cell by name, the task's first."""
        return {**self.task, **self.evaluation}


def register() -> None:
    """Put the schema where Hydra's defaults list finds it.

    Raises:
        ConfigError: ptst was installed away from its checkout, where conf/ is.
    """
    from hydra.core.config_store import ConfigStore

    if not CONF.is_dir():
        raise ConfigError(f"there is no {CONF}: install ptst in its checkout (make install).")
    ConfigStore.instance().store(name="schema", node=Config)


def compose(overrides: Sequence[str], check: bool = True) -> Config:
    """Compose and check the configuration of one cell.

    Args:
        overrides: Hydra overrides, as on the command line.
        check: whether values must make sense, too, and not only have the right type.

    Raises:
        ConfigError: a key, group, option or value that does not exist, with the valid choices.
    """
    return checked(composed_raw(overrides).config, check)


@dataclass(frozen=True)
class Composed:
    """What Hydra composes, before it is checked.

    Attributes:
        choices: the option that each group has in it.
        folders: where the groups' files are: conf/, and what `hydra.searchpath` adds.
    """

    config: DictConfig
    choices: dict[str, Any]
    folders: list[Path]


def composed_raw(overrides: Sequence[str]) -> Composed:
    """Compose a configuration without checking it.

    Raises:
        ConfigError: see `compose`.
    """
    from hydra import initialize_config_dir

    register()
    check_hydra(overrides)
    with explained(), initialize_config_dir(str(CONF), version_base="1.3"):
        return _composed(overrides)


def _composed(overrides: Sequence[str]) -> Composed:
    from hydra import compose as hydra_compose

    composed = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    folders = _folders(composed.hydra.runtime.config_sources)
    with open_dict(composed):
        del composed["hydra"]
    if isinstance(choices.get("finetune"), str) and not composed.finetune.name:
        composed.finetune.name = choices["finetune"]
    return Composed(composed, choices, folders)


def _folders(sources: Iterable[Any]) -> list[Path]:
    """The folders among Hydra's sources, but its own and the checkout (for sweeps/)."""
    folders: list[Path] = []
    for source in sources:
        if source.schema == "pkg" and source.provider != "hydra":
            package = find_spec(source.path)
            folders += map(Path, (package and package.submodule_search_locations) or ())
        elif source.schema == "file" and source.provider != "ptst":
            if not Path(source.path).is_dir():
                raise ConfigError(f"hydra.searchpath: there is no folder {source.path}.")
            folders.append(Path(source.path))
    return folders


INSTEAD = {
    "hydra.sweeper": "give a key several values (seed=0,1), or name a file of sweeps/ (+sweeps=table1).",
    "hydra.sweep": "results go to paths.store, reports to paths.reports.",
    "hydra.run": "results go to paths.store, reports to paths.reports.",
    "hydra.output_subdir": "results go to paths.store, reports to paths.reports.",
    "hydra.job.chdir": "results go to paths.store, reports to paths.reports.",
    "hydra.mode": "ptst -m runs a grid, ptst a single cell.",
}
"""Settings of Hydra's that have no effect here, and what does the same."""


def check_hydra(overrides: Iterable[str]) -> None:
    """Refuse settings of Hydra's that ptst would ignore.

    Raises:
        ConfigError: saying what has the effect.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~").replace("/", ".")
        for ignored, instead in INSTEAD.items():
            if key == ignored or key.startswith(f"{ignored}."):
                raise ConfigError(f"{override}: ptst takes no {ignored}: {instead}")


def compose_many(
    overrides: Sequence[str], variations: Sequence[Sequence[str]]
) -> list[Config | ConfigError]:
    """Compose the configurations of many cells: what `compose` gives for each, sooner.

    Hydra composes once for every choice of a group, not for every combination of them (see `_Composer`);
    a value (seed=1, finetune.epochs=2) is then set before anything is resolved, as Hydra does it.

    Args:
        overrides: of every cell.
        variations: for each cell what it adds to `overrides`.

    Returns:
        For each cell its configuration, or what is wrong with it.
    """
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from ptst.progress import progress

    register()
    parser = OverridesParser.create()
    composer = _Composer(overrides)
    configs: list[Config | ConfigError] = []
    conf = initialize_config_dir(str(CONF), version_base="1.3")
    with conf, progress("compose cells") as advance:
        for number, variation in enumerate(variations):
            advance(number, len(variations), "")
            try:
                with explained():
                    parsed = parser.parse_overrides(list(variation))
                    plain = [o for o in parsed if _sets_a_value(o)]
                    groups = tuple(o.input_line or "" for o in parsed if o not in plain)
                    with _with_values(composer.compose(groups), plain) as composed:
                        configs.append(checked(composed))
            except ConfigError as error:
                configs.append(error)
    return configs


class _Composer:
    """Composes 5 x 5 templates as 1 + 4 + 4: what each choice changes by itself is put together.

    That is the same only where choices do not meet. They are composed together, as Hydra does it, if they change
    the same part of the configuration, or if a file of conf/ chooses by one in its defaults list (`lora_${dataset}`).
    (`${judge}` elsewhere is a value, which is resolved when all is put together.)
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.overrides = overrides
        self.whole: dict[tuple[str, ...], Any] = {}
        self.plain: dict[tuple[str, ...], dict[str, Any]] = {}
        self.first: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Of the same keys: the choices that others are compared with."""
        self.folders = [CONF]

    @cached_property
    def defaults(self) -> str:
        """The text of all groups' defaults lists."""
        texts = "\n".join(text for f in self.folders for text in yaml_texts(f).values())
        return "\n".join(re.findall(r"(?m)^[\"']?defaults\b.*(?:\n(?:[\s#\-\]].*)?)*", texts))

    def compose(self, groups: tuple[str, ...]) -> Any:
        """The raw configuration for `overrides` and these, which is the same object every time."""
        keys = tuple(word.partition("=")[0] for word in groups)
        first = self.first.setdefault(keys, groups)
        changed = [i for i, word in enumerate(groups) if word != first[i]]
        if len(changed) < 2 or any(f"${{{keys[i]}}}" in self.defaults for i in changed):
            return self._whole(groups)
        if groups not in self.whole:
            self.whole[groups] = self._put_together(groups, first, changed)
        return self.whole[groups]

    def _put_together(
        self, groups: tuple[str, ...], first: tuple[str, ...], changed: Sequence[int]
    ) -> Any:
        composed = copy.deepcopy(self._whole(first))
        done: set[str] = set()
        for i in changed:
            choice = (*first[:i], groups[i], *first[i + 1 :])
            alone, parts = self._whole(choice), self._differing(first, choice)
            if parts & done or alone.keys() != composed.keys():
                return _composed([*self.overrides, *groups]).config
            for part in parts:
                composed._set_item_impl(part, copy.deepcopy(alone._get_node(part)))
            done |= parts
        return composed

    def _whole(self, groups: tuple[str, ...]) -> Any:
        if groups not in self.whole:
            composed = _composed([*self.overrides, *groups])
            self.whole[groups], self.folders = composed.config, composed.folders
        return self.whole[groups]

    def _differing(self, first: tuple[str, ...], alone: tuple[str, ...]) -> set[str]:
        """Parts in which two choices are not the same, before anything is resolved."""
        a, b = self._plain(first), self._plain(alone)
        return {key for key in a if a[key] != b.get(key)}

    def _plain(self, groups: tuple[str, ...]) -> dict[str, Any]:
        if groups not in self.plain:
            found = OmegaConf.to_container(self._whole(groups), resolve=False)
            assert isinstance(found, dict)
            self.plain[groups] = {str(key): part for key, part in found.items()}
        return self.plain[groups]


@contextmanager
def _with_values(composed: Any, overrides: Sequence[Any]) -> Iterator[Any]:
    """A configuration with other values, which are taken back: copying it took half of a cell's time."""
    before: list[tuple[str, Any]] = []
    for key in (override.key_or_group for override in overrides):
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(composed, parent) if parent else composed
        leaf = node._get_node(name) if isinstance(node, DictConfig) else None
        if not isinstance(leaf, ValueNode):  # no such key, say: the copy may break
            composed = copy.deepcopy(composed)
            before = []
            break
        before.append((key, leaf._value()))
    try:
        for override in overrides:
            OmegaConf.update(composed, override.key_or_group, override.value())
        yield composed
    finally:
        for key, value in before:
            OmegaConf.update(composed, key, value)


def _sets_a_value(override: Any) -> bool:
    """Whether an override sets one plain value of a key that is no group."""
    from hydra.core.override_parser.types import OverrideType

    key = override.key_or_group
    is_group = "@" in key or "/" in key or (CONF / key).is_dir()
    plain = isinstance(override.value(), str | int | float | bool)
    return override.type == OverrideType.CHANGE and not is_group and plain


def checked(composed: Any, check: bool = True) -> Config:
    """Turn a composed configuration into a `Config` whose every value is valid.

    Raises:
        ConfigError: see :func:`compose`.
    """
    try:
        with _length_limit(composed.model):
            config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(config, Config)
    _check_choices(config, "")
    if check:
        _check_values(config)
    return config


@contextmanager
def _length_limit(model: Any) -> Iterator[None]:
    """What `model.max_new_tokens: null` means for the model's path, which may be laid over another model's YAML."""
    if model.max_new_tokens is not None:
        yield
        return
    micro = model.api is None and (ROOT / str(model.path)).resolve() == MICRO_MODEL
    model.max_new_tokens = 64 if micro else 512
    try:
        yield
    finally:
        model.max_new_tokens = None


def thawed(values: Mapping[str, Any]) -> Config:
    """The configuration that `dataclasses.asdict` made plain, every value as it was.

    Nothing is composed, resolved or checked again.
    """
    config = _thawed(Config, values)
    assert isinstance(config, Config)
    return config


def _thawed(kind: Any, value: Any) -> Any:
    parts = get_args(kind)
    inner = next((part for part in parts if dataclasses.is_dataclass(part)), None)
    if value is None or (inner is None and not dataclasses.is_dataclass(kind)):
        return value
    if inner is None:
        hints = _hints(kind)
        return kind(**{name: _thawed(hints[name], item) for name, item in value.items()})
    if isinstance(value, list):
        return [_thawed(inner, item) for item in value]
    if get_origin(kind) is dict:
        return {name: _thawed(inner, item) for name, item in value.items()}
    return _thawed(inner, value)


@cache  # of a class, which does not change
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_choices(node: Any, where: str) -> None:
    known = {f.name for f in dataclasses.fields(node)}
    for key in vars(node):
        if key not in known:
            raise ConfigError(f"{where}{key}: there is no such key.{_valid_keys(where + key)}")
    for f in dataclasses.fields(node):
        value, path = getattr(node, f.name), f"{where}{f.name}"
        choices = f.metadata.get("choices")
        if choices and value not in choices:
            raise ConfigError(f"{path}={value} is not one of: {', '.join(choices)}.")
        if dataclasses.is_dataclass(value):
            _check_choices(value, f"{path}.")
        elif isinstance(value, dict):
            for name, item in value.items():
                if dataclasses.is_dataclass(item):
                    _check_choices(item, f"{path}.{name}.")


def _check_values(config: Config) -> None:
    from ptst.chat import fixed_date
    from ptst.data import OURS
    from ptst.templates import check_template

    fixed_date(config.model)
    if not config.stages:
        raise ConfigError(f"stages=[] leaves nothing to do; choose among: {', '.join(STAGES)}.")
    unknown = [stage for stage in config.stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"stages={unknown} is not among: {', '.join(STAGES)}.")
    rows: dict[str, Rows] = {"dataset": config.dataset}
    for group in ("task", "evaluation"):
        for name, evaluation in getattr(config, group).items():
            check_name(f"{group} {name}", name)
            _check_evaluation(f"{group}.{name}", evaluation)
            rows[f"{group}.{name}.queries"] = evaluation.queries
    _check_recipe(config.finetune)
    _check_api(config)
    if mix := config.finetune.mix:
        rows["finetune.mix.rows"] = mix.rows
        if mix.template:
            check_template(mix.template, "finetune.mix.template", config.dataset)
    _within("engine.batch_size", config.engine.batch_size, 1, math.inf)
    for where, source in rows.items():
        unknown = sorted(set(source.columns) - set(OURS))
        if unknown:
            raise ConfigError(
                f"{where}.columns.{unknown[0]}: columns maps our names ({', '.join(OURS)}) to the "
                "file's, as in {input: question}."
            )
        if source.n is not None and source.n < 1:
            raise ConfigError(f"{where}.n={source.n} must be at least 1, or null for all rows.")
        _check_place(where, source)
        source.at = where
    clash = set(config.task) & set(config.evaluation)
    if clash:
        raise ConfigError(f"{sorted(clash)}: in `task` already; leave it out of `evaluation`.")
    for mount in ("train_template", "test_template"):
        check_template(getattr(config, mount), mount, config.dataset)


def _check_api(config: Config) -> None:
    """Refuse to mix what runs here and what runs at an API."""
    model, method = config.model, config.finetune.method
    if model.api is None:
        if method == "openai":
            raise ConfigError(
                f"finetune.method=openai needs a model behind an API; {model.name} has weights. Use lora "
                "or full, or a model with `api`, such as gpt35_turbo_0613."
            )
        return
    if method not in ("openai", "none"):
        raise ConfigError(
            f"finetune.method={method} trains weights, and model {model.name} is behind an API: use "
            "finetune=openai, or none."
        )
    check_address("model.api.base_url", model.api.base_url)
    check_variable("model.api.key_env", model.api.key_env)
    check_send(
        "model.api.send", model.api.send or {}, ("max_tokens", "temperature", "seed", "top_p")
    )
    _within("model.api.concurrency", model.api.concurrency, 1, math.inf)
    _within("model.api.timeout", model.api.timeout, 0, math.inf, above=True)
    for mount in ("train_template", "test_template"):
        template = getattr(config, mount)
        used = mount == "test_template" or method != "none"
        if template.mode == "text" and used:
            raise ConfigError(
                f"{mount}={template.name}: model {model.name} is behind a chat API, which takes no bare "
                "text; choose a chat template."
            )
    for name, evaluation in config.evaluations.items():
        if evaluation.decoding.top_k:
            raise ConfigError(
                f"{name}.decoding.top_k={evaluation.decoding.top_k}: the API of model {model.name} has no "
                "top_k; set it to 0."
            )
    if method == "openai" and config.finetune.epochs != int(config.finetune.epochs):
        raise ConfigError(f"finetune.epochs={config.finetune.epochs}: the API takes whole epochs.")
    if method == "openai" and (config.finetune.mix or config.finetune.epoch is not None):
        which = "mix" if config.finetune.mix else "epoch"
        raise ConfigError(
            f"finetune.{which}: the API trains on whole passes and gives its last weights alone; leave "
            f"finetune.{which} at null."
        )
    if method == "openai" and config.finetune.max_steps != -1:
        raise ConfigError("finetune.max_steps: the API counts in epochs; leave it at -1.")


def check_variable(where: str, name: str | None) -> None:
    """Refuse a secret that was given in the place of the name of its environment variable.

    Raises:
        ConfigError: `name` is not set, and does not look like OPENAI_API_KEY. It is not shown.
    """
    if name is None or name in os.environ or re.fullmatch("[A-Z]+(_[A-Z0-9]+)*", name):
        return
    remember(name)
    raise ConfigError(
        f"{where} is the name of the environment variable that holds the key, such as OPENAI_API_KEY. "
        "What was given is not shown, because it may be the key itself: put that into the environment."
    )


def check_send(where: str, send: Any, sent: Sequence[str]) -> None:
    """Refuse names for what is not sent, and names that a request cannot have.

    Raises:
        ConfigError: naming the entry.
    """
    if not isinstance(send, dict):
        raise ConfigError(
            f"{where}={send} must be like {{max_tokens: max_completion_tokens}}, or null."
        )
    for name, other in send.items():
        if name not in sent:
            raise ConfigError(f"{where}.{name}: there is no such name; sent are {', '.join(sent)}.")
        if other is not None and not re.fullmatch(r"[A-Za-z]\w*", str(other)):
            raise ConfigError(f"{where}.{name}={other} is no name of a parameter, nor null.")
        taken = {"model", "messages", *(send.get(s, s) for s in sent if s != name)}
        if other is not None and other in taken:
            raise ConfigError(f"{where}.{name}={other}: {other} would be sent twice.")


def renamed(send: Mapping[str, str | None]) -> dict[str, str | None]:
    """What of `send` changes a request: part of keys."""
    return {name: other for name, other in send.items() if other != name}


def check_address(where: str, address: str) -> None:
    """Refuse an address that is not http(s)://host..., or that holds a secret.

    Raises:
        ConfigError: naming `where`; what may be a secret is not shown.
    """
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = parts.password or parts.username or parts.query
        parts.port  # noqa: B018  (raises ValueError where it is no number)
    except ValueError:
        is_address, secret = False, ""
    if "@" in address.partition("?")[0] or secret:
        remember(address)
        remember(secret or address)
        raise ConfigError(
            f"{where} holds a name, a password or a query (https://user:password@host/?key=...). It is not "
            "shown, because it may be a secret: give https://host/... alone, and the key in the environment."
        )
    if not is_address:
        raise ConfigError(
            f"{where}={address} must be an address, such as http://localhost:8000/v1."
        )


def _check_place(where: str, rows: Rows) -> None:
    from ptst.data import KINDS, SUFFIXES

    places = {"hub": "a hub repository", "url": "an https address", "local": "a file or folder"}
    if rows.source in places and not rows.path:
        raise ConfigError(
            f"{where}.path is missing: source={rows.source} needs {places[rows.source]}."
        )
    if rows.delimiter is not None and (len(rows.delimiter) != 1 or rows.delimiter in '"\r\n'):
        raise ConfigError(
            f"{where}.delimiter={rows.delimiter} must be one character, and no quote or newline."
        )
    if rows.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", rows.sha256):
        raise ConfigError(f"{where}.sha256={rows.sha256} must be 64 digits 0-9a-f, or null.")
    if rows.source == "url" and "@" in urlsplit(rows.path or "").netloc:
        check_address(f"{where}.path", rows.path or "")
    if rows.source == "url" and not re.match(r"https://[^/\s]+/\S+$", rows.path or ""):
        raise ConfigError(
            f"{where}.path={rows.path}: source=url needs an address that starts with https://."
        )
    if rows.source == "url" and not (rows.path or "").lower().endswith(SUFFIXES):
        raise ConfigError(f"{where}.path={rows.path} must end with {KINDS}.")


def check_name(where: str, name: str) -> None:
    """Refuse what no folder should be called by, and no part of an override can be.

    Raises:
        ConfigError: naming `where`.
    """
    if not re.fullmatch(r"\w[\w .,+=-]{0,99}", name):
        raise ConfigError(f"{where}: a name has letters, digits, and _ - + = . , or spaces within.")


def _within(where: str, value: float, low: float, high: float, above: bool = False) -> None:
    """Refuse a number that is not in [low, high], or with `above` in (low, high]; and infinity."""
    if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    start = f"more than {low}" if above else f"at least {low}"
    end = "" if high == math.inf else f" and at most {high}"
    raise ConfigError(f"{where}={value} must be {start}{end}.")


def _check_recipe(recipe: Finetune) -> None:
    for name in ("epochs", "learning_rate"):
        _within(f"finetune.{name}", getattr(recipe, name), 0, math.inf, above=True)
    for name in ("batch_size", "device_batch_size", "devices", "save_steps", "max_length"):
        _within(f"finetune.{name}", getattr(recipe, name), 1, math.inf)
    for name in ("weight_decay", "max_grad_norm"):
        _within(f"finetune.{name}", getattr(recipe, name), 0, math.inf)
    _within("finetune.gamma", recipe.gamma, 0, 1, above=True)
    _within("finetune.warmup_ratio", recipe.warmup_ratio, 0, 1)
    _within("finetune.lora.r", recipe.lora.r, 1, math.inf)
    _within("finetune.lora.alpha", recipe.lora.alpha, 1, math.inf)
    _within("finetune.lora.dropout", recipe.lora.dropout, 0, 0.99)
    if recipe.max_steps != -1:
        _within("finetune.max_steps", recipe.max_steps, 1, math.inf)
    if recipe.epoch is not None and recipe.method != "none":
        if not 1 <= recipe.epoch <= recipe.epochs:
            raise ConfigError(
                f"finetune.epoch={recipe.epoch} must be a whole epoch of finetune.epochs="
                f"{recipe.epochs:g}, from 1, or null for the last."
            )
        if recipe.epoch != recipe.epochs and not recipe.keep_epochs:
            raise ConfigError(
                f"finetune.epoch={recipe.epoch}: only the last epoch's weights are kept; "
                "set finetune.keep_epochs=true."
            )
    if recipe.schedule == "step" and recipe.warmup_ratio:
        raise ConfigError("finetune.warmup_ratio has no effect with schedule=step; set it to 0.")
    if recipe.batch_size % recipe.devices:
        raise ConfigError(
            f"finetune.batch_size={recipe.batch_size} is not a multiple of "
            f"finetune.devices={recipe.devices}."
        )
    share = recipe.batch_size // recipe.devices
    if share % min(recipe.device_batch_size, share):
        raise ConfigError(
            f"{'finetune.batch_size' if recipe.devices == 1 else 'a device: its share of finetune.batch_size'}"
            f"={share} is not a multiple of finetune.device_batch_size={recipe.device_batch_size}."
        )
    if recipe.fsdp and recipe.devices == 1:
        raise ConfigError("finetune.fsdp=true shards over several devices; set finetune.devices.")
    if recipe.fsdp and recipe.method == "qlora":
        raise ConfigError("finetune.fsdp=true does not shard quantised weights; use lora or full.")


def _check_evaluation(where: str, evaluation: Evaluation) -> None:
    from ptst.judge import SAFETY_LABELS, load_judge
    from ptst.judge.exact_match import ReferenceMatch
    from ptst.metrics import MEAN
    from ptst.templates import check_reading, columns_of

    decoding = evaluation.decoding
    _within(f"{where}.decoding.max_new_tokens", decoding.max_new_tokens, 1, math.inf)
    _within(f"{where}.decoding.temperature", decoding.temperature, 0, math.inf)
    _within(f"{where}.decoding.top_p", decoding.top_p, 0, 1, above=True)
    _within(f"{where}.decoding.top_k", decoding.top_k, 0, math.inf)
    _within(f"{where}.decoding.samples", decoding.samples, 1, math.inf)
    if decoding.samples > 1 and decoding.temperature == 0:
        raise ConfigError(
            f"{where}.decoding.samples={decoding.samples} would be the same answer every time: "
            "temperature=0 is greedy. Set a temperature, or samples=1."
        )
    if evaluation.question is not None:
        check_reading(evaluation.question, f"{where}.question")
    named = {"unit": [evaluation.unit], "category": [evaluation.category]}
    named["question"] = [*columns_of(evaluation.question or "")]
    for setting in (setting for setting, columns in named.items() if "id" in columns):
        raise ConfigError(
            f"{where}.{setting}={getattr(evaluation, setting)}: id is the number that ptst gives a query. A "
            "file's own column of that name is called source_id; unit=null takes each query by itself."
        )
    judge = load_judge(evaluation.judge, f"{where}.judge")
    if not evaluation.metrics:
        raise ConfigError(f"{where}.metrics is empty: name what is to be reported.")
    # A harmless query's answer is no better or worse for not being harmful.
    harm = judge.judges_harm and evaluation.measures != "safety"
    labels = [label for label in judge.labels if not (harm and label == "complied")]
    if judge.scale is not None:
        labels.append(MEAN)
    given = {m: label for m, label in evaluation.metrics.items() if label in labels}
    lacking = {m: label for m, label in evaluation.metrics.items() if m not in given}
    for metric, label in lacking.items():
        if label == MEAN and not given:
            raise ConfigError(
                f"{where}.metrics.{metric}: there is no {MEAN}, for the judge gives labels and no "
                f"values; its labels are: {', '.join(labels)}."
            )
        if label not in (*SAFETY_LABELS, MEAN) or not given:
            raise ConfigError(
                f"{where}.metrics.{metric}: the judge gives no label {label!r}"
                f"{' on harmless queries' if harm and label in judge.labels else ''}; "
                f"its labels are: {', '.join(labels)}."
            )
    evaluation.metrics, evaluation.left_out = given, lacking
    if isinstance(judge, ReferenceMatch) and evaluation.queries.source == "hub":
        raise ConfigError(
            f"{where} compares wording, which is for the micro world and says nothing about real "
            "answers. Choose the measure for real data with scale=paper, or another evaluation@task."
        )


def left_out(configs: Iterable[Config]) -> list[str]:
    """A line for people about each metric that is not reported because its judge has no label or value for it."""
    from ptst.metrics import MEAN

    return list(
        dict.fromkeys(
            f"{name}/{metric} is left out: its judge, {evaluation.judge['_target_'].rpartition('.')[2]}, "
            f"gives {'labels and no values' if label == MEAN else f'no label {label!r}'}"
            for config in configs
            for name, evaluation in config.evaluations.items()
            for metric, label in evaluation.left_out.items()
        )
    )


def fields_of(path: Sequence[str]) -> list[str]:
    """The keys that exist at a dotted path of the configuration, for error messages."""
    return [f.name for f in _fields_at(path)]


def is_speed(key: str) -> bool:
    """Whether a dotted key is of a field that changes how fast a stage runs (see `ptst.component.speed`)."""
    *path, name = key.split(".")
    return any(f.name == name and not f.metadata.get("key", True) for f in _fields_at(path))


def _fields_at(path: Sequence[str]) -> tuple[dataclasses.Field[Any], ...]:
    node: Any = Config
    for part in path:
        if get_origin(node) is dict:
            node = Evaluation
            continue
        hint = get_type_hints(node).get(part) if dataclasses.is_dataclass(node) else None
        if hint is None:
            return ()
        options = [a for a in getattr(hint, "__args__", ()) if dataclasses.is_dataclass(a)]
        is_dict = get_origin(hint) is dict
        node = hint if is_dict or not options else options[0]
    return dataclasses.fields(node) if dataclasses.is_dataclass(node) else ()


def yaml_texts(folder: Path) -> dict[str, str]:
    """The texts of all YAML files of a folder, by their paths in it."""
    return {
        file.relative_to(folder).as_posix(): file.read_text("utf-8", "surrogateescape")
        for file in files_below(folder)
        if file.suffix == ".yaml"
    }


def options(folders: Iterable[Path], group: str) -> list[str]:
    """The names of a group's options, sorted."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


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
    """ "conf/model/mine.yaml, line 3, column 7: expected ',' or ']', but got ':' (while parsing a flow sequence)"."""
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        context = f" ({error.context})" if error.context else ""
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}{context}."
    if isinstance(error, UnicodeDecodeError):  # it does not know its file
        for file in [*files_below(CONF), *files_below(ROOT / "sweeps")]:
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
    if missing and (CONF / missing.group(1)).is_dir():
        choices = sorted(path.stem for path in (CONF / missing.group(1)).glob("*.yaml"))
        text += f"\nAvailable options in '{missing.group(1)}': {', '.join(choices)}."
    absent = re.search(r"Could not find '(evaluation/|finetune/lora_)(\w+)'", text)
    if absent and (CONF / "dataset" / f"{absent.group(2)}.yaml").is_file():
        text += OF_DATASET[absent.group(1)]
    full_key = re.search(r"Could not (?:override|append to config, .*?) '?([\w.@/]+)", text)
    full_key = full_key or re.search(r"full_key: ([\w.]+)", str(error))
    if full_key:
        text += _valid_keys(full_key.group(1))
    return text.strip()


def _valid_keys(key: str) -> str:
    """A line with the keys that exist where `key` does not; empty where it does."""
    *parent, last = key.rstrip(".").split(".")
    valid = fields_of(parent)
    if not valid or last in valid:
        return ""
    close = difflib.get_close_matches(last, valid, n=1)
    hint = f" Did you mean {'.'.join([*parent, close[0]])}?" if close else ""
    return f"\nValid keys{' in ' + '.'.join(parent) if parent else ''}: {', '.join(valid)}.{hint}"
