"""The morning report's figures, drawn by matplotlib as SVG that takes its colours from the page's style sheet."""

import io
import re
from collections.abc import Sequence

from agent0.morning import Comparison, Point

# Drawn in these, replaced by the page's variables: so that one figure suits light and dark.
INK, MUTED, GRID, BEFORE, AFTER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BEFORE: "before", AFTER: "after"}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
}


def success_by_night(points: Sequence[Point]) -> str:
    """Held-out success of what served after each night, percent, with Wilson's 95 % interval; at most 60 nights."""
    points = points[-60:]
    shares = [100 * point.rate.share for point in points]
    low, high = zip(*((100 * a, 100 * b) for a, b in (point.rate.interval for point in points)), strict=True)
    names = ["start" if n == 0 else f"{point.when:%d %b}" for n, point in enumerate(points)]

    def draw(axes):
        axes.fill_between(range(len(points)), low, high, color=AFTER, alpha=0.18, linewidth=0)
        axes.plot(range(len(points)), shares, color=AFTER, marker="o", markersize=4)
        axes.annotate(f"{shares[-1]:.0f}%", (len(points) - 1, high[-1]), (0, 4), textcoords="offset points",
                      ha="right", color=INK)  # fmt: skip
        every = max(1, len(points) // 6)
        axes.set_xticks(range(0, len(points), every), names[::every])
        axes.set_ylim(0, 108)
        axes.set_ylabel("right, %")

    return _figure("success", 2.4, draw)


def by_kind(rows: Sequence[Comparison]) -> str:
    """Held-out success before and after, percent, one line a kind of question."""

    def draw(axes):
        for y, row in enumerate(reversed(rows)):
            before, after = 100 * row.before.share, 100 * row.after.share
            axes.plot([before, after], [y, y], color=MUTED, linewidth=1.5, zorder=1)
            axes.scatter([before], [y], color=BEFORE, s=26, zorder=2, label="before" if y == 0 else None)
            axes.scatter([after], [y], color=AFTER, s=26, zorder=3, label="after" if y == 0 else None)
        axes.set_yticks(range(len(rows)), [f"{row.name} ({row.before.asked})" for row in reversed(rows)])
        axes.set_xlim(-3, 103)
        axes.set_xlabel("right, %")
        axes.grid(True, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)

    return _figure("kinds", 1 + 0.38 * len(rows), draw)


def loss_curve(losses: Sequence[float]) -> str:
    """Training loss of each step, and its running mean over a twentieth of them."""
    width = max(1, len(losses) // 20)
    means = [sum(losses[max(0, n - width) : n + 1]) / (n + 1 - max(0, n - width)) for n in range(len(losses))]

    def draw(axes):
        axes.plot(range(1, len(losses) + 1), losses, color=BEFORE, linewidth=0.6, alpha=0.6)
        axes.plot(range(1, len(losses) + 1), means, color=AFTER)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)

    return _figure("loss", 2.4, draw)


def _figure(name: str, height: float, draw) -> str:
    """Return one figure, five inches wide, as an <svg> element without any reference to the outside."""
    import matplotlib  # takes a second to import
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5, height))
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)  # ids are the whole page's
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
