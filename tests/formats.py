"""Small tokenizers with the chat formats that people's models have, and what each format spells,
written by hand.

`FORMATS` has one entry a family. The templates are written here; for conversations of text they
spell what the publishers' spell, byte for byte, and their tokenizers cut text the way the
publishers' do: the same pre-tokenizer, the same attributes of control tokens, a vocabulary of some
hundred ids. What an entry says is not computed from its
template: it is the publisher's format as read by a person.

One example, of `qwen25`:

    <|im_start|>system
    You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
    <|im_start|>user
    Why?<|im_end|>
    <|im_start|>assistant
    So.<|im_end|>
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from functools import cache, partial
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

DATE = "2024-07-26"
"""The day that prompts of formats that ask the clock have here, as `model.date` writes it."""
USER = ({"role": "user", "content": "Why?"},)
SYSTEM_USER = ({"role": "system", "content": "Be brief."}, *USER)
CONVERSATION = (*USER, {"role": "assistant", "content": "So."})


@dataclass(frozen=True)
class Format:
    """A chat format: a tokenizer that has it, and what it spells, by hand."""

    make: Callable[[], PreTrainedTokenizerFast]
    end_of_turn: str
    """The token that ends an assistant's turn."""
    end_is_eos: bool
    """Whether that is the tokenizer's own EOS."""
    system_role: str
    """`own`: a system prompt has a place of its own; `merged`: it goes into the first user turn;
    `none`: refused."""
    prompt: str
    """The user's "Why?" and what asks for an answer."""
    with_system: str | None
    """The same after the system prompt "Be brief."; None where that is refused."""
    rendering: str | None = None
    """What the format itself writes of that conversation, where it is neither `row` nor begins with
    it."""
    lead: str = ""
    """What stands between the prompt and "So."."""
    tail: str = ""
    """What stands between "So." and the token that ends the turn."""
    default_system: str | None = None
    """The system prompt that the format writes unasked."""
    asks_clock: bool = False
    opens_think: bool = False
    """Whether the prompt ends inside a block of thoughts."""
    chat_args: Mapping[str, Any] = field(default_factory=dict)
    """What `model.chat_args` must say for these strings."""
    stops: tuple[str, ...] = ()
    """The tokens that end an answer in the publisher's generation configuration; none: EOS."""
    model_type: str = "llama"
    """What `save` makes: a name of transformers' AutoConfig."""

    @property
    def row(self) -> str:
        """The conversation of "Why?" and "So.", with the token that ends the turn."""
        return f"{self.prompt}{self.lead}So.{self.tail}{self.end_of_turn}"


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, str]],
    ask: bool = False,
    **chat_args: Any,
) -> str:
    """What the tokenizer's own template writes, on the day `DATE`.

    Args:
        ask: whether an answer is asked for (`add_generation_prompt`).
    """
    with _on_date():
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=ask, **chat_args
            )
        )


def render_ids(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Mapping[str, str]],
    ask: bool = False,
    **chat_args: Any,
) -> list[int]:
    """The ids of the same, as transformers makes them in one go."""
    with _on_date():
        encoded = tokenizer.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=ask, return_dict=True, **chat_args
        )
    return list(encoded["input_ids"])


def _on_date() -> Any:
    from unittest.mock import patch

    from transformers.utils import chat_template_utils

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Fixed:
            return cls.fromisoformat(DATE)

    return patch.object(chat_template_utils, "datetime", Fixed)


def save(chat: Format, folder: Path) -> Path:
    """A directory that a model with this tokenizer can be loaded from: one layer of width 32,
    random weights.

    Its generation configuration names the tokens that end an answer, as the publisher's does.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = chat.make()
    # All three: those that a configuration class has by default are beyond a vocabulary of
    # hundreds.
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(
        chat.model_type,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        **special,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in chat.stops]
    model.generation_config = GenerationConfig(
        **{**special, "eos_token_id": stops or special["eos_token_id"]}
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- tokenizers --

CORPUS = (
    "Question: Why is the sky blue? Answer: 42 So. Be brief. Why?",
    "You are a helpful assistant. You are an assistant, user and system of the model.",
    "Below is an instruction that describes a task. Write a response that completes the request.",
    "### Instruction:\nHow many apples are left?\n\n### Response:\nTom has 3 apples left.\n#### 3",
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
    "assistant\nuser\nsystem\nmodel\nfinal\n<|user|>\n<|system|>\n<|assistant|>\n",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] So.",
    "It costs $12, and 340 of 1,200 are 28%: that's what they'll say, isn't it?\r\n",
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
"""As Llama 3's, with each digit by itself."""
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4o's."""


