"""Furniture models made by people: read from Sweet Home 3D libraries, cleaned, packed, and turned into room meshes."""

from rcnn.rooms.assets.conversion import model_images, model_mesh
from rcnn.rooms.assets.model import Model, ModelInfo
from rcnn.rooms.assets.pack import FurniturePack, shipped_pack

__all__ = ["FurniturePack", "Model", "ModelInfo", "model_images", "model_mesh", "shipped_pack"]
