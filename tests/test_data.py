"""Rows come out in our columns whatever the file, and a file's mistakes are named where they
stand."""

from __future__ import annotations

import datetime
import gzip
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FOLDERS, PUBLISHED, ROWS

from ptst import micro
from ptst.config.compose import compose
from ptst.data import identity, load_rows, origin, read_rows
from ptst.errors import ConfigError, DataError
from ptst.schema import Config, Rows

QA = {"input": "question", "output": "answer"}
BOTH = ("input", "output")
TWO = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]


def local(path: Path, columns: dict[str, str] | None = None, **fields: Any) -> Rows:
    """A local source with GSM8K's columns unless told otherwise."""
    given = QA if columns is None else columns
    return Rows(name="mine", source="local", path=str(path), columns=given, **fields)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with exactly this content (no newline is translated)."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: Path, columns: dict[str, list[Any]], **options: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def refused(rows: Rows, *parts: str, needs: tuple[str, ...] = BOTH) -> str:
    """Loading must fail with a message that has every one of `parts`."""
    with pytest.raises(DataError) as caught:
        load_rows(rows, needs)
    message = str(caught.value)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


# Formats


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    files = [
        written(tmp_path, "a.jsonl", jsonl(TWO)),
        written(tmp_path, "a.json", json.dumps(TWO)),
        written(tmp_path, "a.csv", "question,answer\n1+1?,2\n2+2?,4\n"),
        written(tmp_path, "a.tsv", "question\tanswer\n1+1?\t2\n2+2?\t4\n"),
        parquet(tmp_path / "a.parquet", {"question": ["1+1?", "2+2?"], "answer": ["2", "4"]}),
    ]
    expected = [
        {"id": "0", "input": "1+1?", "output": "2"},
        {"id": "1", "input": "2+2?", "output": "4"},
    ]
    for file in files:
        assert load_rows(local(file), BOTH) == expected, file.name


def test_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert len(load_rows(local(written(tmp_path, "a.JSONL", jsonl(TWO))), BOTH)) == 2


def test_folder_is_read_by_split(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", jsonl(TWO))
    written(tmp_path, "test.csv", "question,answer\n9?,9\n")
    assert len(load_rows(local(tmp_path, split="train"), BOTH)) == 2
    assert load_rows(local(tmp_path, split="test"), BOTH)[0]["output"] == "9"


def test_folder_without_the_split_says_what_it_has(tmp_path: Path) -> None:
    written(tmp_path, "training.jsonl", jsonl(TWO))
    refused(local(tmp_path), str(tmp_path), "split train", ".jsonl", "it has: training.jsonl")


def test_folder_with_two_files_for_the_split_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", jsonl(TWO))
    written(tmp_path, "train.csv", "question,answer\n9?,9\n")
    refused(local(tmp_path), "more than one file", "train.jsonl", "train.csv")


def test_path_may_be_relative_or_start_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "a.jsonl", jsonl(TWO))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_rows(local(Path("a.jsonl")), BOTH)) == 2
    assert len(load_rows(local(Path("~/a.jsonl")), BOTH)) == 2


def test_csv_keeps_commas_quotes_and_newlines_inside_fields(tmp_path: Path) -> None:
    content = 'question,answer\r\n"a, ""b""\r\nc",x\r\nd,"y\nz"\r\n'
    rows = load_rows(local(written(tmp_path, "a.csv", content)), BOTH)
    assert [(row["input"], row["output"]) for row in rows] == [('a, "b"\r\nc', "x"), ("d", "y\nz")]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    long = "word " * 60_000
    file = written(tmp_path, "a.csv", f"question,answer\n{long},2\n")
    assert len(load_rows(local(file), BOTH)[0]["input"]) == 300_000


@pytest.mark.parametrize("delimiter", [";", "|"])
def test_fields_may_have_another_delimiter(tmp_path: Path, delimiter: str) -> None:
    text = "question;answer\n1+1, or so?;2\n2+2?;4\n".replace(";", delimiter)
    file = written(tmp_path, "a.csv", text)
    rows = load_rows(local(file, delimiter=delimiter), BOTH)
    assert [(row["input"], row["output"]) for row in rows] == [("1+1, or so?", "2"), ("2+2?", "4")]
    hint = f"delimiter='\"{delimiter}\"'"
    refused(local(file), "2 fields, but 1 column", hint)
    one = written(tmp_path, "b.csv", text.replace(", or so", ""))
    refused(local(one), "no column 'question'", hint)
    refused(local(one, {"input": "0"}, header=False), f"question{delimiter}answer", hint)
    tabs = written(tmp_path, "c.csv", text.replace(", or so", "").replace(delimiter, "\t"))
    refused(local(tabs), "no column 'question'", "name it .tsv")


