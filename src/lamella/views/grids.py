"""What every table of the terminal is made of."""

from rich.table import Table as Grid


def grid(*columns: str) -> Grid:
    """An empty table of these columns; the first never breaks."""
    table = Grid(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table
