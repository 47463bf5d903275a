"""What an error says."""

import pytest


def message(function, *arguments, kind=ValueError, **options):
    """The text, of one line, of the error that a call raises."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
