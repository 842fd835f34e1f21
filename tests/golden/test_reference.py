"""The reference page is made from the code."""

from docs.build import PAGE, page


def test_the_reference_page_is_what_the_code_does() -> None:
    """Documentation that is not made anew with a change of behaviour would lie (`make docs` does)."""
    assert PAGE.read_text() == page()
