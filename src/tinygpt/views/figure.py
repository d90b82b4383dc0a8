"""A figure of matplotlib that a notebook shows. Only functions that draw import it, since matplotlib is an extra."""

from io import BytesIO

from matplotlib import figure


class Figure(figure.Figure):
    """A figure that a notebook shows as an image, also before ``matplotlib.pyplot`` is imported."""

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()
