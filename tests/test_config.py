"""Every mistake in a configuration is an error at composition that names what would be right."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import model_for

from ptst.cli import main
from ptst.cli.completion import GROUPS
from ptst.config.compose import compose
from ptst.config.many import compose_many
from ptst.errors import ConfigError
from ptst.paths import CONF


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=micr", r"Could not find 'model/micr'[\s\S]*llama2_7b_chat[\s\S]*micro"),
        (
            "template@train_template=chat_lama",
            r"Could not find 'template/chat_lama'[\s\S]*chat_llama",
        ),
        ("evaluation=[hazard]", r"Available options in 'evaluation': .*hazards"),
        ("dataset.sorce=local", r"Valid keys in dataset: .*Did you mean dataset\.source\?"),
        ("+dataset.sorce=local", r"Valid keys in dataset: .*Did you mean dataset\.source\?"),
        ("+typo=1", r"Valid keys: model, dataset"),
        ("task.gsm8k.decoding.top=1", r"Valid keys in task\.gsm8k\.decoding: max_new_tokens"),
        ("dataset.source=hubb", r"dataset\.source=hubb is not one of: hub, url, local"),
        ("finetune.schedule=cosin", r"finetune\.schedule=cosin is not one of: linear, cosine"),
        ("scale.name=huge", r"scale\.name=huge is not one of: micro, small, paper"),
        ("finetune.epochs=many", r"'many'.*could not be converted to Float[\s\S]*finetune\.epochs"),
        ("finetune.epochs=0", r"finetune\.epochs=0\.0 must be more than 0"),
        ("finetune.learning_rate=inf", r"finetune\.learning_rate=inf must be more than 0"),
        (
            "finetune.warmup_ratio=5",
            r"finetune\.warmup_ratio=5\.0 must be at least 0 and at most 1",
        ),
        ("finetune.weight_decay=nan", r"finetune\.weight_decay=nan must be at least 0"),
        ("finetune.max_steps=0", r"finetune\.max_steps=0 must be at least 1"),
        ("finetune.lora.r=0", r"finetune\.lora\.r=0 must be at least 1"),
        ("finetune.schedule=step", r"warmup_ratio has no effect with schedule=step"),
        ("finetune.device_batch_size=5", r"batch_size=32 is not a multiple of .*=5"),
        ("task.gsm8k.decoding.top_p=5", r"top_p=5\.0 must be more than 0 and at most 1"),
        ("task.gsm8k.decoding.temperature=nan", r"temperature=nan must be at least 0"),
        ("task.gsm8k.decoding.samples=0", r"samples=0 must be at least 1"),
        ("task.gsm8k.decoding.samples=5", r"samples=5 would be the same answer every time"),
        ("task.gsm8k.question=Why", r"task\.gsm8k\.question must have one \{input\}"),
        (
            "task.gsm8k.question='{input} {your_answer'",
            r"a brace that is meant as such stands twice",
        ),
        ("task.gsm8k.metrics.exact_match=mean", r"there is no mean, for the judge gives labels"),
        ("engine.device=foo", r"engine: device=foo is not one of: auto, cpu, cuda"),
        (
            "judge._target_=os.path.join",
            r"judge\._target_=os\.path\.join is not a judge: .* derived from ptst.judge.Judge",
        ),
        ("dataset.n=0", r"dataset\.n=0 must be at least 1"),
        ("+dataset.without.output=[x, '']", r"dataset\.without\.output has an empty phrase"),
        ("dataset.context=question", r"dataset\.context=question is the question itself"),
        ("engine.batch_size=-1", r"engine: batch_size=-1 must be at least 1"),
        ("stages=[]", r"stages=\[\] leaves nothing to do; choose among: finetune, generate, judge"),
        ("stages=[judg]", r"stages=\['judg'\] is not among: finetune, generate, judge"),
        (
            "+dataset.columns.question=input",
            r"dataset\.columns\.question: columns maps our names",
        ),
        (
            "judge._target_=ptst.judge.nope.Nope",
            r"judge\._target_=ptst\.judge\.nope\.Nope cannot be",
        ),
        ("+judge.speed=1", r"Key 'speed' not in 'GroundTruth'"),
        (
            "evaluation.hazards.metrics.asr=yes_sir",
            r"no label 'yes_sir'.*complied, refused, neither",
        ),
        ("evaluation=[gsm8k]", r"in `task` already"),
        ("dataset.question=Why", r"dataset\.question must have one \{input\}"),
        ("test_template.user=Why", r"test_template=chat_vanilla: user must have one place"),
    ],
)
def test_mistake_is_named_with_what_would_be_right(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose([override])


def test_a_data_set_without_a_task_or_a_recipe_of_its_name_is_told_what_to_choose(
    own_conf: Path,
) -> None:
    own = "name: mine\nsource: local\npath: x.csv\n"
    (own_conf / "dataset" / "mine.yaml").write_text(own)
    with pytest.raises(ConfigError, match=r"evaluation@task=gsm8k say, or none, ~evaluation@task"):
        compose(["dataset=mine"])
    with pytest.raises(ConfigError, match=r"choose another, finetune=lora say"):
        compose(["dataset=mine", "scale=paper", "~evaluation@task"])
    with pytest.raises(ConfigError) as caught:
        compose(["evaluation=[hazard]"])
    assert "~evaluation@task" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name: mine\nsystem: [a\nuser: b\n", r"line 3, column 5: expected ',' or '\]', but got ':'"),
        (b"name: mine\nsystem: a: b\n", r"line 2, column 10: mapping values are not allowed here"),
        (b"name: mine\n\tmode: chat\n", r"line 2, column 1: found character '\\t' that cannot"),
        (b"name: mine\nname: yours\n", r"line 2, column 1: found duplicate key name"),
        (b"name: 'mine\n", r"line 2, column 1: found unexpected end of stream"),
        (b"name: mi\0ne\n", r"unacceptable character #x0000"),
        (b"name: mine\nsystem: na\xefve\n", r"line 2: it is not in UTF-8"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_yaml_file_is_said_in_a_line_with_its_place(
    content: bytes, reason: str, own_conf: Path
) -> None:
    file = own_conf / "template" / "mine.yaml"
    file.write_bytes(content)
    choice = "template@test_template=mine"
    with pytest.raises(ConfigError, match=rf"^{file}.*{reason}") as caught:
        compose([choice])
    assert "\n" not in str(caught.value)
    (found,) = compose_many([], [[choice]])
    assert str(found) == str(caught.value)


def test_an_evaluation_is_called_what_a_file_can_be_called(own_conf: Path) -> None:
    """Metrics are "<evaluation>/<metric>", and a report's files are called by them."""
    text = (own_conf / "evaluation" / "hazards.yaml").read_text()
    file = own_conf / "evaluation" / "mine.yaml"
    file.write_text(text.replace("\nhazards:", "\na/../b:"))
    with pytest.raises(ConfigError, match=r"^evaluation a/\.\./b: a name has letters, digits"):
        compose(["evaluation=[mine]"])


