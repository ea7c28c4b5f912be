"""What came back: an answer, or one of four kinds of failure, from the bytes that a server sent."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from ptst.redact import redacted

NOTHING_LEFT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes or types of OpenAI's errors for an account that waiting does not fill. The words beside
them do not tell: those of a minute's limit speak of billing, too, where a payment would raise
it."""

ONE_REQUEST = {
    "too_long": ("context_length", "context length", "too long", "request too large"),
    "content_filter": (
        "content_filter",  # OpenAI, Azure, Moonshot
        "content_policy",
        "content management policy",  # Azure
        "content filtering policy",  # Anthropic
        "responsibleaipolicy",  # Azure
        "usage policy",  # OpenAI's reasoning models
        "usage guidelines",  # xAI
        "flagged",  # OpenRouter: 403, with the reasons and the flagged input in its metadata
        "moderation",
        "request blocked",  # OpenRouter's guardrails
        "content exists risk",  # DeepSeek
        "data_inspection_failed",  # Alibaba
        "inappropriate content",
        "considered high risk",  # Moonshot
    ),
}
"""What errors say that are about one request and no other, by the kind of it."""

ACCOUNT = ("your account", "your organization", "suspended", "deactivated")
"""What they say that sound like that, and are about all."""

STOPPED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed")
"""finish_reasons of an answer that the model ended: of OpenAI and most, of TGI, of Anthropic, of
Cohere."""

CUT = ("length", "max_tokens", "model_length", "error_limit")
"""Of one that ended at a limit of tokens. Whatever is neither was filtered, or is an answer of
another kind: content_filter, SAFETY, RECITATION, PROHIBITED_CONTENT, blocked, sensitive,
guardrail_intervened, refusal (of Anthropic's classifiers), tool_calls. New ones come up; none may
become a label."""

BROKEN = ("error", "abort", "insufficient_system_resource", "load")
"""Of one that another call may give: of OpenRouter and Mistral, vLLM, DeepSeek, Ollama."""

OVERLOADED = (408, 409, 425, 429, 503, 529)
"""Statuses that say nothing of the request."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        text: "" where there is no answer.
        finish_reason: stop, length, or what the API says: content_filter, SAFETY, ...
        input_tokens: None where the server does not say, or did not answer.
        output_tokens: as `input_tokens`.
        refused: why there is no answer to this very request (too long, filtered, no text); else "".
    """

    text: str
    finish_reason: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    refused: str = ""


class Again(Exception):
    """A call failed in a way that another may not."""

    def __init__(
        self, said: str, perhaps_paid: bool, wait: float = 0.0, about_it: bool = True
    ) -> None:
        super().__init__(said)
        self.perhaps_paid = perhaps_paid
        self.wait = wait
        self.about_it = about_it
        """Whether the request may be what it failed at, and not the network or the load."""


class NoText(ValueError):
    """A whole answer, paid for, that holds no text and does not say why."""


class Refused(Exception):
    """The endpoint does not take this very request, and never will."""

    def __init__(self, said: str, code: str) -> None:
        super().__init__(said)
        self.code = code


class Hopeless(Exception):
    """No request of this kind can succeed."""


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    """What an HTTP status that is not 200 means for this request and for all others."""
    text = redacted(body.decode(errors="replace"))
    said = f"{status} {text[:500]}"
    kinds: tuple[Any, ...] = ()
    try:
        content = json.loads(text)
        error = content.get("error", content)
        kinds = error.get("code"), error.get("type")
        said = f"{status} {error['message']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # then the body is all there is
    if status == 429 and any(kind in NOTHING_LEFT for kind in kinds):
        return Hopeless(f"the account has nothing left ({said})")
    if status in OVERLOADED or status >= 500:
        return Again(said, False, _retry_after(headers), about_it=status not in OVERLOADED)
    if status in (400, 403, 413, 422, 451):
        # Only what is known to be about this one request: a parameter that a model does not know,
        # say, would otherwise make every score of a run a missing one.
        signs = _signs_in(text)
        for kind, known in ONE_REQUEST.items():
            if any(sign in signs for sign in known) and not any(sign in signs for sign in ACCOUNT):
                return Refused(said, kind)
    hints = {
        401: "the key is not accepted",
        402: "the account has nothing left",
        403: "the key may not do this",
        404: "no such model or address",
    }
    return Hopeless(f"{hints.get(status, 'the request is not accepted')} ({said})")


