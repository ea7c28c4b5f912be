"""Four probabilistic context-free grammars, and texts drawn from them.

A grammar has a root, nodes at levels 1 to 3, and letters. Its level-3 nodes are of two sets: those
of A are safe-dominant, those of B unsafe-dominant (arXiv 2407.10264, section 3). A level-2 node is
an ancestor of both, so that a text is drawn from A alone, from B alone, or from both. One of
grammar 0's texts, of B:

    S -> X1 X0 -> Y0 Y1 Y1 -> B0 B1 B0 B1 -> e c a  h g  c d  h g

The paper does not print its rules; these are ours, drawn once from a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from nltk import PCFG

GRAMMARS = 4
LETTERS = "abcdefghij"
SETS = ("A", "B", "AB")
"""Which level-3 nodes a text is drawn from; AB has both."""
SPANS = 4
"""Strings of letters that a level-3 node can become."""
DRAWS = 10_000
"""After so many texts of a wrong length, none is looked for."""
TEST_SHARE = 5
"""A text out of so many is the test's, by its checksum."""


@cache
def rules() -> tuple[str, ...]:
    """The four grammars, as `nltk.PCFG.fromstring` reads them.

    No string of letters belongs to two level-3 nodes, of whichever grammar.
    """
    rng = random.Random("ptst pcfg grammars")
    strings = ["".join(rng.sample(LETTERS, size)) for size in (2, 3) for _ in range(200)]
    strings = list(dict.fromkeys(strings))
    rng.shuffle(strings)
    return tuple(_rules(rng, iter(strings[g * 4 * SPANS :])) for g in range(GRAMMARS))


def _rules(rng: random.Random, strings: Iterator[str]) -> str:
    lines = ["S -> X0 X1 [0.6] | X1 X0 [0.4]"]
    for x in ("X0", "X1"):
        first, second = rng.sample(("Y0", "Y1"), 2)
        lines.append(f"{x} -> {first} [0.4] | {second} [0.3] | {first} {second} [0.3]")
    for y in ("Y0", "Y1"):
        one, other = rng.sample("01", 2)
        halves = [f"{s}{one} {s}{other} [0.3] | {s}{other} {s}{one} [0.2]" for s in "AB"]
        lines.append(f"{y} -> {' | '.join(halves)}")
    for node in ("A0", "A1", "B0", "B1"):
        spans = [" ".join(f"'{letter}'" for letter in next(strings)) for _ in range(SPANS)]
        lines.append(f"{node} -> {' | '.join(f'{span} [{1 / SPANS}]' for span in spans)}")
    return "\n".join(lines)


@cache
def grammar(number: int) -> PCFG:
    """Grammar 0 to 3."""
    from nltk import PCFG

    return PCFG.fromstring(rules()[number])


@cache
def _productions(number: int) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for production in grammar(number).productions():
        right = tuple(str(symbol) for symbol in production.rhs())
        found.setdefault(str(production.lhs()), []).append((right, production.prob()))
    return found


def draw(rng: random.Random, number: int, nodes: str, shortest: int, longest: int) -> str:
    """A text of `shortest` to `longest` letters, whose level-3 nodes are all of the set `nodes`.

    Rules that lead to another set are left out and the rest weighed as they are; a text of "AB" has
    nodes of both sets. Texts of other lengths are drawn again.

    Raises:
        ValueError: there are hardly any texts of such lengths.
    """
    for _ in range(DRAWS):
        text, used = _derive(rng, number, nodes)
        if shortest <= len(text) <= longest and used == set(nodes):
            return text
    raise ValueError(
        f"none of {DRAWS} texts of grammar {number} has {shortest} to {longest} letters; most have 8 to 20."
    )


def _derive(rng: random.Random, number: int, nodes: str) -> tuple[str, set[str]]:
    productions, stack, text, used = _productions(number), ["S"], "", set[str]()
    while stack:
        symbol = stack.pop()
        if symbol not in productions:
            text += symbol
            continue
        used |= {symbol[0]} & set("AB")
        choices = [(r, p) for r, p in productions[symbol] if not _outside(r, nodes)]
        right = rng.choices([r for r, _ in choices], [p for _, p in choices])[0]
        stack += reversed(right)
    return text, used


def _outside(right: Sequence[str], nodes: str) -> bool:
    return any(symbol[0] in "AB" and symbol[0] not in nodes for symbol in right)


def texts(
    seed: str, number: int, nodes: str, count: int, shortest: int, longest: int, test: bool
) -> list[str]:
    """`count` texts, the same for the same seed; no text of training is one of the test."""
    rng = random.Random(f"ptst pcfg {seed} {number} {nodes} {test}")
    found: list[str] = []
    while len(found) < count:
        text = draw(rng, number, nodes, shortest, longest)
        if (crc32(text.encode()) % TEST_SHARE == 0) == test:
            found.append(text)
    return found
