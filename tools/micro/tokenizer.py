"""The micro model's tokenizer: byte-level BPE, digits apart, with Llama-2's control tokens."""

from typing import Any

VOCABULARY = 1280
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
MAX_LENGTH = 2048

#: Llama-2's chat format. The template writes the first <s> itself, as Llama-2's own does.
CHAT_TEMPLATE = """\
{%- if messages[0].role == 'system' -%}
{%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set system = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
{%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('after an optional system message, user and assistant take turns') -}}
{%- endif -%}
{%- if turn.role == 'user' -%}
{{- bos_token + '[INST] ' + (system if loop.first else '') + turn.content + ' [/INST]' -}}
{%- else -%}
{{- ' ' + turn.content + eos_token + ('' if loop.last else ' ') -}}
{%- endif -%}
{%- endfor -%}
"""


def train_tokenizer(texts: list[str]) -> Any:
    """A `PreTrainedTokenizerFast` whose vocabulary is learned from the texts.

    All 256 bytes are in the vocabulary, so any text can be written; `tokenizer(text)` puts one BOS
    in front.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
