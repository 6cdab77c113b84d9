"""Values from files and command lines as the types that they must have. What tags sound needs no more of `config`."""

from typing import Any

from paddletag.runtime import UserError

LONGEST = 600  # seconds of a clip, at most: whoever uses a trained model pads each sound to that length
TASKS = ("single_label", "multi_label")
_KINDS = {int: "an integer", float: "a number", str: "text", bool: "true or false", list: "a list"}


def typed(value: Any, default: object, name: str) -> Any:
    """`value` as the type of `default`; UserError with the key's `name` if it is of another.

    YAML reads 1e-4 as text and 1 as an integer: both pass for a float.
    """
    kind = type(default)
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    if kind is str and value is None:
        return ""
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if type(value) is kind:
        return value
    shown = "a list or a mapping" if isinstance(value, (list, dict)) else repr(value)  # YAML's aliases nest without end
    raise UserError(f"{name} must be {_KINDS[kind]}, not {shown}")
