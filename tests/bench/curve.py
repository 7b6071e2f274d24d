"""The curve of growth as a small SVG: seconds over keys, both in powers of ten, and the workers' peak memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 680, 360, 60, 48, 620, 300
COLOURS = ("#1f6feb", "#bf5b04", "#2da44e")
MOST_MEGABYTES = 200
"""The upper end of the memory's own scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One size."""

    keys: int
    seconds: float
    megabytes: float


def draw_curve(lines: dict[str, list[Point]]) -> str:
    """An SVG with a line of seconds (full) and one of megabytes (dotted) for each database, by name."""
    points = [point for line in lines.values() for point in line]
    across = _decades([point.keys for point in points])
    up = _decades([point.seconds for point in points])
    body = [*_grid(across, up)]
    for (name, line), colour, row in zip(lines.items(), COLOURS, range(len(lines)), strict=False):
        seconds = [(_x(point.keys, across), _y(math.log10(point.seconds), up)) for point in line]
        memory = [(_x(point.keys, across), _y(point.megabytes, (0, MOST_MEGABYTES))) for point in line]
        body += [_polyline(seconds, colour, ""), _polyline(memory, colour, ' stroke-dasharray="2 4"')]
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in seconds]
        for point, (x, y) in zip(line, seconds, strict=True):
            told, shift = f"{point.seconds:g} s, {point.megabytes:.0f} MB", 12 * row
            if x == LEFT:  # to its left there is no room
                body.append(_text(x + 6, y + 18 + shift, told, "start", colour))
            else:
                body.append(_text(x - 6, y - 8 - shift, told, "end", colour))
        body.append(_text(LEFT + 140 * row, TOP - 8, name, "start", colour))
    title = "Deep repack, two workers: seconds (full) and a worker's peak memory (dotted) over data keys"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
            f"<title>{title}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            _text(LEFT, 20, title, "start", "#333"),
            *body,
            "</svg>\n",
        ]
    )


def _decades(values: list[float] | list[int]) -> tuple[float, float]:
    """The powers of ten around all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(keys: float, across: tuple[float, float]) -> float:
    return LEFT + (math.log10(keys) - across[0]) / (across[1] - across[0]) * (RIGHT - LEFT)


def _y(value: float, up: tuple[float, float]) -> float:
    return BOTTOM - (value - up[0]) / (up[1] - up[0]) * (BOTTOM - TOP)


def _grid(across: tuple[float, float], up: tuple[float, float]) -> Iterator[str]:
    for power in range(int(across[0]), int(across[1]) + 1):
        x = _x(10.0**power, across)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}" stroke="#ddd"/>'
        yield _text(x, BOTTOM + 18, f"{10**power:,}", "middle", "#333")
    for power in range(int(up[0]), int(up[1]) + 1):
        y = _y(power, up)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(LEFT - 8, y + 4, f"{10.0**power:g} s", "end", "#333")
    yield _text((LEFT + RIGHT) / 2, HEIGHT - 14, f"data keys; dotted: 0 to {MOST_MEGABYTES} MB", "middle", "#333")


def _polyline(points: list[tuple[float, float]], colour: str, style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}" fill="{colour}">{text}</text>'