def _signs_in(text: str) -> str:
    """What an error says of itself, in lower case.

    Of its metadata only the names count, because the values quote the prompt.
    """
    try:
        error = json.loads(text)
        error = error.get("error", error)
        metadata = error.get("metadata")
        told = {name: value for name, value in error.items() if name != "metadata"}
        return json.dumps([told, list(metadata or ())], ensure_ascii=False).lower()
    except (ValueError, AttributeError, TypeError):
        return text.lower()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; 0 where it does not say (RFC 9110, section 10.2.3)."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return 0.0


def whole_text(text: str) -> str:
    """`text` with U+FFFD in the place of lone surrogates.

    JSON can hold half of a surrogate pair (a model that was cut off within an emoji), UTF-8 cannot:
    such an answer could be paid for and never be written down.
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def read_answer(body: bytes) -> Answer:
    """An answer's bytes.

    There is an answer where the model ended it (`STOPPED`), or its length did (`CUT`), and there is
    text; or where it plainly stopped without any. A `refusal` in the place of the content is the
    model's own text. All else is an answer that there is not, with `refused` for the reason:
    filtered, withheld, spent on reasoning.

    Raises:
        ValueError: they are not a whole answer.
        NoText: they are one without text, and do not say why.
        Exception: the error that stands in them, as of `read_error`.
    """
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object: {_shown(body)}")
    choices = content.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        raise ValueError(f"no message in it: {_shown(body)}")
    if error := content.get("error") or choice.get("error"):
        raise _error_within(error, bool(choice))
    usage = content["usage"] if isinstance(content.get("usage"), dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (n if isinstance(n, int) else None for n in counts)
    if not choice:
        if blocked := content.get("promptFeedback") or content.get("prompt_feedback"):
            why = f"the prompt is blocked: {_shown(json.dumps(blocked).encode())}"
            return Answer("", "blocked", read, written, why)
        kind_of = NoText if "choices" in content else ValueError
        raise kind_of(f"no choice in it: {_shown(body)}")
    message = choice.get("message") or {}
    if not isinstance(message, dict):
        raise ValueError(f"no message in it: {_shown(body)}")
    ended = str(choice.get("finish_reason") or "")
    reason = "stop" if ended.lower() in STOPPED else "length" if ended.lower() in CUT else ended
    if ended.lower() in BROKEN:
        raise ValueError(f"finish_reason {ended}")
    if reason not in ("", "stop", "length"):
        reason = _shown(reason.encode(errors="replace"))
        return Answer("", reason, read, written, f"it was withheld (finish_reason {reason})")
    text = _text_of(message.get("content"))
    if text is None:
        raise NoText(f"its content is not text: {_shown(body)}")
    text = text or _text_of(message.get("refusal")) or ""
    if text.strip():
        return Answer(text, reason or "not given", read, written)
    if any(message.get(name) for name in ("reasoning", "reasoning_content")) or reason == "length":
        why = (
            f"no text, only reasoning or nothing, to its end (finish_reason {ended or 'not given'})"
        )
        return Answer("", reason, read, written, why)
    if reason == "stop":
        return Answer(text, reason, read, written)
    raise NoText(f"no text and no finish_reason: {_shown(body)}")


def _shown(body: bytes) -> str:
    """The beginning of what a server said, for messages."""
    return whole_text(redacted(body.decode(errors="replace")))[:200]


def _text_of(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of parts without those of reasoning.

    None where it is neither.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return whole_text(content)
    if not isinstance(content, list):
        return None
    names = {"text": "text", "output_text": "text", "refusal": "refusal"}
    parts = [part for part in content if isinstance(part, dict) and part.get("type") in names]
    return whole_text("".join(str(part.get(names[part["type"]]) or "") for part in parts))


def _error_within(error: Any, begun: bool) -> Exception:
    """What an error means that stands in an answer with status 200, as OpenRouter's do.

    Args:
        begun: it stands beside a choice: the model had begun, so this request is at fault and not
            all of them.
    """
    code = str(error.get("code") if isinstance(error, dict) else "")
    status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500
    found = read_error(status, {}, json.dumps({"error": error}).encode())
    if isinstance(found, Again):
        found.perhaps_paid = True
    if begun and isinstance(found, Hopeless) and status in (400, 403, 413, 422):
        return Refused(str(found), "error")
    return found
