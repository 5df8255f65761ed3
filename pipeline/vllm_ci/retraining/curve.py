"""The loss of a training as a picture: SVG, drawn by pygal without scripts and without files from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

Points = Sequence[Sequence[float]]
_MOST_POINTS = 400


def svg(losses: Points, validation: Points) -> bytes:
    """A line for the training rows and one for the validation rows.

    Args:
        losses: Pairs of step and loss.
        validation: The same for the validation rows; may be empty.
    """
    import pygal

    every = max(len(losses) // _MOST_POINTS, 1)
    chart = pygal.XY(
        js=(), no_prefix=True, title="Loss", x_title="step", dots_size=1.5, width=800, height=420, include_x_axis=False
    )
    chart.add("training", [tuple(each) for at, each in enumerate(losses) if at % every == 0 or at == len(losses) - 1])
    if validation:
        chart.add("validation", [tuple(each) for each in validation])
    drawn: bytes = chart.render()
    return drawn
