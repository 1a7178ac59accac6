"""Charts as inline SVG, without library or script; colours come from the page's style and follow light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 280  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 14, 44  # margins around the plot
POINTS = 400  # of a drawn curve; the figures beside it come from all its corners
BINS = 40

Rates = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: For the legend.
        style: Class of the page's style: `first` or `second`.
        x: Rising values.
        y: Same length.
    """

    name: str
    style: str
    x: Rates
    y: Rates


def line_chart(curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, x_limit: float = 1.0) -> str:
    """Rising curves over [0, x_limit] x [0, 1], each from all its corners, drawn with a few hundred points."""
    x_of = _Scale(low=0.0, high=x_limit, start=LEFT, end=WIDTH - RIGHT)
    y_of = _Scale(low=0.0, high=1.0, start=HEIGHT - BOTTOM, end=TOP)
    parts = _y_grid(y_of, [0, 0.2, 0.4, 0.6, 0.8, 1]) + _x_axis(x_of, np.linspace(0, x_limit, 6), x_label)
    parts.append(_turned_label(y_label))
    for row, curve in enumerate(curves):
        x, y = _thinned(curve.x, curve.y, x_limit=x_limit)
        points = " ".join(f"{x_of(a):.1f},{y_of(b):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<polyline class="curve {curve.style}" points="{points}"/>')
        line_y = HEIGHT - BOTTOM - 16 - 20 * (len(curves) - 1 - row)
        parts.append(f'<line class="curve {curve.style}" x1="270" x2="294" y1="{line_y}" y2="{line_y}"/>')
        parts.append(f'<text class="legend" x="301" y="{line_y + 4}">{escape(curve.name)}</text>')
    return _svg(parts, title=title)


def histogram(
    *, good: NDArray[np.floating], defective: NDArray[np.floating], threshold: float | None, title: str
) -> str:
    """Scores of good images above and of defective ones below one axis, with the threshold across both."""
    edges = _edges(np.concatenate([good, defective]), threshold)
    counts = {"good": np.histogram(good, edges)[0], "defective": np.histogram(defective, edges)[0]}
    x_of = _Scale(low=float(edges[0]), high=float(edges[-1]), start=LEFT, end=WIDTH - RIGHT)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts: list[str] = []
    for name, base, end in (("good", middle - 1, TOP + 6), ("defective", middle + 1, HEIGHT - BOTTOM - 6)):
        highest = int(counts[name].max())
        y_of = _Scale(low=0, high=highest, start=base, end=end)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{end:.1f}" y2="{end:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{end + 4:.1f}" text-anchor="end">{highest}</text>')
        parts += [
            _bar(name, x_of(float(edges[i])), x_of(float(edges[i + 1])), base, y_of(int(count)))
            for i, count in enumerate(counts[name])
            if count
        ]
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    parts += _x_axis(x_of, np.linspace(edges[0], edges[-1], 5), "image score, raw units")
    parts.append(_turned_label("images per bin"))
    if threshold is not None:
        at = x_of(threshold)
        side, anchor = (6, "start") if at < WIDTH / 2 else (-6, "end")
        parts.append(f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="legend" x="{at + side:.1f}" y="{middle - 22:.1f}" text-anchor="{anchor}">threshold</text>'
        )
    return _svg(parts, title=title)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """A straight line from values to positions in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _thinned(x: Rates, y: Rates, *, x_limit: float) -> tuple[Rates, Rates]:
    """A few hundred corners, evenly spread along the drawn line; the last lies on the limit."""
    inside = int(np.searchsorted(x, x_limit, side="right"))
    x_in = np.append(x[:inside], x_limit)
    y_in = np.append(y[:inside], np.interp(x_limit, x, y))
    along = np.cumsum(np.diff(x_in, prepend=0) / x_limit + np.diff(y_in, prepend=0))
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)))
    chosen = np.unique(np.concatenate([[0], np.minimum(chosen, x_in.size - 1), [x_in.size - 1]]))
    return x_in[chosen], y_in[chosen]


def _edges(scores: NDArray[np.floating], threshold: float | None) -> Rates:
    values = scores if threshold is None else np.append(scores, threshold)
    low, high = float(values.min()), float(values.max())
    margin = 0.02 * (high - low) or 0.5  # all scores equal: any width will do
    return np.linspace(low - margin, high + margin, BINS + 1)


def _bar(style: str, left: float, right: float, base: float, top: float) -> str:
    y, height = min(base, top), abs(base - top)
    place = f'x="{left + 0.5:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" height="{height:.1f}"'
    return f'<rect class="bar {style}" {place}/>'


def _y_grid(scale: _Scale, values: Sequence[float]) -> list[str]:
    parts = []
    for value in values:
        y = scale(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    return parts


def _x_axis(scale: _Scale, values: Rates, label: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for value in values:
        x = scale(float(value))
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:.3g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _turned_label(label: str) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text class="label" x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">'
        f"{escape(label)}</text>"
    )


def _svg(parts: Sequence[str], *, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
