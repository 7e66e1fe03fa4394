"""Config dataclasses as JSON, each with the name of its class."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any


def config_to_json(value: Any) -> Any:
    """Nested dataclasses become objects with the key `type`, sequences become lists."""
    if is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: config_to_json(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **entries}
    if isinstance(value, tuple | list):
        return [config_to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config holds numbers, strings, sequences and dataclasses, not {type(value).__name__}")


def config_from_json(data: Any, kinds: Iterable[type]) -> Any:
    """The inverse of `config_to_json`, with tuples for lists. Fields that are not there keep their defaults.

    Args:
        data: what JSON holds.
        kinds: the dataclasses that may occur.

    Raises:
        ValueError: an unknown class or field, or values that a class refuses.
    """
    known = {kind.__name__: kind for kind in kinds}
    if isinstance(data, list):
        return tuple(config_from_json(item, known.values()) for item in data)
    if not isinstance(data, dict):
        return data
    entries = dict(data)
    name = entries.pop("type", None)
    if name not in known:
        raise ValueError(f"{name!r} is no config of this version; it knows {', '.join(sorted(known))}")
    kind = known[name]
    unknown = entries.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))} in this version")
    try:
        return kind(**{key: config_from_json(value, known.values()) for key, value in entries.items()})
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
