"""Finished points on disk: one journal per profile, one writer at a time, and several journals as one.

with keeping(path, identity) as journal:              # RunError while another process writes there
    hold_to(journal, baseline)                        # MismatchError where its points were measured by another score
merge(["a/profile.jsonl", "b/profile.jsonl"], "all/profile.jsonl")
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..baselines import check_baseline
from ..errors import RunError
from ..records import from_plain, to_plain
from ..runs import Journal, held, journalled
from ..schema import FILES, Score
from ..schema.curves import BASELINE


@contextmanager
def keeping(path: str | Path, identity: Mapping[str, Any], added: Mapping[str, Any] | None = None) -> Iterator[Journal]:
    """The journal at `path`, made if absent, held for writing until the block ends. `added`: as of a Journal."""
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    refusal = "another process is writing this profile. Wait for it, or name another journal."
    with held(lock, path, refusal):
        yield Journal(path, identity, added)


def hold_to(journal: Journal, baseline: Score) -> None:
    """Bind the journal to what the dense network scores. MismatchError where its points stand beside another score."""
    if BASELINE in journal.entries:
        check_baseline(journal.path, from_plain(journal.entries[BASELINE], Score), baseline)
    else:
        journal.append(BASELINE, to_plain(baseline))


def identity_of(path: str | Path) -> dict[str, Any]:
    """What a journal belongs to."""
    import json

    if Path(path).is_dir():
        inside = Path(path) / FILES["profile_journal"][0]
        raise RunError(f"{path}: is a folder; a journal was expected, such as {inside}.")
    try:
        with Path(path).open(encoding="utf-8") as file:
            return dict(json.loads(file.readline())["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: no journal can be read there ({error}). Name the {FILES['profile_journal'][0]} of the other run directory."
        ) from None


def merge(paths: Sequence[str | Path], into: str | Path) -> int:
    """Add what the journals hold to the one at `into` (made if absent); the number of points added.

    MismatchError where they are of different models, data, scores or options; the journals themselves are left as they are.
    """
    if not paths:
        raise RunError("no journal to merge was named.")
    identity = identity_of(paths[0])
    sources = []
    for path in paths:
        identity_of(path)
        sources.append(journalled(path, identity))
    added = 0
    with keeping(into, identity) as journal:
        _check_together([(into, journal.entries), *zip(paths, sources, strict=True)])
        for source in sources:
            for key, value in source.items():
                if key not in journal.entries:
                    journal.append(key, value)
                    added += key != BASELINE
    return added


def _check_together(journals: Iterable[tuple[str | Path, Mapping[str, Any]]]) -> None:
    """MismatchError where journals stand beside other scores of the dense network."""
    known = [(path, from_plain(entries[BASELINE], Score)) for path, entries in journals if BASELINE in entries]
    for path, score in known[1:]:
        check_baseline(Path(path), score, known[0][1])


__all__ = ["hold_to", "identity_of", "keeping", "merge"]
