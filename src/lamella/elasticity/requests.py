"""What elasticize is asked for: how to train and who teaches, and what of it cannot be, or would be passed over.

    check_request(model, task, How("grow", Recipe(epochs=5), Teaching(teacher="dense")), own=("fc",))     # nothing, or LamellaError

Known from the request alone, before anything is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import LamellaError, MismatchError, TraceError, unknown_name
from ..surgery import check_graph, uncompiled
from ..training import Recipe, Task, compares_logits, smoothed
from .methods import METHODS
from .networks import ElasticModel
from .owning import own_names
from .teaching import IN_PLACE, Teaching

TUNING = Recipe(epochs=3, lr=0.02)
LARGEST = "net.extract(net.levels[-1].name)"  # in words to a user


@dataclass(frozen=True, slots=True)
class How:
    """How levels are trained: the name of a method, the recipe of each of its stages, and who teaches."""

    method: str = "sandwich"
    recipe: Recipe = TUNING
    teaching: Teaching = IN_PLACE


def check_dense(model: nn.Module) -> None:
    """LamellaError for an elastic network where the dense one is expected."""
    if isinstance(model, ElasticModel):
        raise LamellaError(
            "the model is elastic already. To train its levels further, pass the dense network, and the elastic one in place of levels: "
            f"elasticize(model, net, task); without the dense one, {LARGEST} stands for it."
        )


def check_request(model: nn.Module, task: Task, how: How, own: Sequence[str]) -> None:
    """LamellaError for what cannot be, or would be passed over, known before anything is measured.

    An unknown method, a wrapped or wholly frozen model, an `own` module that the model has not, a recipe that no method takes, teaching
    where nobody teaches.
    """
    _check_names(how)
    recipe = how.recipe
    subject = uncompiled(model)
    _check_trainable(subject, how)
    if isinstance(own, str):
        raise LamellaError(f"own: {own!r} was given; a list of modules was expected, such as [{own!r}].")
    own_names(subject, own)
    smoothed(task.loss, recipe.label_smoothing)
    if recipe.distil:
        raise LamellaError(
            f"distil={recipe.distil}: levels are taught by a Teaching. Pass teaching=Teaching(teacher='dense', "
            f"labels={1 - recipe.distil:.3g}, temperature={recipe.temperature:g}), and set distil to 0."
        )
    if problem := _passed_over(task, how):
        raise LamellaError(f"method {how.method!r}: {problem}.")


def _check_names(how: How) -> None:
    """LamellaError for an unknown method, and for one that is passed as the recipe."""
    if not isinstance(how.recipe, Recipe):
        hint = (
            f" How levels are trained is the method: pass method={how.recipe!r}." if isinstance(how.recipe, str) else ""
        )
        raise LamellaError(
            f"recipe: {how.recipe!r} was given; a Recipe was expected, such as Recipe(epochs=3, lr=0.02).{hint}"
        )
    if how.method not in METHODS:
        raise LamellaError(unknown_name("method", how.method, METHODS))


def _check_trainable(model: nn.Module, how: How) -> None:
    """LamellaError for a wrapper that levels cannot be cut through, and for a model of which no method would train anything."""
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        raise LamellaError(
            f"the model is wrapped in {type(model).__name__}, and levels are cut from a network itself. Pass model.module; "
            "recipe=Recipe(devices=2) trains on several devices."
        )
    elastic = isinstance(model, ElasticModel)
    if how.method != "none" and not any(p.requires_grad for p in model.parameters()):
        raise LamellaError(
            f"method {how.method!r}: trains nothing, as all parameters of the {'elastic network' if elastic else 'model'} are frozen. "
            f"Call its requires_grad_(){'' if elastic else ', or take the method none'}."
        )


def check_further(model: nn.Module, net: ElasticModel, how: How, graph: object, own: Sequence[str]) -> None:
    """LamellaError for what an elastic network that is to be trained further cannot be asked for; MismatchError for another model's."""
    asked = {"graph": graph is not None, "own": bool(own)}
    named = [name for name, given in asked.items() if given]
    if named:
        raise LamellaError(
            f"{' and '.join(named)}: an elastic network is trained further with what it has. Leave "
            f"{'it' if len(named) == 1 else 'them'} out, or pass levels."
        )
    _check_same(model, net)
    if how.method == "none":
        raise LamellaError(
            "method 'none': trains nothing, and the levels of an elastic model have statistics of their own already. Take "
            "sandwich or grow, or begin with the dense network."
        )


def _check_same(model: nn.Module, net: ElasticModel) -> None:
    """MismatchError unless the elastic network can have been made from this model: the same parameters, in the same types."""
    advice = f"Pass the dense network that it was made from, or {LARGEST}"
    try:
        check_graph(model, net.graph)
    except TraceError as error:
        seen = str(error).partition(". ")[0]
        raise MismatchError(f"the elastic network was made from another model: {seen}. {advice}.") from None
    own = dict(net.net.named_parameters())
    for name, parameter in model.named_parameters():
        if name in own and own[name].dtype != parameter.dtype:
            seen = f"{name!r} is {parameter.dtype} in the model and {own[name].dtype} in the elastic network"
            raise MismatchError(f"{seen}. Convert one of them, or pass {LARGEST} for the model.")


def check_devices(middle: int, how: How) -> None:
    """LamellaError where processes would draw levels of their own: gradients are averaged over the same weights at each step."""
    devices, drawn = how.recipe.devices or 1, how.teaching.at_random
    if devices > 1 and how.method == "sandwich" and middle > drawn:
        raise LamellaError(
            f"devices={devices}: with several devices every step of sandwich trains the same levels, and at_random="
            f"{drawn} of {middle} middle levels would be drawn. Pass Teaching(at_random={middle}), or devices=1."
        )


def _passed_over(task: Task, how: How) -> str | None:
    """What was asked for and would change nothing, and what to do."""
    method, recipe, teaching = how.method, how.recipe, how.teaching
    if method == "none" and recipe != TUNING:
        return "trains nothing, so that epochs and rates say nothing. Leave the recipe out, or take another method"
    if method == "none" and teaching != IN_PLACE:
        return "trains nothing, so that nobody teaches. Leave the teaching out, or take another method"
    if method == "grow" and teaching.at_random != IN_PLACE.at_random:
        return "trains one level at a time and draws none at random. Leave at_random out, or take the method sandwich"
    if method == "grow" and teaching.teacher == "largest" and teaching != IN_PLACE:
        return "nobody teaches but teacher='dense', as the largest level is trained last. Name it, or leave the teaching out"
    if teaching.temperature != IN_PLACE.temperature and not compares_logits(task.loss):
        return (
            "answers are softened where the loss is cross entropy, and this task has another, whose answers are compared by "
            "their mean squared difference. Leave the temperature out"
        )
    return None
