"""Tables as tasks: what is read is what was written, splits keep to their rules, and bad cells are named by row and column."""

import builtins

import numpy as np
import pytest
import torch

from lamella.accordions.metrics import Judge
from lamella.errors import DataError, LamellaError, MissingExtra
from lamella.tasks import FRAUD, Columns, make_task, read_table
from lamella.training import evaluate
from lamella.zoo import make_model

NAMES = ("a", "b", "c")


def rows(n=200, odd=20, seed=0):
    """Clean rows on a line, anomalies off it; a time column in order."""
    random = np.random.default_rng(seed)
    values = np.outer(random.normal(size=n), (1.0, -2.0, 0.5)) + random.normal(0, 0.1, (n, 3))
    labels = np.zeros(n)
    labels[random.choice(n, odd, replace=False)] = 1
    values[labels == 1] += random.normal(0, 3, (odd, 3))
    return values, labels, np.sort(random.uniform(0, 2 * 86_400, n))


def csv(path, values, labels, times=None, separator=",", names=NAMES):
    head = [*(["Time"] if times is not None else []), *names, "label"]
    lines = [separator.join(f'"{name}"' for name in head)]
    for i, row in enumerate(values):
        cells = [*([times[i]] if times is not None else []), *row]
        lines.append(separator.join([*(f"{c:.9g}" for c in cells), f'"{int(labels[i])}"']))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    return csv(tmp_path / "t.csv", *rows()[:2])


def column_of(part, name):
    return torch.cat([targets[name] for _, targets in part]).numpy()


# -- reading


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_is_read_as_written(tmp_path, separator):
    values, labels, times = rows(30, 5)
    found = read_table(csv(tmp_path / "t.csv", values, labels, times, separator))
    assert found.names == ("Time", "a", "b", "c", "label")
    assert np.allclose(found.columns(NAMES), values, rtol=1e-8)
    assert found.column("label").tolist() == labels.tolist()


