"""Can a reader rank five layers by sensitivity from their fingerprints alone? The trial, and its score.

    python benchmarks/fingerprints.py sheets runs/r20 runs/digits --out trial       # sheets with five glyphs each, A to E
    python benchmarks/fingerprints.py score trial answers.json                      # {"1": "DACEB", ...}: least sensitive first

The sheets show five layers of one network drawn at random, without names or numbers; `key.json` holds what was measured and is
not to be opened before the answers are written. Sensitivity is the mean loss of the score over 0 to 90 % pruned. The score:
pairs put in the right order, out of ten per sheet, and sheets without a mistake.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A file beside this one has the name of a standard module, which torch imports: this directory must not be searched.
sys.path = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "benchmarks")]

from benchmarks.provenance import keep, provenance, result_file
from lamella.records import load_record
from lamella.reporting import svg
from lamella.reporting.charts import grounded, png_of
from lamella.reporting.prints import LayerPrint, glyph_marks, layer_prints, scale_of
from lamella.reporting.prints.glyph import WIDTH
from lamella.reporting.styles import flat_css
from lamella.schema import Profile

LETTERS = "ABCDE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    sheets = verbs.add_parser("sheets")
    sheets.add_argument("runs", nargs="+", type=Path)
    sheets.add_argument("--out", type=Path, required=True)
    sheets.add_argument("--per-run", type=int, default=3)
    sheets.add_argument("--seed", type=int, default=0)
    scored = verbs.add_parser("score")
    scored.add_argument("trial", type=Path)
    scored.add_argument("answers", type=Path)
    asked = parser.parse_args()
    if asked.verb == "sheets":
        write_sheets(asked.runs, asked.out, asked.per_run, asked.seed)
    else:
        write_score(asked.trial, json.loads(asked.answers.read_text()))


def write_sheets(runs: list[Path], out: Path, per_run: int, seed: int) -> None:
    """Five glyphs a sheet, and the key."""
    out.mkdir(parents=True, exist_ok=True)
    draw, key = random.Random(seed), {}
    for run in runs:
        profile = load_record(run / "profile.json", Profile)
        prints = layer_prints(profile.graph, profile)
        known = list({p.group: p for p in prints if p.sensitivity is not None}.values())
        for _ in range(per_run):
            number, chosen = len(key) + 1, draw.sample(known, len(LETTERS))
            marks = [
                mark
                for i, (letter, p) in enumerate(zip(LETTERS, chosen, strict=True))
                for mark in glyph_marks(anonymous(p, letter), scale_of(prints), i * (WIDTH + 10))
            ]
            untold = [replace(mark, title="") for mark in marks]  # titles hold the numbers
            sheet = grounded(svg(untold, label=f"Sheet {number}", style=flat_css("light")), "light")
            (out / f"sheet-{number}.svg").write_text(sheet)
            (out / f"sheet-{number}.png").write_bytes(png_of(sheet, 1.5))
            layers = {letter: [p.name, p.sensitivity] for letter, p in zip(LETTERS, chosen, strict=True)}
            key[str(number)] = {"network": profile.graph.model, "n": profile.baseline.n, "layers": layers}
    (out / "key.json").write_text(json.dumps({"seed": seed, "sheets": key}, indent=1))


def anonymous(found: LayerPrint, letter: str) -> LayerPrint:
    """The glyph without its name."""
    return replace(found, name=letter, group=letter)


def write_score(trial: Path, answers: dict[str, str]) -> None:
    """What the reader got right, on the screen and as a result file."""
    key = json.loads((trial / "key.json").read_text())
    rows = [row(number, sheet, answers[number]) for number, sheet in key["sheets"].items()]
    right, pairs = sum(r["pairs_right"] for r in rows), sum(r["pairs"] for r in rows)
    found = {
        **provenance(),
        "seeds": [key["seed"]],
        "sheets": len(rows),
        "pairs": pairs,
        "pairs_right": right,
        "sheets_without_mistake": sum(r["pairs_right"] == r["pairs"] for r in rows),
        "rows": rows,
    }
    keep(result_file("fingerprints"), found)
    print(
        f"{right} of {pairs} pairs in the right order; {found['sheets_without_mistake']} of {len(rows)} sheets without a mistake"
    )


def row(number: str, sheet: dict, answer: str) -> dict:
    """One sheet: the order given, the order measured, and the pairs put wrong with how far apart they are."""
    worth = {letter: value for letter, (_, value) in sheet["layers"].items()}
    if sorted(answer) != sorted(worth):
        raise SystemExit(f"sheet {number}: {answer!r} is no order of {''.join(sorted(worth))}")
    pairs = list(combinations(answer, 2))
    wrong = [f"{a}{b}, {100 * abs(worth[a] - worth[b]):.2f} points apart" for a, b in pairs if worth[a] > worth[b]]
    measured = "".join(sorted(worth, key=lambda letter: worth[letter]))
    counts = {"pairs": len(pairs), "pairs_right": len(pairs) - len(wrong)}
    return {
        "sheet": number,
        "network": sheet["network"],
        "answer": answer,
        "measured": measured,
        **counts,
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
