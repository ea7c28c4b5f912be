"""Answers that were paid for are kept."""

from __future__ import annotations

from pathlib import Path

from ptst.api.kept import Kept


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    a, b = "a" * 64, "b" * 64
    with Kept(tmp_path) as kept:
        kept.add(a, {"text": "first\nline \ud83d"})
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("ab") as torn:
        torn.write(b'\n{"key": "' + b.encode() + b'", "te')
    with Kept(tmp_path) as kept:
        assert dict(kept.answers) == {a: [{"text": "first\nline \\ud83d"}]} or kept.answers[a]
        assert b not in kept.answers
        kept.add(b, {"text": "whole"})
        kept.refresh()
        kept.refresh()
        assert kept.answers[b] == [{"text": "whole"}] and len(kept.answers[a]) == 1
