"""The configuration: one dataclass for each Hydra group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from ptst.component import added, place, speed
from ptst.sweep_schema import Sweep

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
    """What is sent under another name, or with null not at all: {max_tokens: max_completion_tokens,
    seed: null}. Part of the answers' key where there is any. (A field of type dict could not be
    overridden with a new key.)"""
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
    """Of templates, by name, that have another system prompt for this model; "" is an empty
    message."""
    revision: str | None = None
    """Commit of the hub repository; None where `path` is a directory (its content is hashed)."""
    chat: str | None = None
    """`llama2` or `mistral` (spelled in conf/chat/), a .jinja file, or None: the tokenizer's
    own."""
    chat_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the tokenizer's own chat template, or of the file: {enable_thinking: false}."""
    date: str | None = None
    """The day, as "2024-07-26", for chat formats that write today's date into a prompt."""
    default_system: bool = True
    """False leaves out the system prompt that a chat format writes where nobody asked for one."""
    completion_prefix: str | None = None
    """Text between prompt and answer in a training row under a chat template; None: what the format
    has there."""
    max_new_tokens: int | None = speed(None)
    """Length limit of its completions unless the scale or an evaluation says otherwise (keys have
    what an evaluation comes to); None until it is composed: 64 for the micro model, whose longest
    answers are shorter, otherwise 512."""
    dtype: str = _choice("float32", "bfloat16", "float16", default="float32")
    attention: str | None = None
    """`attn_implementation` of transformers; None leaves the choice to it."""
    base: str | None = None
    """The model that it was aligned from: a hub id, or a directory. None: not published. It is part
    of the key of a method that reads it, and of no other."""
    base_revision: str | None = None
    """Commit of the base's hub repository; None: the newest, and provenance says which it was."""


@dataclass
class Rows:
    """Where rows come from; the same for training data and for query sets."""

    name: str = MISSING
    """The data set's name; with source=micro, the generator's. (source=rules has one set,
    `ptst.rules`.)"""
    source: str = _choice("hub", "url", "local", "micro", "rules")
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
    """Of a JSON file that is not a list of rows: the key, dotted, under which the list stands."""
    where: dict[str, str] = field(default_factory=dict)
    """Only rows with these values, under the file's own column names: {label: safe}."""
    without: dict[str, list[str]] = field(default_factory=dict, metadata={"added": True})
    """No rows with one of these phrases, whatever their case, in a column of the file: {output:
    [I cannot, unethical]}. Provenance says how many that left out."""
    columns: dict[str, str] = field(default_factory=dict)
    """What the file calls our columns: {input: question, output: answer}. Others are kept as is."""
    context: str | None = added(None)
    """A column of the file with more of the question, such as a text that it is about: it stands
    behind the input, after an empty line, in rows that have any."""
    messages: str | None = added(None)
    """Column of a chat, [{role, content}, ...] with the query last. Three columns take its place:
    `system` (empty where there is no system message), `earlier` (the turns before the query) and
    `user`, the query: columns={input: user, instruction: system}."""
    header: bool = True
    """False for a CSV file without a header row; its columns are then called "0", "1", ..."""
    delimiter: str | None = None
    """What stands between the fields of a CSV file; None: a comma, and in .tsv a tab."""
    encoding: str = "utf-8"
    n: int | None = None
    """Draw this many rows (without replacement, order kept); None takes them all."""
    draw_seed: int = 0
    first: int | None = added(None)
    """Take the first rows alone, at most this many (those of `where`); `n` draws from them."""
    size: int | None = speed(None)
    """source=hub or url: how many rows there are (those of `where`), as the publisher says. Only
    `ptst plan` reads it, which downloads nothing; set it, or null, with another `path` or
    `split`."""
    at: str = place()
    """Where these rows stand in the configuration, for messages; filled in when the configuration
    is checked."""

    def known_count(self, counted: int | None = None) -> int | None:
        """How many rows there are, as far as the configuration says, or as somebody `counted`."""
        whole = self.size if counted is None else counted
        return self.n or (whole if self.first is None else min(self.first, whole or self.first))


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
    """Names of modules, whole or from a dot on; or [all-linear]: every linear layer but the
    head."""


@dataclass
class Mix:
    """Rows that are trained on beside the data set's, for example of safety (paper, section
    4.1)."""

    rows: Rows = field(default_factory=Rows)
    """Each is seen once in the whole training, whatever `epochs` says of the data set's."""
    template: Template | None = None
    """How they are written; None: under the train template, as in the paper. A question of theirs
    reads like one of the data set."""


