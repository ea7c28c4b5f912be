"""Refusal direction: is refusing still mediated by the direction that mediated it before?

Arditi et al. (arXiv 2406.11717) find one direction in the residual stream, the mean of harmful
minus the mean of harmless prompts, without which a chat model answers what it would refuse, and
with which it refuses what it would answer. The direction is chosen on the untuned model; here the
tuned model is looked at beside it. The rule of choice is that of section 2.3 and of
`select_direction` in andyrdt/refusal_direction, with a validation set of our size, and without its
filter of training prompts by their refusal score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ptst.analysis import Analysis, Pair, Point, keep_points
from ptst.component import Context
from ptst.contrast import (
    Asked,
    Contrast,
    first_tokens,
    given,
    halves,
    hooked,
    inputs_of,
    logits_of,
    own_tail,
    read_prompts,
    refusal_scores,
)
from ptst.errors import ConfigError, DataError
from ptst.geometry import decoder_layers
from ptst.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = 0.8
"""Share of the layers, from the first on, that a direction may be taken of."""
MOST_KL = 0.1
"""Nats that the next token of a harmless prompt may differ by when a direction is ablated."""
LEAST_INDUCED = 0.0
"""The refusal score that a direction must give harmless prompts when it is added."""


@dataclass
class RefusalDirection(Contrast, Analysis):
    """Names with `untuned_` are of the untuned model, the others of the model that the cell tests.

    `layer`, `position`: where the direction is taken; of the input of this layer (from 0), at this
    token from the end (-1 is the last). `rule_met`: 1 where the paper's rule has a candidate; 0
    where none passes its bounds, and the one is taken that refuses least when ablated.
    `post_instruction_tokens`: the template's own behind a question; 0: the last token is the
    question's, and the only position.

    `cosine`: of the model's own direction at that place with the untuned model's.
    `projection_unsafe`, `projection_safe`: of states on the untuned model's direction; 0 is where
    the untuned model's safe prompts are, 1 its unsafe ones. `refusal_unsafe`, `refusal_safe`: mean
    refusal score. `ablated_unsafe`, `added_safe`: the same without that direction, and with it
    added. None of these are of prompts that the direction was computed from or chosen by.
    """

    key_name: ClassVar[str] = "refusal_direction"
    fewest: ClassVar[int] = 3

    positions: int = 5
    """Of the post-instruction tokens, how many of the last may be chosen."""
    validation: int = 16
    """Prompts of each kind, at most, by which the direction is chosen; the paper has 32."""

    def check(self, config: Config) -> None:
        """Refuse invented hazards for a real model, and numbers that leave nothing to look at."""
        self.check_prompts(self.where, config)
        for name in ("positions", "validation"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    def of_untuned(self, base: Any, context: Context) -> dict[str, float]:
        """The place that is chosen, and what the untuned model has there."""
        read = _Prompts(self, context)
        means = means_of(base, read.fitted, read.last)
        few = _few(read.choosing, self.validation)

        def tell(done: int, total: int) -> None:
            context.stop_if_asked()
            context.tell(done, total)

        place = choose(base, means.direction, few, read.openings, tell)
        values = look(base, read.scored, place.of(means.direction), place.layer, read.refusals)
        return {**asdict(place), **values}

    def run(self, tuned: Any, base: Any, context: Context) -> dict[str, float]:
        """See `compare`."""
        known = partial(self.of_untuned, base, context)
        return self.compare(Pair(lambda: tuned, lambda: base, known), context)

    def compare(self, pair: Pair, context: Context) -> dict[str, float]:
        """Both models read the prompts, one after the other; nothing is generated."""
        read = _Prompts(self, context)
        known = pair.untuned()
        place = Place(int(known.pop("layer")), int(known.pop("position")), known.pop("rule_met"))
        base = pair.base()
        means = means_of(base, read.fitted, read.last)
        before = means if read.fitted is read.here else means_of(base, read.here, read.last)
        lines = [projections(base, read.scored, means, place)]
        del base
        tuned = pair.tuned()
        after = means_of(tuned, read.here, read.last)
        lines.append(projections(tuned, read.scored, means, place))
        own = look(tuned, read.scored, place.of(means.direction), place.layer, read.refusals)
        cosines = [cosines_of(each.direction, means.direction) for each in (before, after)]
        looks = [
            {
                **{f"projection_{kind}": float(of[place.layer]) for kind, of in line.items()},
                **scores,
            }
            for line, scores in zip(lines, (known, own), strict=True)
        ]
        keep_points(context, _points(cosines[1], lines, looks, place))
        return {
            "layer": float(place.layer),
            "position": float(place.position - read.last),
            "rule_met": float(place.rule_met),
            "post_instruction_tokens": float(read.tail),
            "cosine": float(place.of(cosines[1])),
            "untuned_cosine": float(place.of(cosines[0])),
            **looks[1],
            **{f"untuned_{name}": value for name, value in looks[0].items()},
        }


class _Prompts:
    """The prompts of a comparison, by what they are for: no prompt is in two of `fitted`,
    `choosing` and `scored`."""

    def __init__(self, own: RefusalDirection, context: Context) -> None:
        config, tokenizer, test = context.config, context.tokenizer, context.config.test_template
        under = own.template or test
        self.tail = min(own_tail(template, config, tokenizer) for template in (under, test))
        self.last = max(1, min(self.tail, own.positions))
        asked = others = read_prompts(own, test, config, tokenizer)
        if own.template is not None:
            others = read_prompts(own, own.template, config, tokenizer)
        first, rest = halves(asked, own.seed)
        choosing, scored = halves(_of(asked, rest), own.seed)
        self.here = _of(asked, first)
        self.fitted = self.here if own.template is None else _of(others, first)
        self.choosing = _of(_of(others, rest), choosing)
        self.scored = _of(_of(asked, rest), scored)
        self.openings, self.refusals = (
            first_tokens(own.openings, template, config.model, tokenizer)
            for template in (under, test)
        )


@dataclass(frozen=True)
class Means:
    """Of unsafe and of safe prompts' states, [layer, position, width] each, in double precision."""

    unsafe: Tensor
    safe: Tensor

    @property
    def direction(self) -> Tensor:
        """Their difference."""
        return self.unsafe - self.safe

    def project(self, states: Tensor) -> Tensor:
        """Where states lie between the means of `safe`, 0, and of `unsafe`, 1.

        Args:
            states: [n, layer, position, width].

        Returns:
            [n, layer, position]; 0 where the means are the same.
        """
        squared = self.direction.square().sum(-1)
        found = ((states.double() - self.safe) * self.direction).sum(-1) / squared
        return found.where(squared > 0, 0.0)