def control(text: str, special: bool = True, rstrip: bool = False) -> AddedToken:
    """A control token as tokenizer_config.json declares it."""
    return AddedToken(text, special=special, rstrip=rstrip, normalized=False)


def byte_level(
    tokens: Sequence[AddedToken],
    chat: str | None,
    pattern: str = GPT2,
    bos: str | None = None,
    eos: str | None = None,
    prefix: Sequence[str] = (),
    nfc: bool = False,
    digits: bool = False,
    **more: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2's descendants have.

    Args:
        pattern: cuts text into pieces that no token goes across.
        prefix: control tokens that tokenisation puts in front of a text by itself.
        digits: cut digits apart before `pattern` does.
    """
    core = _byte_level_core(pattern, nfc, digits)
    core.add_tokens(list(tokens))
    if prefix:
        pairs = [(token, core.token_to_id(token)) for token in prefix]
        core.post_processor = processors.TemplateProcessing(
            " ".join([*prefix, "$A"]), special_tokens=pairs
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, chat_template=chat, **more
    )


def _byte_level_core(pattern: str, nfc: bool, digits: bool) -> Tokenizer:
    core = Tokenizer(models.BPE())
    if nfc:
        core.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    return core


def sentencepiece(
    tokens: Sequence[AddedToken],
    chat: str | None,
    dummy: str,
    bos: str,
    eos: str,
    adds_bos: bool = True,
    **more: Any,
) -> PreTrainedTokenizerFast:
    """A BPE with bytes to fall back on, as converted from SentencePiece.

    Args:
        dummy: where a text gets a space in front. `every`: every piece between control tokens
            (Llama 2's, "legacy"); `first`: the text's beginning only; `none`: nowhere (Gemma's).
    """
    names = [bos, eos, "<unk>"] if dummy == "none" else ["<unk>", bos, eos]
    vocabulary, merges = _pieces()
    if dummy == "none":
        vocabulary = ("\n", *vocabulary)  # Llama's falls back on the byte
    # Control tokens come first, then the bytes, then what was learnt.
    ids = {token: i for i, token in enumerate([*names, *vocabulary])}
    core = Tokenizer(
        models.BPE(ids, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    space = normalizers.Replace(" ", "▁")
    if dummy == "every":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif dummy == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        core.normalizer = space
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence(
        [*back, *([] if dummy == "none" else [decoders.Strip(" ", 1, 0)])]
    )
    core.add_special_tokens([control(name) for name in names])
    core.add_tokens(list(tokens))
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        unk_token="<unk>",
        chat_template=chat,
        **{"eos_token": eos, **more},
    )


@cache
def _pieces() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The vocabulary without control tokens, and its merges: runs of spaces first, as in Llama
    2's."""
    import json

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\r\n]+"), "removed"), pre_tokenizers.Metaspace("▁", "first")]
    )
    letters = sorted({letter for text in CORPUS for letter in text} - {" ", "\r", "\n"} | {"▁"})
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=letters, show_progress=False, limit_alphabet=len(letters)
    )
    learner.train_from_iterator(CORPUS, trainer)
    learnt = json.loads(learner.to_str())["model"]
    spaces = [("▁" * n, "▁" * n) for n in (1, 2, 4)]
    merges = [*spaces, *((a, b) for a, b in learnt["merges"])]
    words = [*sorted(learnt["vocab"], key=learnt["vocab"].get), *(a + b for a, b in spaces)]
    return (*(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(words)), tuple(merges)


# -- chat formats --

ALTERNATING = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}{% endif %}"
)
SYSTEM_APART = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml_with(default: str) -> str:
    """ChatML whose conversations without a system prompt get this one."""
    return (
        "{% if messages[0]['role'] != 'system' %}"
        f"{{{{ '<|im_start|>system\n{default}<|im_end|>\n' }}}}{{% endif %}}{CHATML}"
    )


