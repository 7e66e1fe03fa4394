"""Furnished rooms with exact instance truth, made from parametric furniture and ray-cast on the CPU."""

from rcnn.rooms.room import RoomConfig, make_room

__all__ = ["RoomConfig", "make_room"]
