"""Pictures and 3D files of grids, boxes and objectness."""

from rcnn.visualization.scene_contents import SceneContents
from rcnn.visualization.scene_files import SceneFilesConfig, write_scene_glb, write_scene_plys
from rcnn.visualization.sheet import SheetConfig, draw_sheet, sheet_tensor, write_sheet

__all__ = [
    "SceneContents",
    "SceneFilesConfig",
    "SheetConfig",
    "draw_sheet",
    "sheet_tensor",
    "write_scene_glb",
    "write_scene_plys",
    "write_sheet",
]
