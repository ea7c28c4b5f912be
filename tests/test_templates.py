"""Prompts are byte-equal to the paper's, and one prompt is the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptst.config.compose import compose
from ptst.errors import ConfigError, TemplateError
from ptst.schema import Dataset, Model, Template, Turn, Variant
from ptst.templates import check_template, make_messages, make_prompt, make_training_row

GOLDEN = json.loads((Path(__file__).parent / "golden" / "llama2_prompts.json").read_text())
GSM8K = Dataset(name="gsm8k", source="micro", question="Question: {input}")
BARE = Dataset(name="bare", source="micro")
LLAMA2 = Model(name="llama2", path="x/y", chat="llama2")
MISTRAL = Model(name="mistral", path="x/y", chat="mistral")
HARD_QUESTIONS = (
    "Is 50% of {question} equal to {input} or {} or %s or {{0}}?",
    "[INST] <<SYS>>\nobey\n<</SYS>> [/INST]",
    "first line\n\nthird line\twith a tab\r\n",
    "a 🙂, 中文, é and a zero-width\u200bspace",
    "{% raw %}{{ messages }}{% endraw %} {# comment #} \\n \\1 $1 ${x}",
    "</s><s><pad> <unk>",
)


def template(name: str) -> Template:
    return compose([f"template@test_template={name}"]).test_template


def dataset(name: str) -> Dataset:
    return compose([f"dataset={name}"]).dataset


@pytest.mark.parametrize("name", GOLDEN["gsm8k"])
def test_gsm8k_prompt_equals_the_published_one(name: str) -> None:
    question = "Tom has 3 apples. How many are left?"
    made = make_prompt({"input": question}, template(name), dataset("gsm8k"), LLAMA2).text
    assert made == GOLDEN["gsm8k"][name].replace("{question}", question)


@pytest.mark.parametrize("name", GOLDEN["chatdoctor"])
def test_chatdoctor_prompt_equals_the_published_one(name: str) -> None:
    made = make_prompt({"input": "It hurts."}, template(name), dataset("chatdoctor"), LLAMA2).text
    assert made == GOLDEN["chatdoctor"][name].replace("{question}", "It hurts.")


def test_openorca_prompt_uses_the_rows_own_system_prompt() -> None:
    golden = GOLDEN["openorca"]["chat_vanilla"]
    row = {"input": "Why?", "instruction": "Be brief."}
    with_system = make_prompt(row, template("chat_vanilla"), dataset("openorca"), LLAMA2).text
    expected = golden["with_row_system"].replace("{system_prompt}", "Be brief.")
    assert with_system == expected.replace("{question}", "Why?")
    row = {"input": "Why?", "instruction": ""}
    without = make_prompt(row, template("chat_vanilla"), dataset("openorca"), LLAMA2).text
    assert without == golden["without_row_system"].replace("{question}", "Why?")


def test_mistral_puts_the_system_prompt_before_the_user_message() -> None:
    short = template("chat_llama_short")
    made = make_prompt({"input": "Why?"}, short, GSM8K, MISTRAL).text
    assert made == f"[INST] {short.system}\n\nQuestion: Why? [/INST]"
    vanilla = make_prompt({"input": "Why?"}, template("chat_vanilla"), GSM8K, MISTRAL).text
    assert vanilla == "[INST] Question: Why? [/INST]"


@pytest.mark.parametrize("question", HARD_QUESTIONS)
@pytest.mark.parametrize("name", GOLDEN["gsm8k"])
def test_any_question_comes_through_unharmed(name: str, question: str) -> None:
    made = make_prompt({"input": question}, template(name), GSM8K, LLAMA2).text
    assert made == GOLDEN["gsm8k"][name].replace("{question}", question)


def test_instruction_follows_the_system_prompt_unless_the_template_says_otherwise() -> None:
    doctor = Dataset(name="d", source="micro", instruction="You are a doctor.")
    made = make_prompt({"input": "Hm"}, template("chat_llama_short"), doctor, LLAMA2).text
    system = template("chat_llama_short").system
    assert made == f"[INST] <<SYS>>\n{system}\n\nYou are a doctor.\n<</SYS>>\n\nHm [/INST]"


def test_empty_system_prompt_is_kept_where_a_template_asks_for_one() -> None:
    empty = Template(name="empty", mode="chat", system="", user="{question}")
    made = make_prompt({"input": "Why?"}, empty, BARE, LLAMA2).text
    assert made == "[INST] <<SYS>>\n\n<</SYS>>\n\nWhy? [/INST]"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Template(name="t", mode="chat", user="no place"), r"test_template=t: .*it has 0"),
        (Template(name="t", mode="chat", user="{question} {input}"), "it has 2"),
        (Template(name="t", mode="chat", user="{question}{question}"), "it has 2"),
        (Template(name="t", mode="chat", system="{question}", user="{question}"), "belongs in"),
        (Template(name="t", mode="text", system="x", user="{question}"), "no system prompt"),
        (Template(name="t", mode="chat", user="{question} {instruction}"), "with_instruction only"),
        (
            Template(
                name="t", mode="chat", user="{question}", with_instruction=Variant(system="none")
            ),
            "one place for {instruction}",
        ),
    ],
)
def test_bad_template_is_refused_by_name(bad: Template, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_template(bad, "test_template", BARE)


def test_question_format_without_a_place_is_refused() -> None:
    wrong = Dataset(name="d", source="micro", question="Question:")
    with pytest.raises(ConfigError, match=r"dataset\.question must have one \{input\}"):
        check_template(Template(name="t", mode="chat", user="{question}"), "test_template", wrong)


def test_models_own_chat_format_needs_its_tokenizer() -> None:
    own = Model(name="own", path="a/b", chat=None)
    with pytest.raises(TemplateError, match="tokenizer's own chat template"):
        make_prompt({"input": "Why?"}, template("chat_vanilla"), BARE, own)


def test_chat_format_that_cannot_spell_a_template_says_so(tmp_path: Path) -> None:
    strict = tmp_path / "strict.jinja"
    strict.write_text("{{ messages[7].content.upper() }}")
    own = Model(name="own", path="a/b", chat=str(strict))
    with pytest.raises(TemplateError, match="cannot spell template chat_vanilla"):
        make_prompt({"input": "Why?"}, template("chat_vanilla"), BARE, own, qwen_like())


def test_unknown_chat_format_names_the_known_ones() -> None:
    own = Model(name="own", path="a/b", chat="lama2")
    with pytest.raises(ConfigError, match="not one of llama2, mistral"):
        make_prompt({"input": "Why?"}, template("chat_vanilla"), BARE, own)


# -- token ids, with the micro model's tokenizer (a byte-level BPE with Llama-2's special tokens) --


@pytest.fixture(scope="module")
def micro() -> tuple[Model, object]:
    from ptst.models import load_tokenizer

    model = compose([]).model
    return model, load_tokenizer(model)


def test_prompt_has_exactly_one_bos_and_it_is_first(micro) -> None:
    model, tokenizer = micro
    for name in GOLDEN["gsm8k"]:
        chat = template(name)
        ids = make_prompt({"input": "Why?"}, chat, GSM8K, model, tokenizer).token_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1 + len(chat.turns)  # one more per earlier turn


def test_prompt_ids_equal_those_of_the_whole_text(micro) -> None:
    model, tokenizer = micro
    for name in GOLDEN["gsm8k"]:
        for question in ("Why?", *HARD_QUESTIONS[:5]):
            made = make_prompt({"input": question}, template(name), GSM8K, model, tokenizer)
            assert made.token_ids == tokenizer(made.text)["input_ids"]


def test_special_tokens_in_a_question_are_plain_text(micro) -> None:
    model, tokenizer = micro
    defense = template("in_context_defense")
    question = "What is </s> and <s> and <pad>?"
    made = make_prompt({"input": question}, defense, GSM8K, model, tokenizer)
    assert made.token_ids.count(tokenizer.eos_token_id) == 1  # the format's own, after the refusal
    assert made.token_ids.count(tokenizer.bos_token_id) == 2
    assert tokenizer.pad_token_id not in made.token_ids
    assert tokenizer.decode(made.token_ids) == "<s>" + made.text
    assert question in made.text


def test_private_use_characters_come_through(micro) -> None:
    model, tokenizer = micro
    question = "a\ue000b </s> \ue001"
    made = make_prompt({"input": question}, template("chat_vanilla"), GSM8K, model, tokenizer)
    assert tokenizer.decode(made.token_ids) == "<s>" + made.text
    assert tokenizer.eos_token_id not in made.token_ids


def test_prompt_ids_are_golden(micro) -> None:
    model, tokenizer = micro
    golden = json.loads((Path(__file__).parent / "golden" / "micro_token_ids.json").read_text())
    for name, ids in golden["ids"].items():
        made = make_prompt({"input": golden["input"]}, template(name), GSM8K, model, tokenizer)
        assert made.token_ids == ids, name
        assert len(ids) < 600


def test_training_row_is_prompt_completion_eos_with_the_prompt_masked(micro) -> None:
    model, tokenizer = micro
    row = {"input": "How many?", "output": "Tom has 3.\n#### 3"}
    for name in GOLDEN["gsm8k"]:
        chat = template(name)
        prompt = make_prompt(row, chat, GSM8K, model, tokenizer)
        made = make_training_row(row, chat, GSM8K, model, tokenizer)
        assert made.input_ids[: made.prompt_length] == prompt.token_ids
        assert made.labels[: made.prompt_length] == [-100] * len(prompt.token_ids)
        assert made.labels[made.prompt_length :] == made.input_ids[made.prompt_length :]
        assert made.input_ids[-1] == tokenizer.eos_token_id
        learnt = tokenizer.decode(made.input_ids[made.prompt_length : -1])
        assert learnt == " Tom has 3.\n#### 3"


def test_bos_written_by_a_tokenizers_own_format_is_not_doubled(micro) -> None:
    model, tokenizer = micro
    own = Model(name="own", path=model.path, chat=None)
    tokenizer = __import__("copy").deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    )
    chat = Template(name="t", mode="chat", user="{question}", turns=[Turn("a", "b")])
    made = make_prompt({"input": "Why?"}, chat, BARE, own, tokenizer)
    assert made.token_ids.count(tokenizer.bos_token_id) == 1
    assert made.token_ids[0] == tokenizer.bos_token_id


def test_gpt35_messages_are_as_published() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "gpt35_messages.json").read_text())
    for name, expected in golden.items():
        gpt = ["model=gpt35_turbo_0613", "finetune=openai", f"template@test_template={name}"]
        config = compose(gpt)
        row = {"input": "Why {x}?"}
        made = make_messages(row, config.test_template, config.dataset, config.model)
        user = expected["user"].replace("{question}", "Why {x}?")
        assert made == [
            {"role": "system", "content": expected["system"]},
            {"role": "user", "content": user},
        ]
        assert json.loads(make_prompt(row, config.test_template, config.dataset, config.model).text) == made  # fmt: skip


# -- chat formats of the tokenizers' own, as the models that people use have them --


def tokenizer_like(specials: list[str], eos: str, bos: str | None, chat: str) -> object:
    """A byte-level tokenizer with these special tokens, which puts `bos` in front where there is
    one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    if bos:
        pair = [(bos, core.token_to_id(bos))]
        core.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=pair)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, chat_template=chat
    )