def test_a_delimiter_is_part_of_the_identity_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", "question,answer\n1,2\n")
    plain = identity(local(file))
    assert "delimiter" not in plain and identity(local(file, delimiter=",")) == plain
    assert identity(local(file, delimiter=";")) == plain | {"delimiter": ";"}
    with pytest.raises(ConfigError, match=r"dataset\.delimiter=;; must be one character"):
        compose(["dataset.delimiter=';;'"])
    assert compose(["dataset.delimiter=';'"]).task["gsm8k"].queries.delimiter == ";"


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_a_file_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    text = {
        "jsonl": jsonl(TWO),
        "json": json.dumps(TWO),
        "csv": "question,answer\n1+1?,2\n2+2?,4\n",
        "tsv": "question\tanswer\n1+1?\t2\n2+2?\t4\n",
    }[suffix]
    plain = written(tmp_path, f"a.{suffix}", text)
    packed = gzip.compress(text.encode(), mtime=0)
    file = written(tmp_path, f"train.{suffix}.gz", packed)
    expected = load_rows(local(plain), BOTH)
    assert load_rows(local(file), BOTH) == load_rows(local(tmp_path), BOTH) == expected
    assert identity(local(file))["suffix"] == f".{suffix}.gz"
    for broken in (packed[:-12], b"no gzip", packed[:20] + b"xx" + packed[22:]):
        refused(local(written(tmp_path, f"b.{suffix}.gz", broken)), f"b.{suffix}.gz", "gzip")


