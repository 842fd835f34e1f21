"""What came as JSON, taken apart without trust: what is not of the expected kind is as good as not there."""

from collections.abc import Callable, Mapping

Value = object
Record = dict[str, object]


def record(value: Value) -> Record:
    """Give the JSON object that *value* is, an empty one if it is none."""
    return value if isinstance(value, dict) else {}


def records(value: Value) -> list[Record]:
    """Give the JSON objects in the array that *value* is."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(value: Value) -> list[str]:
    """Give the items of the array that *value* is, as text."""
    return [str(item) for item in value] if isinstance(value, list) else []


def text(value: Value) -> str:
    """Give *value* as text; "" for null."""
    return "" if value is None else str(value)


def number(value: Value) -> int:
    """Give *value* if it is a whole number, else 0."""
    return value if isinstance(value, int) else 0


def pairs(mapping: Mapping[str, object]) -> str:
    """Write *mapping* as `a=1,b=2`, as lists of labels are shown."""
    return ",".join(f"{key}={text(value)}" for key, value in sorted(mapping.items()))


def label_of(labels: Mapping[str, object]) -> Callable[[str], str]:
    """Give the function that `{{.Label "name"}}` calls."""
    return lambda name: text(labels.get(name))


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Give the key that sorts net9 before net10."""
    import re

    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name))