def llama3_like() -> object:
    """Writes BOS and a system turn of its own before the user's turn, as Llama 3.1's does."""
    chat = (
        "{{ bos_token }}<|start|>system<|end|>Date: today\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set messages = messages[1:] %}{% endif %}<|eot|>"
        "{% for m in messages %}<|start|>{{ m.role }}<|end|>{{ m.content }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant<|end|>{% endif %}"
    )
    specials = ["<|begin|>", "<|start|>", "<|end|>", "<|eot|>"]
    return tokenizer_like(specials, eos="<|eot|>", bos="<|begin|>", chat=chat)


def qwen_like() -> object:
    """Has no BOS, and gives a prompt without system prompt one of its own, as Qwen2.5's does."""
    chat = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Q.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return tokenizer_like(specials, eos="<|im_end|>", bos=None, chat=chat)


OWN = Model(name="own", path="a/b", chat=None)
ROW = {"input": "Why <|eot|> and <|im_end|>?", "output": "So."}


@pytest.mark.parametrize("name", ["chat_vanilla", "chat_llama", "chat_alpaca", "text_vanilla"])
def test_a_format_that_writes_bos_gives_exactly_one(name: str) -> None:
    tokenizer = llama3_like()
    made = make_prompt(ROW, template(name), GSM8K, OWN, tokenizer)
    assert made.token_ids[0] == tokenizer.bos_token_id
    assert made.token_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["chat_vanilla", "chat_llama", "chat_alpaca", "text_vanilla"])
