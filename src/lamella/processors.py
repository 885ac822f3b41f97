"""What this machine computes with: `processor()`, as results and tables of latencies name it."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# How Linux names the instructions that multiply and sum four pairs of 8-bit numbers: integer files are twice as fast with them.
INTEGER_PRODUCTS = {"avx512_vnni": "VNNI", "avx_vnni": "VNNI", "asimddp": "DOTPROD"}


def processor() -> str:
    """The processor's kind, and whether it has products of integers: "AMD EPYC with VNNI". As the platform names it without Linux."""
    told: dict[str, str] = {}
    for line in CPUINFO.read_text().splitlines() if CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    kind = told.get("model name") or platform.processor() or platform.machine()
    flags = (told.get("flags") or told.get("Features") or "").split()
    products = {INTEGER_PRODUCTS[flag] for flag in flags if flag in INTEGER_PRODUCTS}
    return " with ".join([kind, *sorted(products)])
