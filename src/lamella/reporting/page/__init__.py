"""The page: one self-contained HTML file that tells a whole run, from whatever stages exist.

write_report("runs/r20")        -> runs/r20/report.html
render(read_stages("runs/r20")) -> the text of the page
"""

from .rendering import render, write_report

__all__ = ["render", "write_report"]
