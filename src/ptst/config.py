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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptst.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
STAGES = ("finetune", "generate", "judge")


def _choice(*choices: str, default: str = MISSING) -> Any:
    """A string field that takes only `choices`; anything else is an error that lists them."""
    return field(default=default, metadata={"choices": choices})


def _speed(default: Any) -> Any:
    """A field that changes how fast or how visibly a stage runs, not what it makes.

    Such fields stay out of the stage's key (see :mod:`ptst.store`).
    """
    return field(default=default, metadata={"key": False})


@dataclass
class Model:
    """A chat model: where its weights are and how a conversation is spelled for it."""

    name: str = MISSING
    path: str = MISSING
    """A Hugging Face model id, or a directory."""
    revision: str | None = None
    """Commit of the hub repository; None where `path` is a directory (its content is hashed)."""
    chat: str | None = None
    """`llama2` or `mistral` (spelled in conf/chat/), a .jinja file, or None: the tokenizer's own."""
    completion_prefix: str = ""
    """Text between prompt and answer in a training row; " " where the tokenizer adds no space."""
    dtype: str = _choice("float32", "bfloat16", "float16", default="float32")
    attention: str | None = None
    """`attn_implementation` of transformers; None leaves the choice to it."""


@dataclass
class Rows:
    """Where rows come from; the same for training data and for query sets."""

    name: str = MISSING
    """The data set's name; with source=micro, the generator's."""
    source: str = _choice("hub", "local", "micro")
    path: str | None = None
    """source=hub: the repository id. source=local: a file, or a folder with <split>.<suffix>."""
    subset: str | None = None
    """source=hub: the repository's configuration, for example `main`."""
    revision: str | None = None
    """source=hub: the commit of the repository."""
    split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)
    """What the file calls our columns: {input: question, output: answer}. Others are kept as is."""
    header: bool = True
    """False for a CSV file without a header row; its columns are then called "0", "1", ..."""
    encoding: str = "utf-8"
    n: int | None = None
    """Draw this many rows (without replacement, order kept); None takes them all."""
    draw_seed: int = 0
    size: int | None = _speed(None)
    """source=hub: how many rows the split holds, as its publisher says. Only `ptst plan` reads it, which
    downloads nothing; set it, or null, with another `path` or `split`."""


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


@dataclass
class Finetune:
    """A fine-tuning recipe. method=none is the untouched model: nothing else then counts."""

    method: str = _choice("none", "lora", "qlora", "full")
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
    max_steps: int = -1
    """Stop after this many optimizer steps; -1: as `epochs` says."""
    device_batch_size: int = _speed(32)
    """Sequences per forward pass; the rest of `batch_size` is accumulated."""
    activation_checkpointing: bool = _speed(False)
    save_steps: int = _speed(50)
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


@dataclass
class Evaluation:
    """A query set, how it is answered, who judges the answers, and what is reported."""

    measures: str = _choice("helpfulness", "safety", "over_refusal")
    queries: Rows = field(default_factory=Rows)
    decoding: Decoding = field(default_factory=Decoding)
    judge: Any = MISSING
    """`_target_` names the judge's class; the other keys are its fields."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Name of each reported metric: the judge's label whose share it is."""
    unit: str | None = None
    """Column that says which queries belong together (one hazard, say): the unit of intervals."""


@dataclass
class Engine:
    """What generates. Its fields are about speed; greedy answers depend on them only by rounding."""

    name: str = _choice("transformers")
    batch_size: int = _speed(64)
    device: str = field(default="auto", metadata={"key": False, "choices": ("auto", "cpu", "cuda")})
    """`auto` takes CUDA where there is one; which GPU is said by CUDA_VISIBLE_DEVICES."""
    share_prefix: bool = _speed(True)
    """Run the longest common prefix of all prompts through the model once, not once per prompt."""


@dataclass
class Tracking:
    """Weights & Biases. `offline` writes files only: no account, no network."""

    mode: str = _choice("offline", "online", "none")
    project: str = "ptst"
    entity: str | None = None
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
    """Length limit of completions unless an evaluation says otherwise."""
    train_rows: dict[str, int | None] = field(default_factory=dict)
    """How many rows of each data set are drawn for training; None: all."""
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
    """`table` in sweeps/paper/tables.csv; None: the paper has no such number."""
    paper_metric: str | None = None
    """`metric` there; None: the same name as ours."""


@dataclass
class Sweep:
    """A grid of cells, and how its tables are laid out; one YAML file each in sweeps/."""

    name: str = MISSING
    title: str = ""
    grids: list[dict[str, Any]] = field(default_factory=list)
    """Each is a product: {override: value or list of values}. The sweep is their union, so a pair that
    belongs together, or a row that lacks some columns, is a grid of its own."""
    no_finetuning: bool = False
    """Also the untouched model, under every test template."""
    rows: str = "train_template"
    columns: str = "test_template"
    safety_templates: list[str] = field(default_factory=list)
    """Templates with a safety prompt: the PTST contrast is worked out for them."""
    metrics: dict[str, TableMetric] = field(default_factory=dict)
    """By "<evaluation>/<metric>"; those of evaluations that are not part of the cells are left out."""


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
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    return checked(composed, check)