def test_local_source_without_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.path is missing: source=local needs a file"):
        compose(["dataset.source=local", "dataset.path=null"])


@pytest.mark.parametrize(
    "override",
    [
        f"{mount}={path.stem}"
        for group in GROUPS
        for mount in (
            ("template@train_template", "template@test_template")
            if group == "template"
            else (group,)
        )
        for path in sorted((CONF / group).glob("*.yaml"))
        if group != "evaluation"
    ],
)
def test_every_choice_composes(override: str, tmp_path: Path, stand_in: Path) -> None:
    group, name = override.split("=")
    model = "gpt35_turbo_0613" if "openai" in name else "micro"
    others = [f"model={model}"] if group == "finetune" else []
    if group == "model" and name.startswith("gpt"):
        others = ["finetune=openai"]
    if override == "engine=canned":  # it answers without a model
        others = ["finetune=none"]
    if override == "engine=vllm":  # it needs an environment of its own
        others = [f"engine.python={stand_in}"]
    if override == "judge=reading":  # it reads a file of the user's
        labels = tmp_path / "labels.jsonl"
        labels.write_text(f'{{"sha256": "{"0" * 64}", "labels": {{"ann": "refused"}}}}\n')
        others = [f"judge.file={labels}"]
    file = CONF / group / f"{name}.yaml"
    if group == "defence":
        others = model_for(file)
    assert compose([override, *others]).seed == 0


def test_every_evaluation_composes() -> None:
    names = [path.stem for path in (CONF / "evaluation").glob("*.yaml") if path.stem != "gsm8k"]
    config = compose([f"evaluation=[{','.join(names)}]"])
    assert set(config.evaluations) == {"gsm8k", *names}


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF))
)
def test_every_yaml_opens_with_a_comment_that_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0] == "# @package _global_" else lines[0]
    assert first.startswith("# ")


def test_scale_sets_the_rest_and_an_override_still_wins() -> None:
    paper = compose(["scale=paper"])
    assert (paper.model.name, paper.dataset.source) == ("llama2_7b_chat", "hub")
    assert compose(["scale=paper", "model=mistral_7b_instruct_v02"]).model.chat == "mistral"
    assert compose(["scale=paper", "judge=micro"]).judge["_target_"].endswith("GroundTruth")


def test_only_the_micro_model_has_its_short_limit_whatever_the_scale() -> None:
    def limits(*overrides: str) -> set[int]:
        evaluations = compose(overrides).evaluations.values()
        return {evaluation.decoding.max_new_tokens for evaluation in evaluations}

    assert limits() == {64}
    assert limits("model=smollm2_135m_instruct") == {512}
    assert limits("scale=paper") == {512}
    assert limits("model.path=elsewhere") == {512}
    assert limits("model.path=elsewhere", "model.max_new_tokens=100") == {100}
    several = compose_many(
        ["+evaluation=hazards"], [["model.path=elsewhere"], ["model.name=other"]]
    )
    assert [c.evaluations["hazards"].decoding.max_new_tokens for c in several] == [512, 64]  # type: ignore[union-attr]
    assert limits("model=smollm2_135m_instruct", "scale.max_new_tokens=100") == {100}