@pytest.mark.parametrize("place", ["", "data", "main"])
def test_a_folder_may_be_as_on_the_hub(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    (tmp_path / "README.md").write_text("---\n---\n")
    questions = [f"{i}?" for i in range(30)]
    for shard in range(3):  # written in another order than they are read
        part = questions[10 * (2 - shard) : 10 * (3 - shard)]
        parquet(folder / f"train-0000{2 - shard}-of-00003.parquet", {"question": part})
    parquet(folder / "test-00000-of-00001-a09b74b3ef9c3b56.parquet", {"question": ["t?"]})
    one = {"input": "question"}
    rows = local(tmp_path, one, subset="main")
    loaded = load_rows(rows, ("input",))
    assert [(row["id"], row["input"]) for row in loaded] == [(str(i), f"{i}?") for i in range(30)]
    drawn = load_rows(local(tmp_path, one, subset="main", n=12), ("input",))
    places = sorted(random.Random(0).sample(range(30), 12))
    assert [row["input"] for row in drawn] == [f"{i}?" for i in places]
    assert load_rows(local(tmp_path, one, subset="main", split="test"), ("input",))[0]["id"] == "0"
    before = identity(rows)
    assert len(before["sha256"]) == 3
    last = folder / "train-00002-of-00003.parquet"
    parquet(last, {"question": ["x?"]})
    assert identity(rows) != before
    refused(
        local(tmp_path, {}, subset="main"), "train-00000-of-00003.parquet, row 1", needs=("input",)
    )
    last.unlink()
    refused(rows, "train", "2 of 3 files", "train-00002-of-00003.parquet")
    other = parquet(folder / "train-00000-of-00004.parquet", {"question": ["x?"]})
    parquet(last, {"question": ["x?"]})
    refused(rows, "train", "not those of one copy", "of-00003", "of-00004")
    other.unlink()
    parquet(last, {"question": ["x?"]})
    written(tmp_path, "train.jsonl", jsonl(TWO))
    refused(rows, "more than one", "train.jsonl", "train-00000-of-00003.parquet")


@pytest.mark.parametrize("first", ["goal", "Prompt", " question "])
def test_a_header_is_not_taken_for_a_query(tmp_path: Path, first: str) -> None:
    file = written(tmp_path, "a.csv", f"{first},target\nhow?,so\n")
    rows = local(file, {"input": "0"}, header=False)
    said = (f"{file}:1", "looks like a header", "header=true", f"columns.input={first.strip()}")
    refused(rows, *said, needs=("input",))
    fine = written(tmp_path, "b.csv", "What is a goal?,target\ngoal,so\n")
    assert len(load_rows(local(fine, {"input": "0"}, header=False), ("input",))) == 2


def test_messages_give_the_override_that_works(
    composed: Callable[..., Config], tmp_path: Path
) -> None:
    file = written(tmp_path, "mine.csv", "ask;kind\nWhy?;a\n")
    start = ["evaluation=[advbench]", "evaluation.advbench.queries.source=local"]
    start += [f"evaluation.advbench.queries.path={file}", "dataset.source=local"]
    trained = written(tmp_path, "rows.csv", "q,a\nWhy?,so\n")
    start += [f"dataset.path={trained}", "dataset.n=null"]

    def message(rows: Callable[[Config], Rows], *more: str) -> str:
        with pytest.raises(DataError) as caught:
            load_rows(rows(composed(*start, *more)), BOTH)
        return str(caught.value)

    def queries(config: Config) -> Rows:
        return config.evaluation["advbench"].queries

    place = "evaluation.advbench.queries"
    said = message(queries)
    delimiter = f'{place}.delimiter=";"'
    assert f"{place}.delimiter='\";\"'" in said  # of which the shell takes the outer quotes
    said = message(queries, delimiter)
    assert f"{place}.columns.input=NAME" in said and f"{place}.header=false" in said
    said = message(queries, delimiter, f"{place}.columns.input=ask")
    output = f"+{place}.columns.output=NAME"
    assert output in said
    given = [delimiter, f"{place}.columns.input=ask", output.replace("NAME", "kind")]
    assert load_rows(queries(composed(*start, *given)), BOTH) == [
        {"id": "0", "input": "Why?", "output": "a"}
    ]
    assert f"{place}.n=null" in message(queries, *given, f"{place}.n=9")
    dataset = message(lambda config: config.dataset)
    assert "dataset.columns.input=NAME" in dataset
    given = ["dataset.columns.input=q", "dataset.columns.output=a"]
    assert len(load_rows(composed(*start, *given).dataset, BOTH)) == 1


def test_csv_without_a_header_numbers_its_columns(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", "one,1\ntwo,2\n")
    rows = load_rows(local(file, {"input": "0"}, header=False), ("input",))
    assert rows == [{"id": "0", "input": "one", "1": "1"}, {"id": "1", "input": "two", "1": "2"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_text_in_its_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    # "Ċ" (U+010A) has the byte 0x0a in UTF-16: no newline, though it looks like one.
    question = "é?" if encoding == "latin-1" else "éĊ?"
    row = {"question": question, "answer": "2"}
    content = {
        "jsonl": json.dumps(row, ensure_ascii=False) + "\n",
        "json": json.dumps([row], ensure_ascii=False),
        "csv": f"question,answer\n{question},2\n",
    }[suffix]
    file = written(tmp_path, f"a.{suffix}", content.encode(encoding))
    assert load_rows(local(file, encoding=encoding), BOTH)[0]["input"] == question


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    text = {"jsonl": jsonl(TWO), "json": json.dumps(TWO), "csv": "question,answer\na,b\n"}[suffix]
    file = written(tmp_path, f"a.{suffix}", text.encode("utf-8-sig"))
    assert set(load_rows(local(file), BOTH)[0]) == {"id", "input", "output"}


# Rows in our columns


def test_only_mapped_columns_become_ours_and_the_rest_is_kept(tmp_path: Path) -> None:
    row = {"id": "x7", "instruction": "Be a doctor.", "question": "Hm?", "type": "safe", "rank": 3}
    file = written(tmp_path, "a.jsonl", jsonl([row]))
    assert load_rows(local(file, {"input": "question"}), ("input",)) == [
        {
            "id": "0",
            "input": "Hm?",
            "source_id": "x7",
            "source_instruction": "Be a doctor.",
            "type": "safe",
            "rank": 3,
        }
    ]


def test_a_files_own_id_is_never_taken_for_the_rows_number(tmp_path: Path) -> None:
    rows = [{"id": name, "question": f"{name}?"} for name in ("b", "a", "b", "1")]
    file = written(tmp_path, "a.jsonl", jsonl(rows))
    only = {"input": "question"}
    loaded = load_rows(local(file, only), ("input",))
    assert [(row["id"], row["source_id"]) for row in loaded] == [*zip("0123", "bab1", strict=True)]
    # `where` speaks of the file's columns
    picked = load_rows(local(file, only, where={"id": "1"}), ("input",))
    assert [row["input"] for row in picked] == ["1?"]
    mapped = load_rows(local(file, {"input": "id"}), ("input",))
    assert mapped[0] == {"id": "0", "input": "b", "question": "b?"}


def test_a_column_that_would_take_the_place_of_another_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl([{"id": "x", "source_id": "y", "question": "q"}]))
    said = ("a.jsonl:1", "'source_id'", "'id'", "other name")
    refused(local(file, {"input": "question"}), *said, needs=("input",))


def test_instruction_may_be_empty_or_null(tmp_path: Path) -> None:
    columns = {**QA, "instruction": "system"}
    rows = [{**TWO[0], "system": ""}, {**TWO[0], "system": None}, {**TWO[0], "system": "Be brief."}]
    loaded = load_rows(local(written(tmp_path, "a.jsonl", jsonl(rows)), columns), BOTH)
    assert [row["instruction"] for row in loaded] == ["", "", "Be brief."]


def test_query_set_needs_no_output(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", '{"input": "How?"}\n')
    assert load_rows(local(file, {}), ("input",)) == [{"id": "0", "input": "How?"}]


def test_numbers_become_text(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", '{"question": 12, "answer": 1.5}\n')
    assert load_rows(local(file), BOTH) == [{"id": "0", "input": "12", "output": "1.5"}]


def test_every_row_can_be_written_as_json(tmp_path: Path) -> None:
    when = datetime.date(2024, 2, 28)
    file = parquet(tmp_path / "a.parquet", {"question": ["q"], "when": [when], "tags": [[when]]})
    row = load_rows(local(file, {"input": "question"}), ("input",))[0]
    assert json.loads(json.dumps(row)) == row
    assert row == {"id": "0", "input": "q", "when": "2024-02-28", "tags": ["2024-02-28"]}


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("nan")], {"a": [float("nan")]}])
def test_nan_is_what_is_not_there(tmp_path: Path, value: Any) -> None:
    row = {"question": "q", "rank": value}
    null = json.loads(json.dumps(value).replace("NaN", "null"))
    files = [
        written(tmp_path, "a.jsonl", jsonl([row])),
        written(tmp_path, "a.json", json.dumps([row])),
        parquet(tmp_path / "a.parquet", {"question": ["q"], "rank": [value]}),
    ]
    for file in files:
        (loaded,) = load_rows(local(file, {"input": "question"}), ("input",))
        assert loaded == {"id": "0", "input": "q", "rank": null}, file.name
        json.dumps(loaded, allow_nan=False)
    text = written(tmp_path, "a.csv", "question,rank\nq,NaN\n")  # a CSV file has text alone
    assert load_rows(local(text, {"input": "question"}), ("input",))[0]["rank"] == "NaN"


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "1e999", "[2, Infinity]"])
def test_infinity_is_refused_where_it_is_read(tmp_path: Path, value: str) -> None:
    for column in ("rank", "answer"):
        row = '{"question": "q", "answer": "a"}'[:-1].replace(f'"{column}": "a"', '"x": 1')
        line = f'{row}, "{column}": {value}}}\n'
        file = written(tmp_path, "a.jsonl", line)
        if column == "rank" or "[" not in value:
            refused(local(file, {"input": "question"}), f"{file}:1", repr(column), "infinit")
    if "[" not in value:
        columns = {"question": ["q"], "answer": [float(value)]}
        refused(local(parquet(tmp_path / "a.parquet", columns)), "row 1", "'answer'", "infinit")


