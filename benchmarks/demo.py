"""The demo's table over seeds, and the README's copy of seed 0: `python benchmarks/demo.py --seeds 3 --readme`.

Writes `results/demo-<date>.json` (rows per seed, seconds, provenance); with `--readme` also the table between the README's markers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

import numpy as np

from benchmarks.provenance import keep, provenance, result_file
from lamella.statistics import score_interval

MARKERS = ("<!-- demo table -->", "<!-- end of demo table -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time; each takes longer then")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / f"seed{seed}" for seed in range(asked.seeds)]
        with ThreadPoolExecutor(asked.jobs) as pool:
            runs = list(pool.map(run, folders, range(asked.seeds)))
    outcome = {
        **provenance(),
        "seeds": list(range(asked.seeds)),
        "n": {"validation": 360, "test": 360},
        "seeds_at_a_time": asked.jobs,
        "seconds": [seconds for _, seconds in runs],
        "rows": [rows for rows, _ in runs],
        **figures([rows for rows, _ in runs]),
    }
    keep(result_file("demo"), outcome)
    if asked.readme:
        readme(outcome)


def run(directory: Path, seed: int) -> tuple[list[dict], float]:
    """The demo's rows, and the seconds it took from nothing."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "lamella", "demo", str(directory), "--seed", str(seed), "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["rows"], round(time.perf_counter() - started, 1)


def figures(runs: list[list[dict]]) -> dict[str, float]:
    """The last compressed row against dense, over seeds: the worst of each."""
    dense = [rows[0] for rows in runs]
    last = [rows[3] for rows in runs]
    return {
        "worst_bytes_ratio": min(d["bytes"] / r["bytes"] for d, r in zip(dense, last, strict=True)),
        "worst_test_drop_points": max(100 * r["drop"] for r in last),
        "worst_latency_ratio": max(r["latency_ratio"] for r in last),
        "least_dense_validation": min(d["validation_accuracy"] for d in dense),
        **({"out_of_order_over_in_order": order(runs)} if len(runs) > 1 else {}),
    }


def order(runs: list[list[dict]]) -> dict[str, float]:
    """Points of test accuracy that the order of the cuts is worth: mean over seeds and its 95 % interval by Student's t."""
    gains = np.array([100 * (rows[1]["drop"] - rows[2]["drop"]) for rows in runs])
    found = score_interval(gains)
    return {"mean": round(found.value, 3), "low": round(found.low, 3), "high": round(found.high, 3)}


def readme(outcome: dict) -> None:
    """Put the table of seed 0 between the README's markers."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    path.write_text(f"{before}{MARKERS[0]}\n{table(outcome)}\n{MARKERS[1]}{after}")


def table(outcome: dict) -> str:
    """Seed 0 as Markdown, and the line that says where it comes from."""
    rows = outcome["rows"][0]
    head = "| | validation | test | below dense [95 %] | params | MACs | bytes | smaller | latency |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|", *(line(row, rows[0]) for row in rows)]
    source = (
        f"`make demo` at commit {outcome['commit']}, seed 0, n = 360 validation and 360 test digits, "
        f"{outcome['seconds'][0]:.0f} s with {outcome['seeds_at_a_time']} seeds at a time on {outcome['machine']}."
    )
    if len(outcome["rows"]) > 1:
        source += (
            f" Worst of {len(outcome['rows'])} seeds for the int8 row: {outcome['worst_bytes_ratio']:.1f}x smaller, "
            f"{outcome['worst_test_drop_points']:.2f} points below dense, {outcome['worst_latency_ratio']:.2f} of its latency. "
            f"Mean points below dense over the seeds: {means(outcome)}. Out of order against in order: "
            "{mean:+.2f} points [{low:+.2f}, {high:+.2f}].".format(**outcome["out_of_order_over_in_order"])
        )
    return "\n".join([*lines, "", source])


def means(outcome: dict) -> str:
    """Mean drop of every compressed row and of the control, over the seeds."""
    names = [row["name"] for row in outcome["rows"][0][1:]]
    drops = [sum(100 * rows[i]["drop"] for rows in outcome["rows"]) / len(outcome["rows"]) for i in range(1, 5)]
    return ", ".join(f"{name} {drop:+.2f}" for name, drop in zip(names, drops, strict=True))


def line(row: dict, dense: dict) -> str:
    drop = ""
    if row["drop"] is not None:
        drop = f"{100 * row['drop']:+.2f} [{100 * row['drop_low']:+.2f}, {100 * row['drop_high']:+.2f}]"
    cells = [
        row["name"],
        f"{100 * row['validation_accuracy']:.2f} %",
        f"{100 * row['test_accuracy']:.2f} %",
        drop,
        f"{row['params']:,}",
        f"{row['macs']:,}",
        f"{row['bytes']:,}",
        f"{dense['bytes'] / row['bytes']:.1f}x",
        f"{row['latency_ratio']:.2f}x",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