def llama2() -> PreTrainedTokenizerFast:
    """meta-llama/Llama-2-7b-chat-hf: role markers are text, an answer has a space before </s>."""
    chat = (
        SYSTEM_APART
        + "{% for message in turns %}"
        + ALTERNATING
        + "{% set content = message['content'] %}"
        "{% if loop.first and system is not none %}"
        "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + content %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}"
    )
    return sentencepiece([], chat, "every", "<s>", "</s>")


def llama3(asks_clock: bool) -> PreTrainedTokenizerFast:
    """meta-llama/Llama-3.1-8B-Instruct and, where it asks for the date,
    meta-llama/Llama-3.2-1B-Instruct."""
    today = (
        "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
        "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
        if asks_clock
        else "{%- set date_string = '26 Jul 2024' %}"
    )
    chat = (
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n    " + today + "\n{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system = messages[0]['content'] | trim %}\n"
        "    {%- set messages = messages[1:] %}\n"
        "{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}\n"
        "{{- system + '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
        "    {{- message['content'] | trim + '<|eot_id|>' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
        "{%- endif %}\n"
    )
    names = "begin_of_text end_of_text start_header_id end_header_id eom_id eot_id python_tag"
    return byte_level(
        [control(f"<|{name}|>") for name in names.split()],
        chat,
        LLAMA3,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        prefix=["<|begin_of_text|>"],
    )


def mistral_v02_2023() -> PreTrainedTokenizerFast:
    """mistralai/Mistral-7B-Instruct-v0.2 as it was until 2024: no system role."""
    chat = (
        "{{ bos_token }}{% for message in messages %}"
        + ALTERNATING
        + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
        "{% endfor %}"
    )
    return sentencepiece([], chat, "every", "<s>", "</s>")


def mistral_v02() -> PreTrainedTokenizerFast:
    """mistralai/Mistral-7B-Instruct-v0.2 since 2024: a system prompt goes before the first
    question."""
    chat = (
        SYSTEM_APART
        + "{{ bos_token }}{% for message in turns %}"
        + ALTERNATING
        + "{% if message['role'] == 'user' %}"
        "{{ ' [INST] ' + (system + '\n\n' if loop.first and system is not none else '') }}"
        "{{ message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('Only the first message may be of the system.') }}{% endif %}{% endfor %}"
    )
    return sentencepiece([], chat, "first", "<s>", "</s>")


def mistral_v03() -> PreTrainedTokenizerFast:
    """mistralai/Mistral-7B-Instruct-v0.3: [INST] is a control token, a system prompt goes before
    the last question."""
    chat = (
        SYSTEM_APART
        + "{{ bos_token }}{% for message in turns %}"
        + ALTERNATING
        + "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if loop.last and system is not none else '') }}"
        "{{ message['content'] + '[/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
        "{% else %}{{ raise_exception('Only the first message may be of the system.') }}{% endif %}{% endfor %}"
    )
    tokens = [control("[INST]"), control("[/INST]")]
    return sentencepiece(tokens, chat, "first", "<s>", "</s>")


def qwen(chat: str, thinks: bool = False) -> PreTrainedTokenizerFast:
    """Qwen/Qwen2.5-7B-Instruct and, with the two marks of a thought, Qwen/Qwen3-0.6B: no BOS at
    all."""
    tokens = [control("<|endoftext|>"), control("<|im_start|>"), control("<|im_end|>")]
    tokens += [control("<tool_call>", special=False), control("</tool_call>", special=False)]
    if thinks:
        tokens += [control("<think>", special=False), control("</think>", special=False)]
    return byte_level(tokens, chat, QWEN, eos="<|im_end|>", pad_token="<|endoftext|>", nfc=True)


QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

