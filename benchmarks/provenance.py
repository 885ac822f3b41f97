"""Where a figure comes from: what every result file says of its command, commit, machine and versions."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lamella.sessions import machine, versions

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Of the script that runs: its command line, paths outside the project by their last name alone, and what it ran on."""
    script = Path(sys.argv[0]).name
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return {
        "command": " ".join([f"python benchmarks/{script}", *words]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def commit() -> str:
    """The commit that is checked out, and whether the library or the scripts differ from it."""
    changed = _git("status", "--porcelain", "src", "benchmarks/*.py")
    return _git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def result_file(script: str) -> Path:
    """Today's result file of a script."""
    return ROOT / "benchmarks" / "results" / f"{script}-{datetime.now(UTC).date()}.json"


def earlier(path: Path) -> dict[str, Any]:
    """What a result file holds already: parts of a script run one by one."""
    return json.loads(path.read_text()) if path.exists() else {}


def keep(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {path.name}")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