@dataclass(frozen=True)
class Place:
    """Where a direction is taken: the input of `layer`, at a position counted from the first that
    may be chosen."""

    layer: int
    position: int
    rule_met: float

    def of(self, everywhere: Tensor) -> Tensor:
        """What [layer, position, ...] has at this place."""
        return everywhere[self.layer, self.position]


def means_of(model: Any, asked: Sequence[Asked], last: int) -> Means:
    """Means over the unsafe and the safe prompts, of the residual stream at the last positions."""
    import torch

    states = inputs_of(model, decoder_layers(model), asked, last).double()
    unsafe = torch.tensor([a.unsafe for a in asked])
    return Means(states[unsafe].mean(0), states[~unsafe].mean(0))


def cosines_of(left: Tensor, right: Tensor) -> Tensor:
    """Of vectors [..., width]; 0 where one of them is 0."""
    norms = left.norm(dim=-1) * right.norm(dim=-1)
    found = ((left * right).sum(-1) / norms).clamp(-1, 1)
    return found.where(norms > 0, 0.0)


def ablated(model: Any, direction: Tensor) -> AbstractContextManager[None]:
    """Take a direction's part out of the residual stream, at every layer and position.

    It is taken out where the stream is read: at each layer's input, at the norms within a layer,
    and behind the last layer. With a norm before attention and before the MLP, that is what the
    paper's hooks on the outputs of both come to.

    Args:
        direction: [width].
    """
    layers = decoder_layers(model)
    unit = (direction / direction.norm()).to(model.device, model.dtype)

    def without(states: Any) -> Any:
        return states - (states @ unit)[..., None] * unit

    readers = [*layers, *(norm for layer in layers for norm in _norms(layer, len(unit)))]
    hooks = (_change_input(reader, without) for reader in readers)
    return hooked([*hooks, layers[-1].register_forward_hook(partial(_change_output, without))])


def added(model: Any, layer: int, direction: Tensor) -> AbstractContextManager[None]:
    """Add a vector to the input of one layer, at every position."""
    vector = direction.to(model.device, model.dtype)
    return hooked([_change_input(decoder_layers(model)[layer], lambda states: states + vector)])