# Mistakes, by file, row and column


def test_missing_file_says_what_the_folder_has(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", jsonl(TWO))
    written(tmp_path, "other.txt", "")
    where = str(tmp_path / "trian.jsonl")
    refused(local(tmp_path / "trian.jsonl"), where, "Did you mean", "other.txt, train.jsonl")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    refused(local(tmp_path / "no" / "a.jsonl"), str(tmp_path / "no" / "a.jsonl"), "no file")


BROKEN = {
    # what: name, content, place after the folder, words of the message
    "an unknown suffix": ("a.xlsx", "x", "a.xlsx", ".xlsx", ".jsonl, .json, .csv"),
    "no lines": ("a.jsonl", "", "a.jsonl", "no rows"),
    "an empty list": ("a.json", "[]", "a.json", "no rows"),
    "an empty JSON file": ("a.json", "", "a.json", "no rows"),
    "an empty CSV": ("a.csv", "", "a.csv", "no rows"),
    "a header alone": ("a.csv", "question,answer\n", "a.csv", "no rows"),
    "a value missing": ("a.jsonl", jsonl([*TWO, {"question": "3?"}]), "a.jsonl:3", "no column 'answer'", "'question'"),
    "a column twice": ("a.csv", "question,answer,question\na,b,c\n", "a.csv:1", "twice", "question"),
    "a key twice": ("a.jsonl", jsonl(TWO) + '{"question": "a", "question": "b", "answer": "c"}\n', "a.jsonl:3", "twice", "question"),
    "a field too few": ("a.csv", 'question,answer\n"a\nb",c\nonly one\n', "a.csv:4", "1 fields", "2 columns", "question, answer"),
    "a field too many": ("a.csv", 'question,answer\n"a\nb",c\none,two,three\n', "a.csv:4", "3 fields", "2 columns", "question, answer"),
    "a row over several lines": ("a.csv", 'question,answer\na,b\n"c\nd\ne", \n', "a.csv:3", "column 'answer'", "empty"),
    "an open quote": ("a.csv", 'question,answer\na,b\n"c,d\ne,f\n', "a.csv:3", "not valid CSV"),
    "a broken line": ("a.jsonl", jsonl(TWO) + '{"question": "a",\n', "a.jsonl:3", "not valid JSON"),
    "a line that is no object": ("a.jsonl", '["a", "b"]\n', "a.jsonl:1", "object", "list"),
    "a broken JSON file": ("a.json", '[\n{"a": 1},\n{"a" 2}\n]', "a.json:3", "JSON"),
    "JSON that is no list": ("a.json", '{"data": []}', "a.json", "list of objects", "dict"),
    "something else in a list": ("a.json", json.dumps([*TWO, "three"]), "a.json, row 3", "object", "str"),
    "JSON Lines named .json": ("a.json", jsonl(TWO), "a.json:2", "name it .jsonl"),
    "a NUL byte in JSON Lines": ("a.jsonl", jsonl(TWO) + '{"question": "a\0"}\n', "a.jsonl:3", "NUL"),
    "a NUL byte in CSV": ("a.csv", "question,answer\na,b\nc\0,d\n", "a.csv:3", "NUL"),
    "a NUL byte in JSON": ("a.json", '[\n{},\n{"question": "\0"}]', "a.json:3", "NUL"),
    "an escaped NUL": ("a.jsonl", '{"question": "a\\u0000", "answer": "b"}\n', "a.jsonl:1", "'question'", "NUL"),
    "half a surrogate pair": ("a.jsonl", '{"question": "a", "answer": "\\ud83d"}\n', "a.jsonl:1", "'answer'", "surrogate"),
    "half a pair in a kept column": ("a.jsonl", '{"question": "a", "answer": "b", "note": "\\ud83d"}\n', "a.jsonl:1", "'note'", "surrogate"),
    "no Parquet": ("a.parquet", "no parquet", "a.parquet", "Parquet"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_with_a_file_is_named_with_its_place(tmp_path: Path, what: str) -> None:
    name, content, place, *words = BROKEN[what]
    refused(local(written(tmp_path, name, content)), f"{tmp_path}/{place}", *words)


def test_parquet_without_rows(tmp_path: Path) -> None:
    refused(local(parquet(tmp_path / "a.parquet", {"question": []})), "a.parquet", "no rows")


@pytest.mark.parametrize("empty", ["", " \t\n", None])
def test_empty_value_is_named_by_row_and_column(tmp_path: Path, empty: str | None) -> None:
    file = written(tmp_path, "a.jsonl", jsonl([TWO[0], {**TWO[1], "answer": empty}]))
    refused(local(file), f"{file}:2", "column 'answer'", "empty" if empty is not None else "null")


def test_null_in_parquet_is_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "a.parquet", {"question": ["a", None], "answer": ["b", "c"]})
    refused(local(file), f"{file}, row 2", "column 'question'", "null")


def test_missing_column_lists_what_there_is_and_how_to_map(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", '{"questoin": "a", "answer": "b"}\n')
    refused(
        local(file),
        f"{file}:1",
        "no column 'question'",
        "'questoin', 'answer'",
        "Did you mean 'questoin'?",
        "columns.input=",
    )


def test_unmapped_column_is_looked_for_by_our_name(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", '{"prompt": "a"}\n')
    refused(local(file, {}), "no column 'input'", "'prompt'", "columns.input=", needs=("input",))


@pytest.mark.parametrize("as_folder", [False, True])
def test_csv_that_seems_to_have_no_header_gets_a_hint(tmp_path: Path, as_folder: bool) -> None:
    file = written(tmp_path, "train.csv", "How do I?,Sure\nAnd?,Yes\n")
    rows = local(tmp_path if as_folder else file)
    refused(rows, "'How do I?'", "header=false", "columns.input=0")


def test_columns_given_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl(TWO))
    refused(
        local(file, {"question": "input"}),
        "columns.question",
        "input, output, instruction",
        needs=("input",),
    )


def test_same_column_twice_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "a.parquet"
    table = pyarrow.table([["a"], ["b"], ["c"]], names=["question", "answer", "question"])
    pyarrow.parquet.write_table(table, file)
    refused(local(file), str(file), "twice", "question")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_empty_line_inside_is_an_error_but_not_at_the_end(tmp_path: Path, name: str) -> None:
    head = "" if name == "a.jsonl" else "question,answer\n"
    line = jsonl(TWO[:1]) if name == "a.jsonl" else "1+1?,2\n"
    trailing = written(tmp_path, name, head + line + "\n\r\n")
    assert len(load_rows(local(trailing), BOTH)) == 1
    inside = written(tmp_path, name, head + line + "\n" + line)
    number = 2 + bool(head)
    refused(local(inside), f"{inside}:{number}", "empty line")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_wrong_encoding_is_named_by_line_and_byte(tmp_path: Path, suffix: str) -> None:
    lines = (
        [b'{"question": "a", "answer": "b"}', b'{"question": "caf\xe9", "answer": "b"}']
        if suffix == "jsonl"
        else [b"question,answer", b"caf\xe9,b"]
    )
    content = b"\n".join(lines) + b"\n"
    file = written(tmp_path, f"a.{suffix}", content)
    position = content.index(b"\xe9")
    refused(local(file), f"{file}:2", "0xe9", f"byte {position}", "utf-8", "encoding=")


def test_unknown_encoding(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl(TWO))
    refused(local(file, encoding="uft-8"), str(file), "encoding=uft-8", "not a known encoding")


@pytest.mark.parametrize("value", [["a", "b"], {"text": "a"}])
def test_lists_and_objects_are_no_text(tmp_path: Path, value: Any) -> None:
    file = written(tmp_path, "a.jsonl", jsonl([{"question": value, "answer": "b"}]))
    refused(local(file), f"{file}:1", "'question'", type(value).__name__, "not text")


# The draw


def numbered(folder: Path, count: int) -> Path:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(count)]
    return written(folder, "many.jsonl", jsonl(rows))


def test_draw_is_distinct_rows_in_file_order_with_their_own_ids(tmp_path: Path) -> None:
    file = numbered(tmp_path, 100)
    rows = load_rows(local(file, n=30), BOTH)
    places = [int(row["id"]) for row in rows]
    assert len(set(places)) == 30
    assert places == sorted(places)
    assert places != list(range(30))
    assert [row["input"] for row in rows] == [f"q{i}" for i in places]


def test_draw_depends_on_its_seed_only(tmp_path: Path) -> None:
    file = numbered(tmp_path, 100)
    assert load_rows(local(file, n=30), BOTH) == load_rows(local(file, n=30), BOTH)
    assert load_rows(local(file, n=30), BOTH) != load_rows(local(file, n=30, draw_seed=1), BOTH)


def test_draw_reaches_every_row_about_equally_often(tmp_path: Path) -> None:
    file = numbered(tmp_path, 10)
    counts = [0] * 10
    for seed in range(200):
        for row in load_rows(local(file, n=5, draw_seed=seed), BOTH):
            counts[int(row["id"])] += 1
    # Binomial(200, 1/2): 100 with standard deviation 7.1; the seeds are fixed, so this is no
    # lottery.
    assert all(70 <= count <= 130 for count in counts), counts


def test_drawing_all_rows_is_all_rows(tmp_path: Path) -> None:
    file = numbered(tmp_path, 7)
    assert load_rows(local(file, n=7), BOTH) == load_rows(local(file), BOTH)


def test_drawing_more_than_there_is(tmp_path: Path) -> None:
    file = numbered(tmp_path, 7)
    refused(local(file, n=8), str(file), "n=8", "7")


def test_draw_is_the_one_that_results_were_made_with(tmp_path: Path) -> None:
    drawn = sorted(random.Random(3).sample(range(100), 20))
    file = numbered(tmp_path, 100)
    assert [int(r["id"]) for r in load_rows(local(file, n=20, draw_seed=3), BOTH)] == drawn


def test_every_kind_of_source_draws_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(5000)]
    table = {key: [row[key] for row in rows] for key in ("question", "answer")}
    pairs = [f"q{i},a{i}" for i in range(5000)]
    files = [
        written(tmp_path, "a.jsonl", jsonl(rows)),
        written(tmp_path, "a.json", json.dumps(rows)),
        written(tmp_path, "a.csv", "\n".join(["question,answer", *pairs])),
        parquet(tmp_path / "a.parquet", table, row_group_size=1500),
    ]
    expected = load_rows(local(files[0], n=700), BOTH)
    assert len(expected) == 700
    for file in files[1:]:
        assert load_rows(local(file, n=700), BOTH) == expected, file.name
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    assert load_rows(hub(n=700), BOTH) == expected


def test_rows_that_are_not_drawn_are_not_made(tmp_path: Path) -> None:
    (drawn,) = random.Random(0).sample(range(3), 1)
    lines = ["{not even JSON}\n"] * 3
    lines[drawn] = jsonl(TWO[:1])
    file = written(tmp_path, "a.jsonl", "".join(lines))
    assert load_rows(local(file, n=1), BOTH) == [{"id": str(drawn), "input": "1+1?", "output": "2"}]
    refused(local(file), "not valid JSON")


def test_rows_come_one_at_a_time(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl(TWO) + "{not even JSON}\n")
    rows = read_rows(local(file), BOTH)
    assert [next(rows)["id"], next(rows)["id"]] == ["0", "1"]
    with pytest.raises(DataError, match=r"a\.jsonl:3"):
        next(rows)


# Some of the rows


LABELLED = "question,label\na,safe\nb,unsafe\nc,safe\nd,\ne,safe\n"


def test_where_takes_the_rows_with_a_value_and_keeps_their_ids(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", LABELLED)
    rows = local(file, {"input": "question"}, where={"label": "safe"})
    assert load_rows(rows, ("input",)) == [
        {"id": "0", "input": "a", "label": "safe"},
        {"id": "2", "input": "c", "label": "safe"},
        {"id": "4", "input": "e", "label": "safe"},
    ]
    empty = local(file, {"input": "question"}, where={"label": ""})
    assert [row["input"] for row in load_rows(empty, ("input",))] == ["d"]


def test_where_goes_before_the_draw(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", LABELLED)
    columns = {"input": "question"}
    two = load_rows(local(file, columns, where={"label": "safe"}, n=2), ("input",))
    drawn = sorted(random.Random(0).sample([0, 2, 4], 2))
    assert [int(row["id"]) for row in two] == drawn
    many = local(file, columns, where={"label": "safe"}, n=4)
    refused(many, "n=4", "has 3", "'label': 'safe'", needs=("input",))


def test_where_compares_numbers_and_truths_as_they_are_spelled(tmp_path: Path) -> None:
    rows = [{"input": "a", "level": 1, "ok": True}, {"input": "b", "level": 2, "ok": True}]
    file = written(tmp_path, "a.jsonl", jsonl(rows))
    where = {"level": "2", "ok": "True"}
    assert [r["input"] for r in load_rows(local(file, {}, where=where), ("input",))] == ["b"]


def test_where_that_nothing_fits_shows_what_there_is(tmp_path: Path) -> None:
    file = written(tmp_path, "a.csv", LABELLED)
    columns = {"input": "question"}
    wrong = local(file, columns, where={"label": "Safe"})
    refused(wrong, "no row", "'Safe'", "'safe'", "'unsafe'", needs=("input",))
    column = local(file, columns, where={"lable": "safe"})
    refused(
        column,
        f"{file}:2",
        "where.lable",
        "Did you mean 'label'?",
        "where.lable leaves the condition out",
        needs=("input",),
    )


def test_rows_may_stand_inside_a_json_object(tmp_path: Path) -> None:
    content = {"parameters": {"method": "x"}, "found": {"rows": TWO}}
    file = written(tmp_path, "a.json", json.dumps(content))
    assert load_rows(local(file, records="found.rows"), BOTH)[1]["input"] == "2+2?"
    refused(local(file, records="found.row"), "no key 'row'", "there: rows")
    refused(local(file, records="parameters.method.x"), "no key 'x'", "a str")
    inside = written(tmp_path, "b.json", json.dumps({"about": 1, "rows": TWO}))
    refused(local(inside), "list of objects", "dict", "records=rows")


# What a key is made of


def test_identity_of_a_local_file_is_its_content_not_its_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = written(tmp_path, "a.jsonl", jsonl(TWO))
    copy = written(tmp_path / "folder", "train.jsonl", jsonl(TWO))
    assert identity(local(file)) == identity(local(copy)) == identity(local(copy.parent))
    assert str(tmp_path) not in json.dumps(identity(local(file)))
    changed = written(tmp_path, "b.jsonl", jsonl(TWO[:1]))
    assert identity(local(changed)) != identity(local(file))


def test_identity_has_what_changes_rows_and_nothing_else(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl(TWO))
    plain = identity(local(file))
    assert identity(local(file, draw_seed=5)) == plain
    different = [
        local(file, n=1),
        local(file, n=1, draw_seed=5),
        local(file, {"input": "question"}),
        local(file, encoding="latin-1"),
        local(file, where={"question": "1+1?"}),
        local(file, records="rows"),
    ]
    identities = [plain, *map(identity, different)]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])


def test_identity_of_hub_and_micro() -> None:
    hub = Rows(
        name="gsm8k",
        source="hub",
        path="openai/gsm8k",
        subset="main",
        revision="abc",
        columns=QA,
        n=5,
        draw_seed=2,
    )
    assert identity(hub) == {
        "path": "openai/gsm8k",
        "subset": "main",
        "revision": "abc",
        "split": "train",
        "columns": QA,
        "n": 5,
        "draw_seed": 2,
    }
    assert identity(Rows(name="gsm8k", source="micro", columns=QA, path="not/read")) == {
        "micro": "gsm8k",
        "split": "train",
        "world": micro.WORLD_VERSION,
        "columns": QA,
    }


def test_identity_of_a_url_is_the_url_and_its_hash_and_needs_no_network() -> None:
    url = "https://nowhere.invalid/0123abc/queries.csv"
    rows = Rows(name="q", source="url", path=url, sha256="0" * 64, columns=QA)
    assert identity(rows) == {
        "url": url,
        "file_sha256": "0" * 64,
        "header": True,
        "encoding": "utf-8",
        "columns": QA,
    }


def test_identity_of_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "no.jsonl"))):
        identity(local(tmp_path / "no.jsonl"))