def test_the_papers_recipe_follows_the_data_set() -> None:
    recipes = {
        name: compose(["scale=paper", f"dataset={name}", "~evaluation@task"]).finetune
        for name in ("gsm8k", "chatdoctor", "openorca")
    }
    assert {n: (r.epochs, r.learning_rate, r.schedule) for n, r in recipes.items()} == {
        "gsm8k": (6, 1e-4, "step"),
        "chatdoctor": (3, 2e-5, "cosine"),
        "openorca": (1, 2e-5, "step"),
    }
    assert compose(["scale=paper", "dataset=openorca", "~evaluation@task"]).dataset.n == 600_000


def test_wording_is_no_measure_on_real_data() -> None:
    with pytest.raises(ConfigError, match=r"task\.chatdoctor compares wording.*scale=paper"):
        compose(["dataset=chatdoctor", "dataset.source=hub"])


def test_a_data_sets_own_task_follows_the_scale() -> None:
    tasks = {
        (scale, name): compose([f"scale={scale}", f"dataset={name}"]).task
        for scale in ("micro", "small", "paper")
        for name in ("gsm8k", "chatdoctor", "openorca")
    }
    metrics = {
        key: [f"{name}/{metric}" for name, own in task.items() for metric in own.metrics]
        for key, task in tasks.items()
    }
    assert metrics == {
        ("micro", "gsm8k"): ["gsm8k/exact_match"],
        ("micro", "chatdoctor"): ["chatdoctor/reference_match"],
        ("micro", "openorca"): ["openorca/reference_match"],
        ("small", "gsm8k"): ["gsm8k/exact_match"],
        ("small", "chatdoctor"): ["chatdoctor/bertscore_f1"],
        ("small", "openorca"): ["arc_easy/exact_match", "arc_challenge/exact_match"],
        ("paper", "gsm8k"): ["gsm8k/exact_match"],
        ("paper", "chatdoctor"): ["chatdoctor/bertscore_f1"],
        ("paper", "openorca"): ["arc_easy/exact_match", "arc_challenge/exact_match"],
    }
    doctor = tasks["paper", "chatdoctor"]["chatdoctor"]
    assert (doctor.queries.n, doctor.decoding.temperature, doctor.decoding.samples) == (
        1000,
        0.7,
        5,
    )


@pytest.mark.parametrize("others", ["", "directharm4,", "chatdoctor,"])
def test_a_task_that_follows_the_scale_is_an_evaluation_beside_others(others: str) -> None:
    made = compose(["scale=paper", f"evaluation=[{others}openorca]"])
    assert list(made.evaluation) == [
        *filter(None, [others.rstrip(",")]),
        "arc_easy",
        "arc_challenge",
    ]


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("evaluation.rules.queries.n=10", r"evaluation=\[rules\]"),
        ("task.dolly.queries.n=10", r"evaluation@task=dolly"),
        ("defence.parden.guard.prefill=false", r"defence=\[parden\]"),
        ("analysis.probe_drift.template=null", r"analysis=\[probe_drift\]"),
    ],
)
def test_a_setting_of_what_is_not_chosen_says_how_it_is_chosen(override: str, right: str) -> None:
    with pytest.raises(ConfigError, match=rf"is not chosen here: {right} does that"):
        compose([override])


def test_a_dollar_brace_in_a_template_stays_as_it_is() -> None:
    made = compose([r"test_template.user='{question} \${oc.env:HOME}'"])
    assert made.test_template.user == "{question} ${oc.env:HOME}"


def test_two_mounts_of_one_template_group() -> None:
    config = compose(["template@train_template=chat_llama", "template@test_template=text_alpaca"])
    assert (config.train_template.name, config.test_template.name) == ("chat_llama", "text_alpaca")


def test_help_lists_every_choice_of_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for group in GROUPS:
        for path in (CONF / group).glob("*.yaml"):
            assert path.stem in shown


@pytest.mark.parametrize("command", [[], ["-m"], ["plan"], ["--cfg"]])
def test_an_override_that_cannot_be_read_is_named(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "seed=1", "dataset.question=Q: {input}"]) == 2
    said = capsys.readouterr().err
    assert "'dataset.question=Q: {input}' is not an override: mismatched input" in said
    assert """'dataset.question="..."'""" in said
    config = compose(['dataset.question="Q: {input}"'])  # as it says
    assert config.dataset.question == "Q: {input}"


def test_errors_leave_with_status_2_and_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["nonsense"]) == 2
    assert "'nonsense' is neither a command nor an override" in capsys.readouterr().err
    assert main(["--nonsense"]) == 2
    assert main(["model=none"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["model=micr"], ["+dataset.sorce=1"]])
def test_help_and_configuration_errors_load_nothing_heavy(arguments: list[str]) -> None:
    # What the promise of an answer in under a second rests on; seconds are measured in benchmarks/.
    code = (
        "import sys; from ptst.cli import main; main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'trl', 'wandb', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - started < 30  # only a hang fails here
