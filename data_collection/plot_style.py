"""How the plots of all reports look, and how they get into a page."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

BLUE, ORANGE, RED, INK, GRID = "#2f6fed", "#f08a24", "#d1443c", "#3a4354", "#e6e9ef"
COLOURS = (BLUE, ORANGE, "#1e9e62", "#8c5bd6", "#d1443c", "#0f9bb3", "#b5892b", "#667085")
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def svg_text(figure: Figure) -> str:
    """Return a figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