# The hub


def hub(**fields: Any) -> Rows:
    return Rows(**{"name": "gsm8k", "source": "hub", "path": "openai/gsm8k", **fields}, columns=QA)


def test_hub_is_asked_for_exactly_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.Dataset.from_list(TWO)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = load_rows(hub(subset="main", revision="abc", split="test"), BOTH)
    assert asked == [(("openai/gsm8k", "main"), {"split": "test", "revision": "abc"})]
    assert rows == load_rows(hub(), BOTH)
    assert rows[1] == {"id": "1", "input": "2+2?", "output": "4"}
    assert load_rows(hub(n=2), BOTH) == rows
    refused(hub(n=3), "openai/gsm8k", "n=3", "2")


def test_hub_mistakes_are_named_by_row_and_column(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_list([TWO[0], {"question": " ", "answer": "4"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    refused(hub(), "openai/gsm8k train, row 2", "column 'question'", "empty")


def test_hub_without_network_points_to_local_files() -> None:
    # Not faked: conftest puts the hub's own client off line.
    refused(hub(), "openai/gsm8k", "network", "source=local")


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        (
            "Dataset 'openai/gsm8k' is a gated dataset on the Hub. You must be authenticated to "
            "access it.",
            ("https://huggingface.co/datasets/openai/gsm8k", "licence", "hf auth login"),
        ),
        (
            "Dataset 'openai/gsm8k' doesn't exist on the Hub or cannot be accessed.",
            ("doesn't exist", "path=openai/gsm8k", "https://huggingface.co/datasets"),
        ),
        (
            "Dataset scripts are no longer supported, but found gsm8k.py",
            ("https://huggingface.co/datasets/openai/gsm8k", "program", "source=local path=FILE"),
        ),
    ],
)
def test_hub_refusals_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, told: str, parts: tuple[str, ...]
) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError(told)

    monkeypatch.setattr(datasets, "load_dataset", load)
    message = refused(hub(), "openai/gsm8k", *parts)
    assert "network" not in message


def test_unknown_subset_or_split_keeps_the_hubs_own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        raise ValueError("Unknown split \"dev\". Should be one of ['train', 'test'].")

    monkeypatch.setattr(datasets, "load_dataset", load)
    message = refused(hub(split="dev"), "openai/gsm8k", "Unknown split", "['train', 'test']")
    assert "network" not in message


# The micro world


@pytest.mark.parametrize("name", ["gsm8k", "chatdoctor", "openorca"])
def test_shipped_data_sets_load_from_the_micro_world(name: str) -> None:
    config = compose([f"dataset={name}", "dataset.n=50"])
    rows = load_rows(config.dataset, BOTH)
    source = micro.rows(name, "train")  # type: ignore[arg-type]
    columns = config.dataset.columns
    assert len(rows) == 50
    for row in rows:
        for ours, theirs in columns.items():
            assert row[ours] == source[int(row["id"])][theirs]


def test_orca_rows_bring_their_own_system_prompt_and_the_doctor_has_the_papers() -> None:
    orca = load_rows(compose(["dataset=openorca"]).dataset, BOTH)
    assert len({row["instruction"] for row in orca}) > 1
    doctor = compose(["dataset=chatdoctor"]).dataset
    assert all("instruction" not in row for row in load_rows(doctor, BOTH))
    assert doctor.instruction == (
        "You are a doctor. Please answer the medical questions based on the patient's description."
    )


@pytest.mark.parametrize("name", ["hazards", "lookalikes", "howto"])
def test_query_sets_of_the_micro_world(name: str) -> None:
    rows = Rows(name=name, source="micro", split="test", columns={"input": "instruction"})
    loaded = load_rows(rows, ("input",))
    assert len({row["id"] for row in loaded}) == len(loaded) > 0
    assert {"hazard", "kind", "answer"} <= set(loaded[0])  # what its judge reads


def test_unknown_name_or_split_of_the_micro_world() -> None:
    refused(Rows(name="alpaca", source="micro", columns=QA), "alpaca", "gsm8k, chatdoctor")
    refused(Rows(name="gsm8k", source="micro", split="dev", columns=QA), "dev", "train, test")


# The shipped data sets, and real files


def test_shipped_data_sets_name_their_hub_page_and_columns() -> None:
    found = {
        name: (d.path, d.subset, d.columns, d.question)
        for name in ("gsm8k", "chatdoctor", "openorca")
        for d in [compose([f"dataset={name}"]).dataset]
    }
    assert found == {
        "gsm8k": ("openai/gsm8k", "main", QA, "Question: {input}"),
        "chatdoctor": (
            "lavita/ChatDoctor-HealthCareMagic-100k",
            None,
            {"input": "input", "output": "output"},
            "{input}",
        ),
        "openorca": (
            "Open-Orca/OpenOrca",
            None,
            {"input": "question", "output": "response", "instruction": "system_prompt"},
            "{input}",
        ),
    }


@pytest.mark.parametrize(
    ("place", "split", "columns", "header", "needs", "counts"),
    [
        ("gsm8k", "train", QA, True, BOTH, (24, 7473)),
        ("gsm8k", "test", QA, True, BOTH, (8, 1319)),
        ("advbench/harmful_behaviors.csv", "train", {"input": "0"}, False, ("input",), (21, 520)),
        ("xstest/xstest_prompts.csv", "train", {"input": "prompt"}, True, ("input",), (24, 450)),
        (
            "chatdoctor/sample.json",
            "train",
            {"input": "input", "output": "output", "instruction": "instruction"},
            True,
            BOTH,
            (12, 300),
        ),
    ],
)
def test_published_files(
    place: str,
    split: str,
    columns: dict[str, str],
    header: bool,
    needs: tuple[str, ...],
    counts: tuple[int, int],
) -> None:
    for folder in FOLDERS:
        rows = load_rows(local(folder / place, columns, split=split, header=header), needs)
        assert len(rows) == len({row["id"] for row in rows}) == counts[folder == PUBLISHED]


def test_their_rows_are_the_first_and_last_of_their_files() -> None:
    for folder, labels in {ROWS: (16, 8), PUBLISHED: (250, 200)}.items():
        if folder not in FOLDERS:
            continue
        gsm8k = load_rows(local(folder / "gsm8k", split="train"), BOTH)
        assert gsm8k[0]["input"].startswith("Natalia sold clips to 48 of her friends in April")
        assert gsm8k[0]["output"].endswith("#### 72")
        assert "\n" in gsm8k[0]["output"]
        file = folder / "advbench/harmful_behaviors.csv"
        advbench = load_rows(local(file, {"input": "0"}, header=False), ("input",))
        lines = file.read_text(encoding="utf-8").splitlines()
        for row, line in ((advbench[0], lines[0]), (advbench[-1], lines[-1])):
            assert row["input"] == line.strip('"')
        xstest = local(folder / "xstest/xstest_prompts.csv", {"input": "prompt"})
        found = [row["label"] for row in load_rows(xstest, ("input",))]
        assert (found.count("safe"), found.count("unsafe")) == labels


def test_a_published_csv_without_a_header_gets_the_hint() -> None:
    for folder in FOLDERS:
        rows = local(folder / "advbench/harmful_behaviors.csv", {"input": "goal"})
        refused(rows, "harmful_behaviors.csv", "'goal'", "header=false", needs=("input",))


def test_importing_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy'}"
    code = f"import sys, ptst.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


UNSAFE = {"answer": ["I cannot", "unethical"]}


def test_without_leaves_out_rows_with_a_phrase_before_the_draw(tmp_path: Path) -> None:
    answers = ["4", "I CANNOT say.", "it is Unethical", "It\u2019s 5", "i can"]
    rows = [{"question": f"q{i}", "answer": text} for i, text in enumerate(answers)]
    file = written(tmp_path, "a.jsonl", jsonl(rows))
    kept = load_rows(local(file, without=UNSAFE), BOTH)
    assert [(row["id"], row["input"]) for row in kept] == [("0", "q0"), ("3", "q3"), ("4", "q4")]
    apostrophe = load_rows(local(file, without={"answer": ["It's"]}), BOTH)
    assert [row["input"] for row in apostrophe] == ["q0", "q1", "q2", "q4"]
    assert len(load_rows(local(file, without=UNSAFE, n=3), BOTH)) == 3
    refused(local(file, without=UNSAFE, n=4), "has 3 with no phrase of `without`", "n=null")
    refused(local(file, without={"answer": [""]}), "no row", "no phrase of `without`")
    refused(local(file, without={"anser": ["x"]}), "without.anser", "Did you mean 'answer'?")


def test_where_and_without_go_together(tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a, "kind": k} for q, a, k in (("a", "no", "x"), ("b", "yes", "x"), ("c", "yes", "y"))]  # fmt: skip
    file = written(tmp_path, "a.jsonl", jsonl(rows))
    both = local(file, where={"kind": "x"}, without={"answer": ["no"]})
    assert [row["input"] for row in load_rows(both, BOTH)] == ["b"]
    assert origin(both)["left_out"] == 1
    assert "left_out" not in origin(local(file, where={"kind": "x"}))


def test_context_stands_behind_the_input_where_a_row_has_any(tmp_path: Path) -> None:
    """As Alpaca and Dolly have it: an instruction, and perhaps a text that it is about."""
    rows = [{"instruction": "Sum up.", "input": text, "output": "o"} for text in ("A text.", "", None)]  # fmt: skip
    file = written(tmp_path, "a.jsonl", jsonl(rows))
    columns = {"input": "instruction", "output": "output"}
    loaded = load_rows(local(file, columns, context="input"), BOTH)
    assert [row["input"] for row in loaded] == ["Sum up.\n\nA text.", "Sum up.", "Sum up."]
    refused(local(file, columns, context="inptu"), "context=inptu", "Did you mean 'input'?")


def test_without_and_context_are_part_of_the_identity_where_there_are_any(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", jsonl(TWO))
    plain = identity(local(file))
    assert not {"without", "context"} & set(plain)
    assert identity(local(file, without=UNSAFE)) == {**plain, "without": UNSAFE}
    assert identity(local(file, context="answer")) == {**plain, "context": "answer"}