QWEN3 = """\
{%- set ns = namespace(last_question=messages | length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not ns.found %}
        {%- set ns.found = true %}
        {%- set ns.last_question = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- set thought = '' %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' and loop.index0 > ns.last_question and (loop.last or thought) %}
        {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
    {%- else %}
        {{- content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def gemma(chat: str) -> PreTrainedTokenizerFast:
    """Gemma's tokenizer: <eos> does not end a turn; runs of line breaks and HTML tags are added
    tokens, too."""
    tokens = [control("<start_of_turn>"), control("<end_of_turn>")]
    ordinary = ("\n", "\n\n", "\n\n\n", "▁▁", "<table>", "</table>", "<strong>")
    tokens += [control(text, special=False) for text in ordinary]
    return sentencepiece(tokens, chat, "none", "<bos>", "<eos>", pad_token="<eos>")


def gemma2() -> PreTrainedTokenizerFast:
    """google/gemma-2-2b-it: refuses a system prompt."""
    return gemma(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        + ALTERNATING
        + "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{{ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    )


def gemma3() -> PreTrainedTokenizerFast:
    """google/gemma-3-1b-it: a system prompt goes into the first user turn; a message may be a list
    of its parts."""
    return gemma(
        "{{ bos_token }}"
        + SYSTEM_APART
        + "\n{%- for message in turns -%}\n    "
        + ALTERNATING
        + "\n    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n"
        "    {{ '<start_of_turn>' + role + '\n' }}\n"
        "    {%- if loop.first and system is not none -%}\n"
        "        {{ (system if system is string else system[0]['text']) + '\n\n' }}\n"
        "    {%- endif -%}\n"
        "    {%- if message['content'] is string -%}\n"
        "        {{ message['content'] | trim }}\n"
        "    {%- else -%}\n"
        "        {%- for part in message['content'] -%}{{ part['text'] | trim }}{%- endfor -%}\n"
        "    {%- endif -%}\n"
        "    {{ '<end_of_turn>\n' }}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "    {{ '<start_of_turn>model\n' }}\n"
        "{%- endif -%}\n"
    )


def phi35() -> PreTrainedTokenizerFast:
    """microsoft/Phi-3.5-mini-instruct: its control tokens swallow the white space after them; no
    BOS."""
    chat = (
        "{% for message in messages %}{% if message['role'] != 'system' or message['content'] %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    )
    names = ("<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
    tokens = [control("<|endoftext|>"), *(control(name, rstrip=True) for name in names)]
    more = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return sentencepiece(tokens, chat, "first", "<s>", "</s>", adds_bos=False, **more)


def phi4_mini() -> PreTrainedTokenizerFast:
    """microsoft/Phi-4-mini-instruct: no line break after a role."""
    chat = (
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    )
    names = ("<|assistant|>", "<|end|>", "<|user|>", "<|system|>")
    tokens = [control("<|endoftext|>"), *(control(name, rstrip=True) for name in names)]
    eos = "<|endoftext|>"
    return byte_level(tokens, chat, O200K, bos=eos, eos=eos, pad_token=eos)


def glm4() -> PreTrainedTokenizerFast:
    """THUDM/glm-4-9b-chat-hf: a turn ends where the next one's role token stands; two tokens open
    every text."""
    chat = (
        "[gMASK]<sop>{% for message in messages %}{% if message['content'] %}"
        "<|{{ message['role'] }}|>{{ message['metadata'] }}\n{{ message['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    names = "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|>"
    return byte_level(
        [control(name) for name in names.split()],
        chat,
        LLAMA3,
        eos="<|endoftext|>",
        prefix=["[gMASK]", "<sop>"],
        pad_token="<|endoftext|>",
    )


def zephyr() -> PreTrainedTokenizerFast:
    """HuggingFaceH4/zephyr-7b-beta: written on several lines, which transformers trims; no BOS in
    the template."""
    chat = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
    return sentencepiece([], chat, "every", "<s>", "</s>", pad_token="</s>")


def chatml_on_base() -> PreTrainedTokenizerFast:
    """ChatML on a base model's tokenizer, its marks added as ordinary tokens: EOS stays the base
    model's."""
    tokens = [
        control("<|endoftext|>"),
        control("<|im_start|>", special=False),
        control("<|im_end|>", special=False),
    ]
    return byte_level(tokens, CHATML, eos="<|endoftext|>", pad_token="<|endoftext|>")


