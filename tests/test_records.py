"""Records survive the way to disk and back, and every damage is named with its path."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import MismatchError, MissingExtra, RecordError, in_file
from lamella.records import dumps, from_plain, load_record, loads, save_record, to_plain
from lamella.schema import Budget, Cost, Family, Group, Level, Measure, Plan, Point, Product, Result, Score, Size, Step

COST = Cost(params=10, macs=20, bytes=30, memory=40)


def plan(**changes):
    steps = (Step(widths={"conv1": 8}, epochs=2, predicted=0.9), Step(bits={"conv1": 8}))
    return Plan(
        **{"structure": "s", "planner": "threshold", "steps": steps, "predicted": COST, "dense": COST, **changes}
    )


def family(*widths):
    levels = tuple(Level(name=str(i), widths=w) for i, w in enumerate(widths))
    return Family(structure="s", method="none", levels=levels, order={})


SCORE = Score(value=0.5, low=0.4, high=0.6, n=10)
VALUES = [
    plan(),
    Score(value=0.5, low=0.25, high=0.75, n=3),
    Point(target="conv1", knob="pruning_ratio", level=0.5, width=4, score=SCORE),
    Size(fixed=3, terms=(("conv1", 2),)),
    Product(layer="fc", times=3, sizes=(Size(terms=(("conv1", 1),)),), divisor=2),
    Group(name="g", width=4, parts=(0, 0, 1, 1)),
    Level(
        name="core", widths={"conv1": 4}, bits={"conv1": 8}, ranges={"conv1": (0.0, 1.5)}, validation=SCORE, bytes=40
    ),
    Family(
        structure="s",
        method="sandwich",
        levels=(Level(name="core", widths={"conv1": 2}), Level(name="full", widths={}, latency_ms=0.5)),
        order={"conv1": (2, 0, 1, 3)},
    ),
    Budget(max_drop=1.0, bytes="10%"),
    Result(
        plan=plan(),
        kept={"conv1": (0, 2)},
        history=(Measure(name="dense", step=0, validation=SCORE, params=1, macs=2),),
        ranges={"conv1": (-1.0, 2.5)},
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_record_survives_json(value):
    assert from_plain(json.loads(json.dumps(to_plain(value))), type(value)) == value
    assert loads(dumps(value), type(value)) == value


@given(st.dictionaries(st.text(), st.integers(1, 512)), st.floats(0, 1), st.integers(0, 9))
def test_any_step_survives_json(widths, predicted, epochs):
    step = Step(widths=widths, epochs=epochs, predicted=predicted)
    assert loads(dumps(step), Step) == step


def corruptions(data, path=""):
    """Every single-field corruption: a value replaced by one of another type, and the path where that is."""
    if isinstance(data, dict):
        for key, value in data.items():
            for inner, place in corruptions(value, key):
                yield {**data, key: inner}, place
    elif isinstance(data, list):
        for index, value in enumerate(data):
            for inner, place in corruptions(value, path):
                yield [*data[:index], inner, *data[index + 1 :]], place
    yield object, path


def _wrong(data):
    """A corruption with its marker replaced by something JSON can hold and no field expects."""
    if data is object:
        return [{"nonsense": True}]
    if isinstance(data, dict):
        return {k: _wrong(v) for k, v in data.items()}
    return [_wrong(v) for v in data] if isinstance(data, list) else data


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_every_single_field_corruption_is_named(value):
    tried = 0
    for data, place in corruptions(to_plain(value)):
        tried += 1
        with pytest.raises(RecordError) as caught:
            from_plain(_wrong(data), type(value))
        assert place in caught.value.path or not place
    assert tried > 2


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_unknown_and_missing_fields_are_named(value):
    plain = to_plain(value)
    with pytest.raises(RecordError, match="nonsense: not a field"):
        from_plain({**plain, "nonsense": 1}, type(value))


def test_a_missing_field_is_named():
    plain = to_plain(plan())
    del plain["steps"]
    with pytest.raises(RecordError, match=r"^steps: missing$"):
        from_plain(plain, Plan)


def test_a_field_is_read_by_its_earlier_name_too():
    value = family({"conv1": 2}, {})
    was = dumps(value).replace('"method":', '"recipe":')
    assert loads(was, Family) == value
    assert '"recipe"' not in dumps(loads(was, Family))
    with pytest.raises(RecordError, match=r"^method: 3 where str was expected$"):
        loads(was.replace('"none"', "3"), Family)
    with pytest.raises(RecordError, match=r"^recipe: not a field of Family$"):
        from_plain({**to_plain(value), "recipe": "grow"}, Family)


def test_nonsense_is_rejected_with_its_path():
    plain = to_plain(plan())
    plain["steps"][0]["epochs"] = -1
    with pytest.raises(RecordError, match=r"^steps\[0\]\.epochs: -1 is negative$"):
        from_plain(plain, Plan)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Score(value=0.9, low=0.95, high=1.0, n=5), "lies outside"),
        (lambda: Point(target="a", knob="pruning_ratio", level=50, score=SCORE), "fraction removed"),
        (lambda: Budget(bytes="120%"), "not a share of the dense model"),
        (lambda: Budget(params="a few"), "neither a number nor a share"),
        (lambda: Budget(max_drop=-1), "negative"),
        (lambda: Step(bits={"conv1": 1}), "1 bits: 2 to 8, or 32 for none"),
        (lambda: Level(name="few", widths={}, bits={"conv1": 12}), "12 bits: 2 to 8, or 32 for none"),
        (lambda: Group(name="g", width=0), "at least one channel"),
        (lambda: Level(name="a/b", widths={}), "'a/b': a level's name is made of letters"),
        (lambda: family({}, {"conv1": 3}), r"levels\[1\] \('1'\)\.widths\['conv1'\]: 3 channels, fewer than all those"),
        (lambda: family({"conv1": 4}, {"conv1": 3}), "fewer than the 4 of the level before, '0': levels nest"),
        (lambda: family({"conv1": 3}, {"conv1": 3}), "equal to those of level '0', and no bits differ: leave one"),
    ],
)
def test_records_reject_nonsense_at_birth(make, words):
    with pytest.raises(RecordError, match=words):
        make()


def test_numbers_that_are_not_finite_are_refused():
    plain = to_plain(SCORE)
    plain["value"] = math.nan
    with pytest.raises(RecordError, match=r"value: nan where a finite number was expected"):
        from_plain(plain, Score)


def test_a_newer_format_is_refused(tmp_path):
    text = dumps(plan()).replace('"format": "1.0"', '"format": "2.0"')
    with pytest.raises(MismatchError, match=r"format 2\.0 by a newer Lamella.*upgrade"):
        loads(text, Plan)
    with pytest.raises(MismatchError, match="holds a Plan, and a Score was expected"):
        loads(dumps(plan()), Score)


def test_a_newer_minor_format_is_read_where_it_can_be():
    text = dumps(plan()).replace('"format": "1.0"', '"format": "1.3"')
    assert loads(text, Plan) == plan()
    novel = text.replace('"planner":', '"novel": 1, "planner":')
    with pytest.raises(MismatchError, match=r"format 1\.3 by a newer Lamella.*upgrade \(novel: not a field of Plan\)"):
        loads(novel, Plan)
    with pytest.raises(RecordError, match="novel: not a field of Plan"):
        loads(novel.replace('"1.3"', '"1.0"'), Plan)


@given(st.integers(0, 400))
def test_a_file_cut_anywhere_is_refused_by_name(cut):
    text = dumps(plan()).rstrip()
    with pytest.raises(RecordError, match="damaged or was cut short"):
        loads(text[: min(cut, len(text) - 1)], Plan)


def test_files_name_themselves_in_errors(tmp_path):
    path = tmp_path / "plan.json"
    save_record(path, plan())
    assert load_record(path, Plan) == plan()
    path.write_text("{}")
    with pytest.raises(RecordError, match=r"plan\.json: not a Lamella record"):
        load_record(path, Plan)
    with pytest.raises(RecordError, match="cannot be read"):
        load_record(tmp_path / "absent.json", Plan)
    save_record(path, SCORE)
    with pytest.raises(MismatchError, match=r"plan\.json: holds a Score"):
        load_record(path, Plan)


def test_an_error_in_a_file_stays_the_error_that_it_was():
    raised = MissingExtra("pyarrow", "parquet", "reading a Parquet file")
    with (
        pytest.raises(MissingExtra, match=r"^a\.json: reading a Parquet file needs pyarrow") as caught,
        in_file("a.json"),
    ):
        raise raised
    assert caught.value is raised
    with pytest.raises(RecordError, match=r"^a\.json: steps\[2\]: not a step") as caught, in_file("a.json"):
        raise RecordError("steps[2]", "not a step")
    assert (caught.value.path, caught.value.problem) == ("a.json: steps[2]", "not a step")