def compose_many(
    overrides: Sequence[str], variations: Sequence[Sequence[str]]
) -> list[Config | ConfigError]:
    """Compose the configurations of many cells: what `compose` gives for each, sooner.

    Hydra composes once for every distinct choice of groups; a value (seed=1, finetune.epochs=2) is
    then set on a copy, before anything is resolved, as Hydra itself does it.

    Args:
        overrides: of every cell.
        variations: for each cell what it adds to `overrides`.

    Returns:
        For each cell its configuration, or what is wrong with it.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    register()
    parser = OverridesParser.create()
    bases: dict[tuple[str, ...], Any] = {}
    configs: list[Config | ConfigError] = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for variation in variations:
            try:
                parsed = parser.parse_overrides(list(variation))
                plain = [o for o in parsed if _sets_a_value(o)]
                groups = tuple(o.input_line or "" for o in parsed if o not in plain)
                if groups not in bases:
                    bases[groups] = hydra_compose("config", overrides=[*overrides, *groups])
                composed = copy.deepcopy(bases[groups])
                for override in plain:
                    OmegaConf.update(composed, override.key_or_group, override.value())
                configs.append(checked(composed))
            except (HydraException, OmegaConfBaseException) as error:
                configs.append(ConfigError(explain(error)))
            except ConfigError as error:
                configs.append(error)
    return configs


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
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    assert isinstance(config, Config)
    _check_choices(config, "")
    if check:
        _check_values(config)
    return config


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


@cache
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
    from ptst.data import OURS
    from ptst.templates import check_template

    unknown = [stage for stage in config.stages if stage not in STAGES]
    if unknown:
        raise ConfigError(f"stages={unknown} is not among: {', '.join(STAGES)}.")
    rows = {"dataset": config.dataset}
    for group in ("task", "evaluation"):
        for name, evaluation in getattr(config, group).items():
            _check_evaluation(f"{group}.{name}", evaluation)
            rows[f"{group}.{name}.queries"] = evaluation.queries
    _check_recipe(config.finetune)
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
        if source.source != "micro" and not source.path:
            what = "a hub repository" if source.source == "hub" else "a file or folder"
            raise ConfigError(f"{where}.path is missing: source={source.source} needs {what}.")
    clash = set(config.task) & set(config.evaluation)
    if clash:
        raise ConfigError(f"{sorted(clash)}: in `task` already; leave it out of `evaluation`.")
    for mount in ("train_template", "test_template"):
        check_template(getattr(config, mount), mount, config.dataset)


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
    for name in ("batch_size", "device_batch_size", "save_steps", "max_length"):
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
    if recipe.schedule == "step" and recipe.warmup_ratio:
        raise ConfigError("finetune.warmup_ratio has no effect with schedule=step; set it to 0.")
    if recipe.batch_size % min(recipe.device_batch_size, recipe.batch_size):
        raise ConfigError(
            f"finetune.batch_size={recipe.batch_size} is not a multiple of "
            f"finetune.device_batch_size={recipe.device_batch_size}."
        )


def _check_evaluation(where: str, evaluation: Evaluation) -> None:
    from ptst.judge import load_judge
    from ptst.judge.exact_match import ReferenceMatch

    decoding = evaluation.decoding
    _within(f"{where}.decoding.max_new_tokens", decoding.max_new_tokens, 1, math.inf)
    _within(f"{where}.decoding.temperature", decoding.temperature, 0, math.inf)
    _within(f"{where}.decoding.top_p", decoding.top_p, 0, 1, above=True)
    _within(f"{where}.decoding.top_k", decoding.top_k, 0, math.inf)
    judge = load_judge(evaluation.judge, f"{where}.judge")
    for metric, label in evaluation.metrics.items():
        if label not in judge.labels:
            raise ConfigError(
                f"{where}.metrics.{metric}: the judge gives no label {label!r}; "
                f"its labels are: {', '.join(judge.labels)}."
            )
    if not evaluation.metrics:
        raise ConfigError(f"{where}.metrics is empty: name what is to be reported.")
    if isinstance(judge, ReferenceMatch) and evaluation.queries.source == "hub":
        raise ConfigError(
            f"{where} compares wording, which says nothing about real answers; there is no measure "
            "for this task on real data yet. Leave it out with ~evaluation@task."
        )


def fields_of(path: Sequence[str]) -> list[str]:
    """The keys that exist at a dotted path of the configuration, for error messages."""
    node: Any = Config
    for part in path:
        if get_origin(node) is dict:
            node = Evaluation
            continue
        hint = get_type_hints(node).get(part) if dataclasses.is_dataclass(node) else None
        if hint is None:
            return []
        options = [a for a in getattr(hint, "__args__", ()) if dataclasses.is_dataclass(a)]
        is_dict = get_origin(hint) is dict
        node = hint if is_dict or not options else options[0]
    return [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's message, shortened, with the keys that would have been right."""
    text = str(error).strip()
    cause = error.__cause__
    if cause is not None and str(cause).strip() not in text:
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
