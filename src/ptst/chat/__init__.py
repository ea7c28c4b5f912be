"""How a model spells a conversation, and what its format says.

A model's chat format is Jinja text: its tokenizer's own (`chat: null`), a file, or one of
conf/chat/. What the first two say is found by rendering (see `ptst.chat.formats`).
"""

from ptst.chat.formats import ChatFormat, chat_format, control_strings, notes
from ptst.chat.rendering import render
from ptst.chat.sources import Messages, chat_source, fixed_date, is_ours
from ptst.chat.thinking import CLOSE, OPEN, decode, split_thinking

__all__ = [
    "CLOSE",
    "OPEN",
    "ChatFormat",
    "Messages",
    "chat_format",
    "chat_source",
    "control_strings",
    "decode",
    "fixed_date",
    "is_ours",
    "notes",
    "render",
    "split_thinking",
]