def choose(
    model: Any,
    directions: Tensor,
    asked: Sequence[Asked],
    refusals: Sequence[int],
    tell: Callable[[int, int], None],
) -> Place:
    """The place whose direction, ablated, leaves unsafe prompts the lowest refusal score.

    It must lie in the first 80 % of the layers; ablated, it must change the next token of safe
    prompts by at most 0.1 nats; added, it must give them a refusal score of at least 0. Candidates
    are tried from the best on, which spares the last two for most. Where none passes, it is the
    best.

    Args:
        directions: [layer, position, width]. One that is 0 is no candidate: the template's own
            tokens are the same for all prompts, and so are their embeddings.
        tell: tell(done, total).
    """
    from torch.nn.functional import kl_div

    unsafe, safe = _kinds(asked).values()
    candidates = [
        (layer, position)
        for layer in range(max(1, int(LAYERS * len(directions))))
        for position in range(directions.shape[1])
        if directions[layer, position].any()
    ]
    if not candidates:
        raise DataError("the model has the same states of unsafe and of safe prompts, everywhere.")
    left: dict[tuple[int, int], float] = {}
    for number, candidate in enumerate(candidates):
        tell(number, len(candidates))
        with ablated(model, directions[candidate]):
            left[candidate] = float(refusal_scores(logits_of(model, unsafe), refusals).mean())
    candidates.sort(key=lambda c: left[c])
    plain = logits_of(model, safe).double().log_softmax(1)
    for candidate in candidates:
        with ablated(model, directions[candidate]):
            other = logits_of(model, safe).double().log_softmax(1)
        if float(kl_div(other, plain, reduction="batchmean", log_target=True)) > MOST_KL:
            continue
        with added(model, candidate[0], directions[candidate]):
            induced = refusal_scores(logits_of(model, safe), refusals)
        if float(induced.mean()) >= LEAST_INDUCED:
            return Place(*candidate, 1.0)
    return Place(*candidates[0], 0.0)


def projections(
    model: Any, asked: Sequence[Asked], means: Means, place: Place
) -> dict[str, Tensor]:
    """The mean projection of unsafe and of safe prompts at a place's position, [layer] each."""
    layers, last = decoder_layers(model), means.safe.shape[1]
    return {
        kind: means.project(inputs_of(model, layers, own, last))[..., place.position].mean(0)
        for kind, own in _kinds(asked).items()
    }


def look(
    model: Any, asked: Sequence[Asked], direction: Tensor, layer: int, refusals: Sequence[int]
) -> dict[str, float]:
    """Mean refusal scores of prompts as they are, without a direction, and with it added."""

    def score(kind: str) -> float:
        return float(refusal_scores(logits_of(model, kinds[kind]), refusals).mean())

    kinds = _kinds(asked)
    values = {f"refusal_{kind}": score(kind) for kind in kinds}
    with ablated(model, direction):
        values["ablated_unsafe"] = score("unsafe")
    with added(model, layer, direction):
        values["added_safe"] = score("safe")
    return values


def _points(
    cosines: Tensor,
    lines: Sequence[dict[str, Tensor]],
    looks: Sequence[dict[str, float]],
    place: Place,
) -> Iterator[Point]:
    """By layer, at the place's position; and the refusal score of each intervention."""
    for layer, cosine in enumerate(cosines[:, place.position].tolist()):
        if cosine:  # 0: the template's own token, in front of the first layer
            yield Point("Refusal direction, before and after (cosine)", "cosine", layer, cosine)
    for when, line, own in zip(("before", "after"), lines, looks, strict=True):
        for kind, values in line.items():
            for layer, value in enumerate(values.tolist()):
                title = "Projection on the refusal direction before (safe 0, unsafe 1)"
                yield Point(title, f"{kind}, {when}", layer, value)
        title = "Refusal score as it is (0), and with the direction ablated or added (1)"
        for kind, hand in (("unsafe", "ablated"), ("safe", "added")):
            for x, name in enumerate((f"refusal_{kind}", f"{hand}_{kind}")):
                yield Point(title, f"{kind}, {hand}, {when}", x, own[name])


def _of(asked: Sequence[Asked], numbers: Sequence[int]) -> list[Asked]:
    return [asked[n] for n in numbers]


def _kinds(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    return {
        kind: [a for a in asked if a.unsafe == (kind == "unsafe")] for kind in ("unsafe", "safe")
    }


def _few(asked: Sequence[Asked], most: int) -> list[Asked]:
    """The first `most` of each kind."""
    return [a for own in _kinds(asked).values() for a in own[:most]]


def _norms(layer: Any, width: int) -> list[Any]:
    """The layer's own norms: modules with vectors of that width alone, or, as OLMo's, with none."""
    found = []
    for module in layer.children():
        shapes = [tuple(weight.shape) for weight in module.parameters()]
        named = "norm" in type(module).__name__.lower()
        if all(shape == (width,) for shape in shapes) and (shapes or named):
            found.append(module)
    return found


def _change_input(module: Any, change: Callable[[Any], Any]) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        states = change(given(args, kwargs))
        return (
            ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})
        )

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _change_output(change: Callable[[Any], Any], _: Any, args: Any, output: Any) -> Any:
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)
