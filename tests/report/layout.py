"""Whether texts of a figure can be read."""

from matplotlib.figure import Figure


def drawn_ticks(axis):
    """Return the labels of the ticks that an axis shows."""
    low, high = sorted(axis.get_view_interval())
    places = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
    return [text for place, text in places if low <= place <= high]


def assert_legible(figure: Figure) -> None:
    """Fail if a label, a tick or a legend overlaps another, or leaves the page."""
    figure.draw_without_rendering()
    owners = [each for ax in figure.axes for each in (ax.xaxis, ax.yaxis)]
    owners = [owner for owner in owners if owner.get_visible()]
    texts = [text for owner in owners for text in (owner.label, *drawn_ticks(owner))]
    texts += [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    boxes = [box for each in texts if (box := each.get_window_extent()).width > 0]
    page = figure.bbox.padded(1)
    for index, box in enumerate(boxes):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert not box.padded(-1).count_overlaps(boxes[:index])