def test_windows_files_are_files(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa,label\r\n1,0\r\n\r\n2,1\r\n")
    found = read_table(path)
    assert found.names == ("a", "label")
    assert found.values.tolist() == [[1, 0], [2, 1]]


def test_npz_and_parquet_give_the_same_table(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values, labels, _ = rows(30, 5)
    np.savez(tmp_path / "t.npz", x=values, y=labels.astype(np.uint8), columns=np.array(NAMES))
    columns = {name: values[:, i] for i, name in enumerate(NAMES)} | {"Class": labels.astype(np.int8)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    first, second = (read_table(tmp_path / name) for name in ("t.npz", "t.parquet"))
    assert first.names == second.names == (*NAMES, "Class")
    assert np.array_equal(first.values, second.values)


def test_whole_numbers_of_64_bits_are_read_as_the_nearest_there_are(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    nanoseconds = 1_763_000_000_000_000_001 + np.arange(3) * 10**9
    pq.write_table(pa.table({"stamp": nanoseconds, "label": [0, 1, 0]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").column("stamp").tolist() == nanoseconds.astype(np.float64).tolist()


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"pyarrow.*lamella\[parquet\]"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_ignored_column_may_hold_anything(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text('id,a,note,label\n"x,1",1,,0\ny,2,red,1\n')
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"id": ["x,1", "y"], "a": [1, 2], "note": [None, "red"], "label": [0, 1]}), path)
    found = read_table(path, ignore=("note", "id"))
    assert found.names == ("a", "label")
    assert found.values.tolist() == [[1, 0], [2, 1]]
    with pytest.raises(DataError, match=r"column 'note'.*ignore=note\."):
        read_table(path, ignore=("id",))
    with pytest.raises(DataError, match=r"unknown column 'ID'.*Name the right one with ignore=\."):
        read_table(path, ignore=("id", "note", "ID"))


def test_a_row_of_another_length_is_told_beside_an_ignored_column(tmp_path):
    (tmp_path / "t.csv").write_text("id,a,label\nx,1,0\ny,2,1,3\n")
    with pytest.raises(DataError, match=r"row 2 has 4 cells, and the first line names 3 columns"):
        read_table(tmp_path / "t.csv", ignore=("id",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,label\n1,0\n,1\n", r"row 2, column 'a' is missing"),
        ("a,label\n1,0\nNaN,1\n", r"row 2, column 'a' is missing"),
        ("a,label\n1,0\n2,n/a\n", r"row 2, column 'label' is missing"),
        ("a,label\n1,0\ninf,1\n", r"row 2, column 'a' is inf"),
        ("a,label\n1,0\nred,1\n", r"row 2, column 'a' holds text \('red'\).*encode the column"),
        ("a,label\n1,0\n" + "x" * 300 + ",1\n", r"holds text \('x{37}\.\.\.'\)"),
        ("a,label\n1,0\n1,2,3\n", r"row 2 has 3 cells, and the first line names 2 columns"),
        ("1,1\n3,4\n", r"the first line holds numbers \(1, 1 \.\.\.\)"),
        ("1,2\n3,4\n", r"the first line holds numbers \(1, 2 \.\.\.\)"),
        ("a,a\n3,4\n", r"column 'a' is there twice"),
        ("a,label\n", "holds no row"),
        ("", "begins with an empty line"),
        ('a,label\n"1,0\n', "t.csv: "),
    ],
)
def test_a_hostile_csv_is_refused_with_its_place(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ignore", [(), ("",)])
@pytest.mark.parametrize(
    ("text", "column"),
    [(",a,label\n0,5,0\n1,6,1\n", "1 of 3"), ("a,label,\n5,0,\n6,1,\n", "3 of 3"), ('a," ",label\n5,x,0\n', "2 of 3")],
)
def test_a_column_without_a_name_is_refused(tmp_path, text, column, ignore):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(
        DataError, match=rf"t\.csv: column {column} has no name\. .*index=False.* name it in the first line"
    ):
        read_table(tmp_path / "t.csv", ignore)
    named = (
        text.replace(",a", "id,a", 1) if column == "1 of 3" else text.replace(",\n", ",id\n", 1).replace('" "', "id")
    )
    (tmp_path / "t.csv").write_text(named)
    assert read_table(tmp_path / "t.csv", ("id",)).names == ("a", "label")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_index_of_pandas_is_no_input(tmp_path, kind):
    path, index = tmp_path / f"t.{kind}", "Unnamed: 0" if kind == "csv" else "__index_level_0__"
    if kind == "csv":
        path.write_text(f"{index},a,label\n7,1,0\n3,2,1\n")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({index: [7, 3], "a": [1, 2], "label": [0, 1]}), path)
    with pytest.raises(DataError, match=rf"column '{index}' is pandas' index.*ignore={index}, or"):
        read_table(path)
    assert read_table(path, (index,)).names == ("a", "label")


def test_a_time_that_is_text_is_told_what_works(tmp_path):
    (tmp_path / "t.csv").write_text("stamp,a,label\n2026-01-01,1,0\n2026-01-02,2,1\n")
    with pytest.raises(
        DataError, match=r"column 'stamp' holds text .*\(a date as seconds\), or, unless it is the label or the time"
    ):
        make_task("table", tmp_path / "t.csv", columns=Columns(time="stamp"))


def test_a_lone_array_is_no_npz(tmp_path):
    with (tmp_path / "t.npz").open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    with pytest.raises(DataError, match="cannot be read as npz"):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"\xff\xfe\x00a\x00b\x80" * 50, "cannot be read as"),
        ("t.npz", b"PK\x03\x04 not a zip", "cannot be read as npz"),
        ("t.parquet", b"PAR1 not parquet", "cannot be read as Parquet"),
        ("t.xlsx", b"", r"\.xlsx is not one of \.csv, \.parquet, \.npz"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / name)


def test_an_npz_of_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.zeros((3, 2)), y=np.zeros(4), columns=np.array(["a", "b"]))
    with pytest.raises(DataError, match=r"do not belong together \(x \(3, 2\), y \(4,\)"):
        read_table(tmp_path / "t.npz")
    np.savez(tmp_path / "t.npz", values=np.zeros((3, 2)))
    with pytest.raises(DataError, match="has no array 'x'"):
        read_table(tmp_path / "t.npz")


# -- tasks


def test_training_sees_clean_rows_alone_and_scales_by_them(table):
    task = make_task("table", table)
    x = torch.cat([inputs for inputs, _ in task.train])
    assert column_of(task.train, "labels").sum() == 0
    assert x.mean(0).abs().max() < 1e-5
    assert (x.std(0, unbiased=False) - 1).abs().max() < 1e-4
    held = torch.cat([inputs for inputs, _ in task.validation])
    assert held.mean(0).abs().max() > 1e-3  # scaled by training rows, not by its own


def test_no_row_lies_in_two_splits(table):
    task = make_task("table", table)
    parts = [{row.numpy().tobytes() for x, _ in part for row in x} for part in (task.train, task.validation, task.test)]
    assert [len(p) for p in parts] == [108, 46, 46]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_a_split_by_time_never_trains_on_the_future(tmp_path):
    values, labels, times = rows()
    path = csv(tmp_path / "t.csv", np.column_stack([values[:, :2], times / 1e5]), labels, times)
    task = make_task("table", path, validation="time", columns=Columns(time="Time"))
    clocks = [torch.cat([x[:, 2] for x, _ in part]) for part in (task.train, task.validation, task.test)]
    assert clocks[0].max() < clocks[1].min()
    assert clocks[1].max() < clocks[2].min()
    with pytest.raises(DataError, match="a split by time needs a time column"):
        make_task("table", path, validation="time")


def test_weights_bring_back_the_natural_rate(tmp_path):
    values, labels, times = rows()
    path = csv(tmp_path / "t.csv", values, labels, times)
    task = make_task("table", path, columns=Columns(time="Time", clean=18_000))
    days = np.ptp(times) / 86_400
    for part in (task.validation, task.test):
        weights, odd = column_of(part, "weights"), column_of(part, "labels") == 1
        assert weights[~odd].sum() == pytest.approx(18_000 / days, rel=1e-6)
        assert weights[odd].sum() == pytest.approx(20 / days, rel=1e-6)
    assert any("each is weighted by 100.00" in note for note in task.notes)


@pytest.mark.parametrize("split", ["random", "time"])
def test_a_limit_leaves_the_rows_a_day_of_each_label(tmp_path, split):
    values, labels, times = rows()
    path, columns = csv(tmp_path / "t.csv", values, labels, times), Columns(time="Time", clean=18_000)
    whole, cut = (make_task("table", path, columns=columns, validation=split, limit=limit) for limit in (None, 20))
    for name in ("validation", "test"):
        daily = []
        for task in (whole, cut):
            part = getattr(task, name)
            weights, odd = column_of(part, "weights"), column_of(part, "labels") == 1
            daily.append((weights[odd].sum(), weights[~odd].sum()))
        assert getattr(cut, name).samples == 20 < getattr(whole, name).samples
        assert daily[1] == pytest.approx(daily[0])


def test_a_limit_that_cuts_nothing_changes_no_weight(table):
    whole, cut = (make_task("table", table, limit=limit) for limit in (None, 10_000))
    for part in ("validation", "test"):
        assert np.array_equal(*(column_of(getattr(task, part), "weights") for task in (whole, cut)))


def test_a_limit_of_one_row_is_told_when_it_is_judged(table):
    with pytest.raises(DataError, match="the samples of a split hold one class only"):
        Judge.of(make_task("table", table, limit=1))


def test_the_official_columns_make_the_fraud_task(tmp_path):
    random = np.random.default_rng(0)
    names = ["Time", *FRAUD.inputs, "Class"]
    table = random.normal(size=(120, 31))
    table[:, 0], table[:, -1] = np.arange(120) * 1000, np.arange(120) % 6 == 0
    path = tmp_path / "creditcard.csv"
    lines = [",".join(f'"{n}"' for n in names), *(",".join([*map(str, r[:-1]), f'"{int(r[-1])}"']) for r in table)]
    path.write_text("\n".join(lines))
    task = make_task("fraud", path, limit=20)
    assert task.example_inputs[0].shape == (1, 29)
    assert [p.samples for p in (task.train, task.validation, task.test)] == [20, 20, 20]
    path.write_text(path.read_text().replace('"V3"', '"V03"'))
    with pytest.raises(DataError, match="it lacks 'V3'"):
        make_task("fraud", path)


def test_scores_are_deviations_of_the_copy(table):
    task = make_task("table", table)
    model = make_model("autoencoder", widths=(2,), inputs=3).eval()
    x = torch.cat([inputs for inputs, _ in task.test])
    with torch.no_grad():
        expected = 1 / (1 + (model(x) - x).double().abs().mean(1))
    assert torch.allclose(evaluate(model, task.test, task.score), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "columns", "words"),
    [
        (lambda v, y: (v, y * 0), Columns(), r"holds 1 classes \(0\); two were expected"),
        (lambda v, y: (v, np.arange(len(y)) % 3), Columns(), r"holds 3 classes \(0, 1, 2\)"),
        (lambda v, y: (v, y + 1), Columns(), r"holds 2 classes \(1, 2\); two were expected, 1 for an anomaly"),
        (lambda v, y: (v, np.arange(len(y)) == 5), Columns(), "holds no anomaly"),
        (lambda v, y: (v * (1, 0, 1), y), Columns(), "column 'b' is constant over the clean training rows"),
        (
            lambda v, y: (np.column_stack([v[:, 0], 0.1 + y, v[:, 2]]), y),
            Columns(),
            "column 'b' is constant over the clean",
        ),
        (lambda v, y: (v, y), Columns(inputs=("a", "b")), r"3 inputs were found and 2 expected: it has 'c' besides"),
        (
            lambda v, y: (v, y),
            Columns(label="fraud"),
            r"t\.csv: unknown column 'fraud'.*Name the right one with label=",
        ),
        (lambda v, y: (v, y), Columns(ignore=("d",)), r"t\.csv: unknown column 'd'.* with ignore="),
        (lambda v, y: (v, y), Columns(time="when"), r"t\.csv: unknown column 'when'.* with time="),
        (lambda v, y: (v, y), Columns(ignore=NAMES), "no column is left as an input"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path, change, columns, words):
    values, labels, _ = rows()
    path = csv(tmp_path / "t.csv", *change(values, labels))
    with pytest.raises(DataError, match=words):
        make_task("table", path, columns=columns)


def test_no_positives_in_a_split_by_time(tmp_path):
    values, labels, times = rows()
    labels[:] = np.arange(len(labels)) < 10
    path = csv(tmp_path / "t.csv", values, labels, times)
    with pytest.raises(DataError, match=r"a split of .* rows holds no anomaly .*split the other way"):
        make_task("table", path, validation="time", columns=Columns(time="Time"))


def test_options_that_are_not_for_tables(table):
    with pytest.raises(
        DataError, match="column 'label' is the label column, which is no input: leave it out of ignore="
    ):
        Columns(ignore=("label",))
    with pytest.raises(LamellaError, match=r"no file was named.* in data= \(--data\)\."):
        make_task("fraud")
    with pytest.raises(DataError, match="no such file"):
        make_task("fraud", "nowhere.csv")
    with pytest.raises(LamellaError, match=r"unknown validation 'heldout'.*random, time"):
        make_task("table", table, validation="heldout")
    with pytest.raises(LamellaError, match="has pictures, and no columns"):
        make_task("digits", columns=Columns())
    with pytest.raises(DataError, match="limit=0 leaves no row"):
        make_task("table", table, limit=0)
