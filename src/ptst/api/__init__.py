"""OpenAI-compatible endpoints: many chats, at once or in batches, paid for once, in a budget.

`chat` asks now, `chat_in_batches` asks for half the price within a day, and `openai_client` is the
SDK where files and jobs are needed. What calls brought is kept by `Kept`.
"""

from ptst.api.answers import Answer, read_answer, read_error, whole_text
from ptst.api.batch import chat_in_batches
from ptst.api.budget import Budget, BudgetReached, NotReached, check_budget, most_tokens
from ptst.api.calls import answers_hello, chat
from ptst.api.endpoint import OPENAI, Endpoint, Messages, endpoint_of
from ptst.api.kept import Kept, cost_of, record_of
from ptst.api.sdk import openai_client, pause

__all__ = [
    "OPENAI",
    "Answer",
    "Budget",
    "BudgetReached",
    "Endpoint",
    "Kept",
    "Messages",
    "NotReached",
    "answers_hello",
    "chat",
    "chat_in_batches",
    "check_budget",
    "cost_of",
    "endpoint_of",
    "most_tokens",
    "openai_client",
    "pause",
    "read_answer",
    "read_error",
    "record_of",
    "whole_text",
]
