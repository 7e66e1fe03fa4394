"""Furnished rooms with exact instance truth, made from furniture models and ray-cast on the CPU."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnn.rooms.room import RoomConfig, make_room

__all__ = ["RoomConfig", "make_room"]


def __getattr__(name: str) -> Any:
    # Imported when used: commands of this package must be able to say that the ray caster is not installed.
    if name in __all__:
        from rcnn.rooms import room

        return getattr(room, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
