"""report: the page's figures are the evaluation's, and it opens offline."""

from __future__ import annotations

import json
import re

from longcat_cli.folder import RunFolder


def complaints(folder: RunFolder, limit: int) -> list[str]:
    """Read the page as a person does."""
    page = (folder.path / "report.html").read_text("utf-8")
    rows = json.loads((folder.path / "evaluation.json").read_text("utf-8"))
    shown = re.findall(
        r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td><td>\d+%</td><td>[^<]*</td>"
        r"<td>(\d+)/(\d+)</td>",
        page,
    )
    wanted = [(row["model"], row["domain"], f"{row['noise']:g}", str(row["passed"]),
               str(row["total"])) for row in rows]  # fmt: skip
    lines = [] if shown == wanted else ["the page's table is not the evaluation's"]
    if re.search(r'(?:src|href)="?(?:https?:)?//|@import|url\(', re.sub(r"url\(#\w+\)", "", page)):
        lines.append("the page must open offline, and fetches something")
    if page.count("<svg") < 3:
        lines.append("the page must show three curves")
    return lines