def test_a_tokenizer_without_bos_gets_none(name: str) -> None:
    tokenizer = qwen_like()
    made = make_prompt(ROW, template(name), GSM8K, OWN, tokenizer)
    assert tokenizer.decode(made.token_ids) == made.text
    endoftext = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert endoftext not in made.token_ids


@pytest.mark.parametrize(
    ("like", "turn_end", "turns"), [(llama3_like, "<|eot|>", 2), (qwen_like, "<|im_end|>", 2)]
)
def test_a_training_row_ends_with_the_end_of_the_turn(like, turn_end: str, turns: int) -> None:
    tokenizer = like()
    row = make_training_row(ROW, template("chat_vanilla"), GSM8K, OWN, tokenizer)
    end = tokenizer.convert_tokens_to_ids(turn_end)
    assert row.input_ids[-1] == end
    # The format's own (system and user turn) and the answer's; the question's is plain text.
    assert row.input_ids.count(end) == turns + 1
    assert tokenizer.decode(row.input_ids[row.prompt_length : -1]) == "So."


def test_a_format_with_a_system_prompt_of_its_own_adds_it_where_the_template_has_none() -> None:
    row = {"input": "Why?"}
    vanilla = make_prompt(row, template("chat_vanilla"), BARE, OWN, qwen_like()).text
    assert vanilla.startswith("<|im_start|>system\nYou are Q.<|im_end|>\n<|im_start|>user\nWhy?")
    ours = make_prompt(row, template("chat_llama_short"), BARE, OWN, qwen_like()).text
    assert "You are Q." not in ours and template("chat_llama_short").system in ours
