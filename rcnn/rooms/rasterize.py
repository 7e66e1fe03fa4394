"""Nearest triangles of a view by OpenGL, without a window: the renderer for machines with a GPU.

Needs moderngl and a driver with EGL (Mesa's software renderer will do, but is slower than Embree).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rcnn.errors import InputError
from rcnn.rooms.render import Pinhole
from rcnn.rooms.scene import Scene

# Metres; farther than any two points of a room, nearer than anything that a camera sees.
FAR, NEAR = 100.0, 0.005

_VERTEX = """
#version 330
uniform mat4 clip_from_world;
uniform vec3 eye;
uniform vec3 forward;
in vec3 position;
out vec2 weights;
out vec3 ray;
out float z_depth;
void main() {
    gl_Position = clip_from_world * vec4(position, 1.0);
    int corner = gl_VertexID % 3;
    weights = vec2(corner == 1, corner == 2);
    ray = position - eye;
    z_depth = dot(ray, forward);
}
"""
# The depth is written out, because along z it has the same precision everywhere, unlike OpenGL's own.
_FRAGMENT = """
#version 330
uniform float far;
in vec2 weights;
in vec3 ray;
in float z_depth;
out vec4 hit;
void main() {
    hit = vec4(float(gl_PrimitiveID + 1), weights, length(ray));
    gl_FragDepth = z_depth / far;
}
"""


class Rasterizer:
    """The triangles of a scene on the GPU."""

    def __init__(self, scene: Scene):
        """Raises InputError when moderngl is missing or no OpenGL context can be had."""
        self._context = _context()
        corners = scene.vertices[scene.faces]
        self._normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self._program = self._context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._program["far"] = FAR
        self._buffer = self._context.buffer(np.ascontiguousarray(corners, np.float32).tobytes())
        self._triangles = self._context.vertex_array(self._program, [(self._buffer, "3f", "position")])
        self._targets: dict[tuple[int, int], Any] = {}

    def first_hit(self, pose: np.ndarray, camera: Pinhole, offset: tuple[float, float]) -> dict[str, np.ndarray]:
        """Nearest triangles along `camera.rays(pose, offset)`, as `RayCaster.first_hit` gives them.

        A triangle's edge lies where the GPU's sub-pixel grid puts it, up to 1/512 of a pixel off.
        """
        size = (camera.width, camera.height)
        if size not in self._targets:
            colour, depth = self._context.texture(size, 4, dtype="f4"), self._context.depth_renderbuffer(size)
            self._targets[size] = self._context.framebuffer([colour], depth)
        target = self._targets[size]
        target.use()
        self._context.enable_only(self._context.DEPTH_TEST)
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        clip = _projection(camera, offset) @ np.linalg.inv(pose)
        self._program["clip_from_world"].write(np.ascontiguousarray(clip.T, np.float32).tobytes())
        self._program["eye"] = tuple(pose[:3, 3].tolist())
        self._program["forward"] = tuple((-pose[:3, 2]).tolist())
        self._triangles.render()
        pixels = np.frombuffer(target.read(components=4, dtype="f4"), np.float32).reshape(-1, 4)
        triangle = pixels[:, 0].astype(np.int32) - 1
        return {
            "primID": triangle,
            "u": np.clip(pixels[:, 1], 0, 1),
            "v": np.clip(pixels[:, 2], 0, 1),
            "tfar": pixels[:, 3],
            "Ng": self._normals[triangle],
        }

    def close(self) -> None:
        """Gives the GPU's memory back."""
        for target in self._targets.values():
            for attachment in (*target.color_attachments, target.depth_attachment):
                attachment.release()
            target.release()
        for thing in (self._triangles, self._buffer, self._program):
            thing.release()


_shared: list[Any] = []


def _context() -> Any:
    """This process's OpenGL context: making one takes longer than a room's views."""
    if not _shared:
        try:
            import moderngl

            create: Any = moderngl.create_context  # its annotations refuse the documented `backend="egl"`
        except ImportError:
            raise InputError("--renderer opengl needs moderngl: pip install moderngl") from None
        try:
            _shared.append(create(standalone=True, backend="egl", require=330))
        except Exception as error:  # whatever the driver's loader raises
            reason = " ".join(str(error).split())
            raise InputError(f"--renderer opengl: no OpenGL 3.3 by EGL ({reason}); use --renderer embree") from None
    return _shared[0]


def _projection(camera: Pinhole, offset: tuple[float, float]) -> np.ndarray:
    """(4, 4) from camera to clip space, with a view's first row of pixels first in memory.

    OpenGL samples a pixel at its centre, so the picture moves by what the offset is away from there.
    """
    projection = np.zeros((4, 4))
    projection[0, 0] = 2 * camera.focal / camera.width
    projection[0, 2] = -(1 - 2 * offset[0]) / camera.width
    projection[1, 1] = -2 * camera.focal / camera.height
    projection[1, 2] = -(1 - 2 * offset[1]) / camera.height
    projection[2, 2:] = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    projection[3, 2] = -1
    return projection
