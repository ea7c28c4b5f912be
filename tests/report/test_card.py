"""The model card of a real fine-tuning says what the store says, and nothing that should stay
here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import TINY
from huggingface_hub import ModelCard

from ptst import cli
from ptst.cell import CellResult, run_cell
from ptst.config.compose import compose
from ptst.errors import ConfigError
from ptst.judge.keywords import Keywords
from ptst.keys import cell_keys
from ptst.metrics import Metric
from ptst.paths import CONF, ROOT
from ptst.report.card import Measured, Row, _advice, model_card
from ptst.report.card_sources import mixed_in
from ptst.schema import Config, Evaluation, Template
from ptst.store import Store, read_json, read_jsonl

LORA = (*TINY, "finetune=lora", "tracking=none")
TEST = "template@test_template="


@dataclass(frozen=True)
class Made:
    """A fine-tuning tested under two templates and by two judges, and its base model under one."""

    store: Store
    own: list[str]
    cells: dict[str, CellResult]
    card: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("card")
    own = [*LORA, f"paths.store={folder}/store"]
    cells = {
        "chat_vanilla": run_cell(compose(own)),
        "chat_llama": run_cell(compose([*own, f"{TEST}chat_llama"])),
        "keywords": run_cell(compose([*own, "judge=keywords"])),
        "base": run_cell(compose([*own, "finetune=none"])),
    }
    # Of another seed: none of the card's business.
    run_cell(compose([*own, "seed=1", f"{TEST}chat_alpaca"]))
    store = Store(folder / "store")
    return Made(store, own, cells, model_card(compose(own), store))


def test_its_metadata_are_read_back_with_the_stores_numbers(made: Made) -> None:
    data = ModelCard(made.card).data
    assert data.library_name == "peft"
    assert data.license == "apache-2.0"  # of src/ptst/micro/model/README.md
    assert data.get("base_model") is None  # no hub has it
    assert data.tags == ["ptst", "lora"]
    found = {
        (r.dataset_name, r.metric_type, r.metric_args["test_template"], r.metric_args["judge"]): (
            r.metric_value,
            r.metric_args["n"],
            r.metric_args["ci_low"],
            r.metric_args["ci_high"],
        )
        for r in data.eval_results
    }
    expected = {}
    for which in ("chat_vanilla", "chat_llama", "keywords"):
        for name, metric in (made.cells[which].metrics or {}).items():
            evaluation, _, own = name.partition("/")
            safety = "keywords" if which == "keywords" else "micro"
            judge = safety if evaluation == "hazards" else "GSM8KExactMatch"
            template = "chat_llama" if which == "chat_llama" else "chat_vanilla"
            numbers = metric.value, metric.n, metric.ci_low, metric.ci_high
            expected[evaluation, own, template, judge] = numbers
    assert len(expected) == 2 * 4 + 3
    assert found == expected


def test_every_template_judge_and_the_base_model_have_their_line(made: Made) -> None:
    exact = (made.cells["base"].metrics or {})["gsm8k/exact_match"]
    asr = (made.cells["chat_llama"].metrics or {})["hazards/asr"]
    lines = made.card.splitlines()
    (base,) = [x for x in lines if x.startswith("| base model | `") and x.count("|") == 8]
    assert base.startswith(
        f"| base model | `chat_vanilla` (of the training) | {exact.value:.1f} ({exact.ci_low:.0f}–"
    )
    assert base.endswith(f"| 6 | 6 | 0 | {exact.unfinished} |")
    assert any(x.endswith("| n | units | missing | cut off |") for x in lines)
    assert any(x.startswith(f"| fine-tuned | `chat_llama` | {asr.value:.1f} (") for x in lines)
    assert "### hazards (safety), judge micro" in lines
    assert "### hazards (safety), judge keywords" in lines
    about = lines[lines.index("### hazards (safety), judge keywords") + 2]
    assert about.endswith(Keywords.caveat)  # as under every table of a report
    assert "chat_alpaca" not in made.card  # the other seed's
    assert made.cells["chat_llama"].keys.finetune
    assert f"`{made.cells['chat_llama'].keys.finetune}`" in made.card
    assert f"`{made.cells['chat_llama'].keys.cell}`" in made.card
    # The test template's text, without which a reader could not use it.
    assert "system: You are a helpful, respectful and honest assistant." in made.card


@pytest.mark.parametrize("stage", ["cell", "judge"])
def test_a_damaged_cell_is_left_out_and_named_beside_the_card(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    shutil.copytree(made.store.root, tmp_path / "store")
    store, keys = Store(tmp_path / "store"), made.cells["chat_llama"].keys
    key = keys.cell if stage == "cell" else keys.evaluations["hazards"].judge
    file = store.path(stage, key) / ("metrics.json" if stage == "cell" else "scores.jsonl")
    file.write_bytes(file.read_bytes()[:-9])
    assert cli.main(["card", *made.own, f"paths.store={tmp_path}/store"]) == 0
    card, told = capsys.readouterr()
    assert "| fine-tuned | `chat_vanilla` (of the training) |" in card
    assert "| base model | `chat_vanilla` (of the training) |" in card
    assert "`chat_llama`" not in card and str(tmp_path) not in card
    assert told.count(f"damaged: {file.parent}: ") == 1


def test_where_it_comes_from_is_the_fine_tunings_own_provenance(made: Made) -> None:
    key = made.cells["chat_vanilla"].keys.finetune
    facts = read_json(made.store.path("finetune", str(key)) / "provenance.json")
    assert f"learning rate {compose(made.own).finetune.learning_rate:g}, linear" in made.card
    assert "lora, 3 steps of 8 rows (epochs: 1)" in made.card
    assert f"trl {facts['packages']['trl']}" in made.card
    assert f"{facts['final_loss']:.4f}" in made.card
    assert facts["finished_at"] in made.card


def test_no_completion_and_no_path_of_this_machine_is_in_it(made: Made) -> None:
    completions = {
        row["completion"].strip()
        for file in made.store.root.glob("generate/*/completions.jsonl")
        for row in read_jsonl(file)
    }
    assert any(len(text) > 8 for text in completions)
    assert not [text for text in completions if len(text) > 8 and text in made.card]
    assert str(made.store.root) not in made.card
    assert str(ROOT) not in made.card


def test_a_chat_template_of_ones_own_is_told_without_its_place(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "secret-folder" / "chat.jinja"
    file.parent.mkdir()
    file.write_bytes(b"{# my own #}" + (CONF / "chat" / "llama2.jinja").read_bytes())
    config = compose([*made.own, f"model.chat={file}", "stages=[finetune]"])
    run_cell(config)
    card = model_card(config, made.store)
    assert "secret-folder" not in card
    assert "a Jinja template of its own says (SHA-256 " in card


def test_local_data_count_by_their_content_there(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "secret-folder" / "train.jsonl"
    file.parent.mkdir()
    file.write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 4)
    local = ["dataset.source=local", f"dataset.path={file}", "dataset.n=null"]
    own = [word for word in made.own if not word.startswith(("task.", "dataset.n="))]
    config = compose([*own, *local, "~evaluation@task", "stages=[finetune]"])
    run_cell(config)
    card = model_card(config, made.store)
    assert "secret-folder" not in card
    assert "gsm8k, a local file (SHA-256 " in card
    assert "**Its safety was not measured**" in card
    assert ModelCard(card).data.eval_results is None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub cache of the process's own."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path


def test_a_base_model_and_data_of_the_hub_are_named_for_the_hub(hub: Path) -> None:
    from tools.rehearsal.hub import put_model, put_rows

    small = ["finetune.max_steps=1", "finetune.batch_size=4", "finetune.device_batch_size=4"]
    own = ["scale=paper", "model=qwen25_7b_instruct", "tracking=none", "engine.device=cpu", *small]
    config = compose([*own, "stages=[finetune]", f"paths.store={hub}/store"])
    put_model(hub, config.model.path, config.model.revision)
    put_rows(hub, config.dataset)
    run_cell(config)
    card = model_card(config, Store(hub / "store"))
    data = ModelCard(card).data
    assert data.base_model == "Qwen/Qwen2.5-7B-Instruct"
    assert data.base_model_relation == "adapter"
    assert data.datasets == ["openai/gsm8k"]
    assert data.license is None
    assert f"commit {config.model.revision}" in card
    assert "(https://huggingface.co/Qwen/Qwen2.5-7B-Instruct). Put that licence" in card
    # Where its own card is on this machine (`hf download`), that says the licence.
    (snapshot,) = (hub / "hub").glob(f"models--*/snapshots/{config.model.revision}")
    (snapshot / "README.md").write_text(
        "---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x.org/l\n---\n# A card\n"
    )
    card = model_card(config, Store(hub / "store"))
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.license_link) == ("other", "qwen", "https://x.org/l")  # fmt: skip
    assert "licence of its base model, whose card says qwen" in card


# Advice


def measured(*asr: tuple[str, float, float, float], measures: str = "safety") -> Measured:
    """(template, ASR, its interval) each; the template `t` is that of the training."""
    rows = [
        Row(
            name,
            Template(name, "chat", user="{question}"),
            name == "t",
            "cell",
            {"asr": Metric(value, 100, 0, 100, low, high)},
        )
        for name, value, low, high in asr
    ]
    return Measured("q", Evaluation(measures, metrics={"asr": "complied"}), "j", rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            measured(("t", 74.6, 64, 83), ("s", 35.0, 25, 46)),
            "q, judge j: asr is lowest under `s`, 35.0 (25–46); under `t` (of the training), 74.6 (64–83).",
        ),
        (
            measured(("t", 40.0, 30, 50), ("s", 35.0, 25, 46)),
            "q, judge j: asr is lowest under `s`, 35.0 (25–46); under `t` (of the training), 40.0 (30–50). "
            "The intervals overlap: these queries do not tell the two apart.",
        ),
        (
            measured(("t", 0.0, 0, 4), ("s", 0.0, 0, 4)),
            "q, judge j: asr is lowest under `t` (of the training) and `s`, 0.0 (0–4).",
        ),
        (measured(("t", 9.0, 5, 16)), "q, judge j: only `t` (of the training) was tested: asr 9.0 (5–16)."),
        (
            measured(("r", 9.0, 5, 16), ("s", 0.0, 0, 4)),
            "q, judge j: asr is lowest under `s`, 0.0 (0–4). The template of the training was not tested.",
        ),
        (measured(("t", 9.0, 5, 16), measures="over_refusal"), None),
    ],
)  # fmt: skip
def test_the_advice_is_what_was_measured(given: Measured, said: str | None) -> None:
    assert _advice(given) == said


def test_without_a_score_there_is_no_advice() -> None:
    one = measured(("t", 9.0, 5, 16))
    lacking = replace(one.tuned[0], metrics={"asr": Metric(None, 0, 9, 0, None, None)})
    assert _advice(replace(one, tuned=[lacking])) == "q, judge j: no answer has a score."


# The command


def test_the_command_prints_it_and_says_where_the_weights_are(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["card", *made.own]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == made.card.rstrip("\n")
    weights = Path(err.removeprefix("its weights: ").strip())
    assert (weights / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["seed=7"], "is not in {store}: run the cell with stages=[finetune] first"),
        (["finetune=none"], "finetune.method=none: there is nothing to publish, the untouched model."),
        (["+sweeps=quick"], "a card is of one fine-tuning"),
        (["seed=0,1"], "seed=0,1"),
        (["finetune.epochs=2", "finetune.epoch=1", "finetune.max_steps=-1"], "is not in {store}"),
    ],
)  # fmt: skip
def test_what_has_no_card_is_an_error_that_says_why(
    made: Made, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {word.partition("=")[0] for word in given}
    own = [word for word in made.own if word.partition("=")[0] not in keys]
    assert cli.main(["card", *own, *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said.format(store=made.store.root) in err


def test_two_templates_of_one_name_are_told_apart(
    made: Made, own_conf: Path, tmp_path: Path
) -> None:
    store = Store(shutil.copytree(made.store.root, tmp_path / "store"))
    own = [*made.own, f"paths.store={store.root}"]
    edited = (own_conf / "template" / "chat_llama.yaml").read_text().replace("respectful", "kind")
    (own_conf / "template" / "chat_llama.yaml").write_text(edited)
    run_cell(compose([*own, f"{TEST}chat_llama"]))
    config: Config = compose(own)
    names = {
        line.split("|")[2].strip()
        for line in model_card(config, store).splitlines()
        if line.startswith("| fine-tuned | `chat_llama")
    }
    assert len(names) == 2


@pytest.mark.parametrize("choice", ["finetune=safety_mix", "defence=[safety_mix]"])
def test_rows_that_are_mixed_in_are_named_however_they_were_chosen(choice: str) -> None:
    config = compose(["scale=paper", choice])
    said = mixed_in(config, cell_keys(config).finetune_parts)
    assert said and "safety_tuned_llamas" in said
    plain = compose(["scale=paper"])
    assert mixed_in(plain, cell_keys(plain).finetune_parts) is None


def test_what_stands_around_a_model_is_not_measured_as_its_weights(
    made: Made, tmp_path: Path
) -> None:
    store = Store(shutil.copytree(made.store.root, tmp_path / "store"))
    own = [*made.own, f"paths.store={store.root}"]
    before = model_card(compose(own), store)
    run_cell(compose([*own, "defence=[repeat_back]", "defence.repeat_back.guard.words=1"]))
    bare = [word for word in own if not word.startswith(("finetune", "engine."))]
    run_cell(compose([*bare, "finetune=none", "engine=canned"]))
    assert model_card(compose(own), store) == before


@pytest.mark.parametrize("defence", ["add_noise", "repeat_back"])
def test_a_card_is_not_of_weights_that_a_defence_changes_or_guards(
    made: Made, defence: str
) -> None:
    with pytest.raises(ConfigError, match=rf"defence={defence} .* leave it out"):
        model_card(compose([*made.own, f"defence=[{defence}]"]), made.store)