@dataclass
class Finetune:
    """A fine-tuning recipe. method=none is the untouched model: nothing else then counts."""

    name: str = ""
    """What tables call it; where its YAML has none, the name of the option: finetune=safety_mix."""
    method: str = _choice("none", "lora", "qlora", "full", "openai")
    """`openai`: a job at the model's API, which knows epochs, batch_size and
    learning_rate_multiplier."""
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
    """Which epoch's weights are tested, from 1; None: the last. It is no part of the
    fine-tuning."""
    keep_epochs: bool = True
    """Keep the weights of every whole epoch, and not the last's only."""
    device_batch_size: int = speed(32)
    """Sequences per forward pass; the rest of `batch_size` is accumulated."""
    devices: int = speed(1)
    """Processes that train data-parallel, a GPU each; each takes its share of `batch_size`."""
    fsdp: bool = speed(False)
    """With several devices: shard weights, gradients and optimizer (FSDP), for models that do not
    fit one."""
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

    measures: str = _choice("helpfulness", "safety", "over_refusal", "obedience")
    """`obedience`: whether rules of the system prompt are kept; neither of the others."""
    queries: Rows = field(default_factory=Rows)
    decoding: Decoding = field(default_factory=Decoding)
    judge: Any = MISSING
    """`_target_` names the judge's class; the other keys are its fields."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Name of each reported metric: the judge's label whose share it is, or `mean` of the judge's
    values."""
    only: dict[str, dict[str, str]] = field(default_factory=dict)
    """Metrics that count some of the queries: those with these values in these columns, as
    {basic: {suite: basic}}. The others count all."""
    mean_of: dict[str, list[str]] = field(default_factory=dict)
    """Metrics that are the mean of others, each with the same weight however many queries it has;
    those must count different queries."""
    unit: str | None = None
    """Column that says which queries belong together (for example one hazard): the unit of
    intervals. A file's own column `id` is called source_id."""
    category: str | None = None
    """Column of the queries' category: every metric is reported for each category, too."""
    question: str | None = None
    """How a query reads, in place of the data set's way: "{input} Choose from: {choices}", with the
    places of :func:`ptst.templates.read_query`. None: as the data set's questions, which is what
    the paper does with safety queries."""
    dialogue: Any = None
    """`_target_` and the fields of a dialogue (ptst.dialogue); None: one question, one answer."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metrics for which this judge has no label, or no value, moved here from `metrics` when the
    configuration was checked: never shown as 0. (`refused`, with a judge that tells safe from
    unsafe only.)"""


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

    name: str = _choice("micro", "small", "paper")
    source: str = _choice("hub", "local", "micro")
    """Where data sets and query sets come from unless they say otherwise."""
    max_new_tokens: int = 512
    """Length limit of completions unless an evaluation says otherwise; both scales take the
    model's."""
    train_rows: dict[str, int | None] = field(default_factory=dict)
    """How many rows of each data set are drawn for training; None: all."""
    gpu: bool = False
    """Whether models that run here need a GPU: what jobs ask a cluster for."""
    test_rows: dict[str, int | None] = field(default_factory=dict)
    """How many of each data set's test rows its own task is tested on; None: all."""
    queries: int | None = None
    """How many queries of each published set of AdvBench's kind are drawn; None: all."""


@dataclass
class Paths:
    """Where results go; relative paths start at the working directory."""

    store: str = "./store"
    reports: str = "./reports"


SLOTS = ("objective", "posthoc", "guard")
"""What a defence may fill."""


@dataclass
class Defence:
    """A defence: the component that it puts into each slot, `_target_` and the fields of that
    class."""

    objective: Any = None
    """What is trained on, the loss, the step (ptst.objective)."""
    posthoc: Any = None
    """What is done to the weights after training (ptst.posthoc)."""
    guard: Any = None
    """What stands around generation (ptst.guard)."""
    control_of: str | None = None
    """The defence whose mechanism it isolates; in no key."""


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
    defence: dict[str, Defence] = field(default_factory=dict)
    """By name; two for one slot are refused."""
    analysis: dict[str, Any] = field(default_factory=dict)
    """By name: `_target_` and the fields of an analysis (ptst.analysis)."""
    judge: Any = MISSING
    """The judge of safety evaluations; each evaluation refers to it or names its own."""
    engine: Any = MISSING
    """`_target_` and the fields of an engine (ptst.engine): what answers prompts."""
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
