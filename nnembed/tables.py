"""A small table that prints in a terminal and in a notebook."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows under named columns, with a title and an optional closing note.

    Parameters
    ----------
    title : str
        Printed above the table.
    columns : sequence of str
        Column heads.
    rows : sequence of sequences
        Cells; numbers are aligned to the right.
    note : str
        Printed below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def __str__(self) -> str:
        """Render as plain text."""
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, color_system=None).print(self.__rich__())
        return out.getvalue().rstrip("\n")

    def __rich__(self) -> object:
        """Render for a rich console."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(title=escape(self.title), caption=escape(self.note) or None, box=box.SIMPLE_HEAD)
        table.title_justify = table.caption_justify = "left"
        for i, name in enumerate(self.columns):
            numeric = bool(self.rows) and all(isinstance(row[i], int | float) for row in self.rows)
            table.add_column(escape(name), justify="right" if numeric else "left")
        for row in self.rows:
            table.add_row(*(escape(_text(cell)) for cell in row))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(c)}</th>" for c in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(c))}</td>" for c in row) + "</tr>" for row in self.rows
        )
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        caption = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _text(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