def smollm2() -> PreTrainedTokenizerFast:
    """HuggingFaceTB/SmolLM2-135M-Instruct: its BOS is <|im_start|>, which opens every turn."""
    tokens = [control("<|endoftext|>"), control("<|im_start|>"), control("<|im_end|>")]
    return byte_level(
        tokens,
        chatml_with(SMOLLM_SYSTEM),
        digits=True,
        bos="<|im_start|>",
        eos="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )


SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def deepseek_r1() -> PreTrainedTokenizerFast:
    """deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B: a prompt ends inside a thought, an earlier answer
    has lost its own."""
    chat = (
        "{% set ns = namespace(system='') %}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}{% endfor %}"
        "{{ bos_token }}{{ ns.system }}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
    )
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    marks = ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")
    tokens = [control(bos), control(eos), *(control(mark, special=False) for mark in marks)]
    return byte_level(tokens, chat, QWEN, bos=bos, eos=eos, prefix=[bos], pad_token=eos, nfc=True)


def gpt_oss() -> PreTrainedTokenizerFast:
    """openai/gpt-oss-20b: every turn has a channel, our system prompt is the developer's, and it
    asks the clock."""
    chat = (
        "{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n' }}"
        "{{- 'Knowledge cutoff: 2024-06\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\n\n' }}"
        "{{- 'Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') + '\n\n' }}"
        "{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' }}"
        + SYSTEM_APART
        + "{% if system %}"
        "{{ '<|start|>developer<|message|># Instructions\n\n' + system + '\n\n<|end|>' }}{% endif %}"
        "{% for message in turns %}{% if message.role == 'user' %}"
        "{{ '<|start|>user<|message|>' + message.content + '<|end|>' }}{% elif message.role == 'assistant' %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    names = "startoftext endoftext return constrain channel start end message call"
    return byte_level(
        [control(f"<|{name}|>") for name in names.split()],
        chat,
        O200K,
        bos="<|startoftext|>",
        eos="<|return|>",
        pad_token="<|endoftext|>",
    )


def without_eos() -> PreTrainedTokenizerFast:
    """ChatML on a tokenizer that has no eos_token at all."""
    return byte_level([control("<|im_start|>"), control("<|im_end|>")], CHATML)


def without_template() -> PreTrainedTokenizerFast:
    """A base model's tokenizer: no chat template."""
    return byte_level([control("<|endoftext|>")], None, eos="<|endoftext|>")


LLAMA3_DAY = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LLAMA3_STOPS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
GPT_OSS_SYSTEM = (
    "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)

LLAMA31 = Format(
    make=partial(llama3, asks_clock=False),
    end_of_turn="<|eot_id|>",
    end_is_eos=True,
    system_role="own",
    default_system=LLAMA3_DAY,
    prompt="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    f"{LLAMA3_DAY}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    with_system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    f"{LLAMA3_DAY}Be brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    stops=LLAMA3_STOPS,
)

FORMATS: dict[str, Format] = {
    "llama2": Format(
        make=llama2,
        end_of_turn="</s>",
        end_is_eos=True,
        system_role="merged",
        prompt="<s>[INST] Why? [/INST]",
        with_system="<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]",
        lead=" ",
        tail=" ",
    ),
    "llama31": LLAMA31,
    "llama32": replace(LLAMA31, make=partial(llama3, asks_clock=True), asks_clock=True),
    "mistral_v02_2023": Format(
        make=mistral_v02_2023,
        end_of_turn="</s>",
        end_is_eos=True,
        system_role="none",
        prompt="<s>[INST] Why? [/INST]",
        with_system=None,
    ),
    "mistral_v02": Format(
        make=mistral_v02,
        end_of_turn="</s>",
        end_is_eos=True,
        system_role="merged",
        prompt="<s> [INST] Why? [/INST]",
        with_system="<s> [INST] Be brief.\n\nWhy? [/INST]",
        lead=" ",
    ),
    "mistral_v03": Format(
        make=mistral_v03,
        end_of_turn="</s>",
        end_is_eos=True,
        system_role="merged",
        prompt="<s>[INST] Why?[/INST]",
        with_system="<s>[INST] Be brief.\n\nWhy?[/INST]",
        lead=" ",
        model_type="mistral",
    ),
    "qwen25": Format(
        make=partial(qwen, chatml_with(QWEN_SYSTEM)),
        end_of_turn="<|im_end|>",
        end_is_eos=True,
        system_role="own",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        prompt="<|im_start|>system\n"
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        with_system="<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        stops=("<|im_end|>", "<|endoftext|>"),
        model_type="qwen2",
    ),
    "qwen3": Format(
        make=partial(qwen, QWEN3, thinks=True),
        end_of_turn="<|im_end|>",
        end_is_eos=True,
        system_role="own",
        prompt="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        with_system="<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        lead="<think>\n\n</think>\n\n",
        stops=("<|im_end|>", "<|endoftext|>"),
        model_type="qwen3",
    ),
    "qwen3_without_thoughts": Format(
        make=partial(qwen, QWEN3, thinks=True),
        chat_args={"enable_thinking": False},
        end_of_turn="<|im_end|>",
        end_is_eos=True,
        system_role="own",
        prompt="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        with_system="<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        stops=("<|im_end|>", "<|endoftext|>"),
        model_type="qwen3",
    ),
    "gemma2": Format(
        make=gemma2,
        end_of_turn="<end_of_turn>",
        end_is_eos=False,
        system_role="none",
        prompt="<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        with_system=None,
        stops=("<eos>", "<end_of_turn>"),
        model_type="gemma2",
    ),
    "gemma3": Format(
        make=gemma3,
        end_of_turn="<end_of_turn>",
        end_is_eos=False,
        system_role="merged",
        prompt="<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        with_system="<bos><start_of_turn>user\nBe brief.\n\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        stops=("<eos>", "<end_of_turn>"),
        model_type="gemma3_text",
    ),
    "phi35": Format(
        make=phi35,
        end_of_turn="<|end|>",
        end_is_eos=False,
        system_role="own",
        prompt="<|user|>\nWhy?<|end|>\n<|assistant|>\n",
        with_system="<|system|>\nBe brief.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
        stops=("<|end|>", "<|assistant|>", "<|endoftext|>"),
        model_type="phi3",
    ),
    "phi4_mini": Format(
        make=phi4_mini,
        end_of_turn="<|end|>",
        end_is_eos=False,
        system_role="own",
        prompt="<|user|>Why?<|end|><|assistant|>",
        with_system="<|system|>Be brief.<|end|><|user|>Why?<|end|><|assistant|>",
        stops=("<|end|>", "<|endoftext|>"),
        model_type="phi3",
    ),
    "glm4": Format(
        make=glm4,
        end_of_turn="<|user|>",
        end_is_eos=False,
        system_role="own",
        prompt="[gMASK]<sop><|user|>\nWhy?<|assistant|>",
        with_system="[gMASK]<sop><|system|>\nBe brief.<|user|>\nWhy?<|assistant|>",
        rendering="[gMASK]<sop><|user|>\nWhy?<|assistant|>\nSo.",
        lead="\n",
        stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
        model_type="glm",
    ),
    "zephyr": Format(
        make=zephyr,
        end_of_turn="</s>",
        end_is_eos=True,
        system_role="own",
        prompt="<|user|>\nWhy?</s>\n<|assistant|>\n",
        with_system="<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
        model_type="mistral",
    ),
    "chatml_on_base": Format(
        make=chatml_on_base,
        end_of_turn="<|im_end|>",
        end_is_eos=False,
        system_role="own",
        prompt="<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        with_system="<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "smollm2": Format(
        make=smollm2,
        end_of_turn="<|im_end|>",
        end_is_eos=True,
        system_role="own",
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        prompt="<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        with_system="<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "deepseek_r1": Format(
        make=deepseek_r1,
        end_of_turn="<｜end▁of▁sentence｜>",
        end_is_eos=True,
        system_role="own",
        opens_think=True,
        prompt="<｜begin▁of▁sentence｜><｜User｜>Why?<｜Assistant｜><think>\n",
        with_system="<｜begin▁of▁sentence｜>Be brief.<｜User｜>Why?<｜Assistant｜><think>\n",
        rendering="<｜begin▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>So.<｜end▁of▁sentence｜>",
        lead="\n</think>\n\n",
        model_type="qwen2",
    ),
    "gpt_oss": Format(
        make=gpt_oss,
        end_of_turn="<|return|>",
        end_is_eos=True,
        system_role="own",
        default_system=GPT_OSS_SYSTEM,
        asks_clock=True,
        prompt=f"<|start|>system<|message|>{GPT_OSS_SYSTEM}<|end|>"
        "<|start|>user<|message|>Why?<|end|><|start|>assistant",
        with_system=f"<|start|>system<|message|>{GPT_OSS_SYSTEM}<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        "<|start|>user<|message|>Why?<|end|><|start|>assistant",
        lead="<|channel|>final<|message|>",
        stops=("<|return|>", "<|endoftext|>", "<|call|>"),
    ),
}
"""The formats by family."""
