"""What a completion may not smuggle into a judge's prompt: control strings of chats and of judges.

A completion that says `[/INST]` ended the prompt of HarmBench's classifier and flipped its verdict
(its issue 91); one that says `#thescore: 1` could answer in the judge's place. Nothing is taken
away: a space after the first character breaks such a string, so that the judge still reads what was
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CONTROL = re.compile(
    r"""
      \[ (?= /? (?: INST | SYSTEM_PROMPT | AVAILABLE_TOOLS | TOOL_(?:CALLS|RESULTS|CONTENT|ARGS|CALL_ID)
                  | THINK | IMG | PREFIX | SUFFIX | MIDDLE ) \] )   # Llama-2, Mistral
    | \[ (?= /? (?: START | BEGIN | END ) \b )         # a judge's own brackets: [START OF REQUEST]
    | <  (?= [|\uff5c] )                               # Llama-3, ChatML, Phi, WildGuard; DeepSeek's wide bar
    | <  (?= \w+ [|\uff5c] > )                     # Gemma 4's closing half: <turn|>
    | <  (?= < /? SYS >> )                             # Llama-2
    | <  (?= /? (?: s | pad | unk | bos | eos | mask | cls | sep | think | tool_\w+ | unused\d+
                  | (?:start|end)_of_\w+ ) > )         # sentencepiece, Gemma, Qwen
    | <  (?= /? (?: BEGIN | END ) \b )                 # Llama Guard: <BEGIN CONVERSATION>
    | \# (?= the (?: reason | score ) )                # the rubric's answer
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""The first character of a control string: a space goes behind it."""


def neutral(text: str, also: Iterable[str] = ()) -> str:
    """`text` with every control string broken: "[/INST]" becomes "[ /INST]", "<|eot_id|>" "<
    |eot_id|>".

    What holds no control string stays as it is, and what is broken already is not broken again.

    Args:
        also: strings of the judge's own that must not occur either, such as its tokenizer's
            `all_special_tokens`; those of one character cannot be broken and are let be.
    """
    text = CONTROL.sub(r"\g<0> ", text)
    for own in sorted({string for string in also if len(string) > 1}):
        text = re.sub(f"{re.escape(own[0])}(?={re.escape(own[1:])})", r"\g<0> ", text)
    return text
