"""An engine of a user's own, in one file: it answers every question in capitals."""

from dataclasses import dataclass

from ptst.engine import Completion, Engine, Session


@dataclass
class Capitals(Engine):
    reads = "messages"
    has_weights = False
    mark: str = "!"

    def open(self, tested, config, stop) -> Session:
        return Shouting(self.mark)


class Shouting(Session):
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def one(self, prompt, decoding) -> Completion:
        return Completion(prompt[-1]["content"].upper() + self.mark, tokens=None, finished=True)
