"""A run directory: the old file or the new one, one writer, and journals that lose at most the line in progress."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamella.errors import LamellaError, MismatchError, RunError
from lamella.lineage import is_made_from, made_from
from lamella.making import folder
from lamella.runs import Journal, locked, read_text, write_atomically, write_through

IDENTITY = {"structure": "a", "weights": "b"}


def test_a_write_replaces_whole_files_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"file\.json: the disk is full\. Free some space and run the same command"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_full_disk_keeps_the_journal_whole(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j.jsonl", IDENTITY)
    journal.append("a", 1)
    before = (tmp_path / "j.jsonl").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="the disk is full"):
        journal.append("b", 2)
    monkeypatch.undo()
    assert (tmp_path / "j.jsonl").read_bytes() == before
    assert Journal(tmp_path / "j.jsonl", IDENTITY).entries == {"a": 1}


def test_a_line_that_a_disk_takes_in_part_is_taken_back(tmp_path):
    """A limit of file sizes stops a write halfway, as a disk that fills does, and no error is raised for it."""
    script = textwrap.dedent("""
        import resource, signal, sys
        from lamella.errors import RunError
        from lamella.runs import Journal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal(sys.argv[1], {"of": "this"})
        journal.append("a", 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 9, resource.RLIM_INFINITY))
        try:
            journal.append("b", "x" * 100)
        except RunError:
            assert journal.entries == {"a": 1}
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            journal.append("c", 3)
    """)
    path = tmp_path / "j.jsonl"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Journal(path, {"of": "this"}).entries == {"a": 1, "c": 3}


@given(st.data())
def test_a_journal_cut_at_any_byte_loses_at_most_the_last_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    journal = Journal(path, IDENTITY)
    for index in range(3):
        journal.append(f"k{index}", {"score": index / 2, "name": "é"})
    whole = path.read_bytes()
    cut = data.draw(st.integers(whole.index(b"\n") + 1, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n") - 1
    again = Journal(path, IDENTITY)
    assert list(again.entries) == [f"k{i}" for i in range(complete)]
    again.append("next", 1)
    assert list(Journal(path, IDENTITY).entries) == [*(f"k{i}" for i in range(complete)), "next"]


def test_a_journal_of_another_model_is_refused(tmp_path):
    Journal(tmp_path / "j.jsonl", IDENTITY)
    with pytest.raises(MismatchError, match="belongs to another run: weights was 'b' and is 'c'"):
        Journal(tmp_path / "j.jsonl", {**IDENTITY, "weights": "c"})
    with pytest.raises(
        MismatchError, match="run: method is 'race' and was not given; weights was 'b' and is not given"
    ):
        Journal(tmp_path / "j.jsonl", {"structure": IDENTITY["structure"], "method": "race"})


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path, IDENTITY).append("a", 1)
    path.write_bytes(path.read_bytes() + b"{nonsense\n")
    with pytest.raises(RunError, match=r"j\.jsonl, line 3: damaged"):
        Journal(path, IDENTITY)


def test_a_second_writer_is_refused_and_told_who_holds_it(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(RunError, match=rf"in use by another process \(pid {os.getpid()}\)"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    program = textwrap.dedent(f"""
        import time
        from lamella.runs import locked
        with locked({str(tmp_path)!r}):
            print("held", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(RunError, match=f"pid {child.pid}"), locked(tmp_path):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with locked(tmp_path):
        pass


def test_a_kill_leaves_nothing_half_made_and_living_work_is_not_swept_up(tmp_path):
    program = textwrap.dedent(f"""
        import tempfile, time
        from pathlib import Path
        from lamella.making import folder
        from lamella.runs import write_through
        tempfile.tempdir = {str(tmp_path)!r}

        def write(part):
            part.write_text("half")
            with folder(beside=part) as beside, folder() as scratch:
                (beside / "weights.bin").write_text("half")
                (scratch / "dense.onnx").write_text("half")
                print("held", flush=True)
                time.sleep(60)

        write_through({str(tmp_path / "elastic" / "core.onnx")!r}, write)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    before = sorted(tmp_path.rglob("*"))
    assert len(before) == 6  # the folder, the file, two folders and what lies in them
    with locked(tmp_path), folder():
        pass
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / ".lock"])
    child.kill()
    child.wait()
    child.stdout.close()
    with locked(tmp_path):
        assert sorted(p.name for p in tmp_path.rglob("*") if not p.name.startswith("lamella.")) == [
            ".lock", "dense.onnx", "elastic",
        ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        with folder() as scratch:
            assert [p for p in tmp_path.iterdir() if p.name not in (".lock", "elastic")] == [scratch]
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".lock", "elastic"]


def test_a_kill_during_appends_leaves_a_readable_journal(tmp_path):
    program = textwrap.dedent(f"""
        from lamella.runs import Journal
        journal = Journal({str(tmp_path / "j.jsonl")!r}, {{"a": 1}})
        for i in range(10**6):
            journal.append(str(i), "x" * 2000)
            print(i, flush=True)
    """)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.2)
    child.kill()
    told = [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    child.wait()
    entries = Journal(tmp_path / "j.jsonl", {"a": 1}).entries
    assert len(entries) >= max(told, default=0) + 1
    assert all(json.dumps(v) for v in entries.values())


def test_an_absent_file_names_the_verb_that_makes_it(tmp_path):
    with pytest.raises(RunError, match=r"plan\.json: not there. It is made by `lamella plan`"):
        read_text(tmp_path / "plan.json", "lamella plan")


def test_what_is_refused_while_a_file_is_written_names_that_file(tmp_path):
    def write(temporary):
        raise LamellaError(f"{temporary}: is not what was expected.")

    with pytest.raises(LamellaError, match=rf"^{tmp_path}/model\.onnx: is not what was expected"):
        write_through(tmp_path / "model.onnx", write)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_of_another_run_is_left_as_it_is(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"identity":{"structure":"a","weights":"b"}}\n{"key":"cut sh')
    before = path.read_bytes()
    with pytest.raises(MismatchError, match="weights was 'b' and is 'c'"):
        Journal(path, {**IDENTITY, "weights": "c"})
    assert path.read_bytes() == before
    assert Journal(path, IDENTITY).entries == {}
    assert path.read_bytes().endswith(b"}\n")


def making(target, text, calls):
    def make():
        calls.append(text)
        target.write_text(text)

    return make


def test_a_file_is_made_again_only_where_its_source_holds_something_else(tmp_path):
    source, target, calls = tmp_path / "source", tmp_path / "target", []
    source.write_text("a")
    made_from(source, target, making(target, "of a", calls))
    source.write_text("a")  # anew, the same
    os.utime(target, (1, 1))
    assert is_made_from(source, target)
    made_from(source, target, making(target, "again", calls))
    source.write_text("b")
    os.utime(source, (0, 0))  # as old as a checkout says
    assert not is_made_from(source, target)
    made_from(source, target, making(target, "of b", calls))
    target.write_text("by hand")
    assert not is_made_from(source, target)
    made_from(source, target, making(target, "of b", calls))
    source.with_name("source.data").write_text("weights beside it")
    assert not is_made_from(source, target)
    assert calls == ["of a", "of b", "of b"]
    source.unlink()  # fresh weights lie in no file
    assert is_made_from(source, target)


def test_a_file_is_made_again_where_what_lies_in_no_file_is_another(tmp_path):
    source, target, calls = tmp_path / "source", tmp_path / "target", []
    source.write_text("a")
    made_from(source, target, making(target, "of a run of before", calls))
    for also in ("ranges", "ranges", "others"):
        made_from(source, target, making(target, also, calls), also=also)
    assert calls == ["of a run of before", "ranges", "others"]
    assert is_made_from(source, target)
    assert is_made_from(source, target, also="others")
    assert not is_made_from(source, target, also="ranges")


def test_a_copy_of_a_run_knows_what_was_made_from_what(tmp_path):
    run, calls = tmp_path / "run", []
    run.mkdir()
    (run / "source").write_text("a")
    made_from(run / "source", run / "target", making(run / "target", "of a", calls))
    shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "target", (1, 1))
    assert is_made_from(tmp_path / "copy" / "source", tmp_path / "copy" / "target")
    (tmp_path / "copy" / "made.json").write_text("[")  # a run of before, or a damaged file: told by times
    assert not is_made_from(tmp_path / "copy" / "source", tmp_path / "copy" / "target")
    os.utime(tmp_path / "copy" / "target")
    made_from(tmp_path / "copy" / "source", tmp_path / "copy" / "target", making(tmp_path, "not made", calls))
    os.utime(tmp_path / "copy" / "target", (1, 1))
    assert is_made_from(tmp_path / "copy" / "source", tmp_path / "copy" / "target")
    assert calls == ["of a"]
