"""How a report that is printed as a table looks in a notebook."""

from html import escape


class Printed:
    """A base of classes with a `__str__` of several lines: a notebook shows those in place of the `repr`."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
