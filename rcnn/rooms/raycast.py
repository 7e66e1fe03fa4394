"""Ray casting with Embree, and the processes that do it (Embree's Python binding holds the interpreter lock)."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh

from rcnn.rooms.scene import Scene
from rcnn.worker_pool import worker_pool

if TYPE_CHECKING:
    from rcnn.rooms.rasterize import Rasterizer
    from rcnn.rooms.render import Pinhole

Result = TypeVar("Result")


class RayCaster:
    """An acceleration structure over all triangles of a scene, and what finds the nearest ones of a whole view."""

    def __init__(self, scene: Scene, rasterizer: Rasterizer | None = None):
        """`rasterizer` of the same scene takes over `first_hit_in_view`."""
        self._rasterizer = rasterizer
        self._embree: Any = rtcore_scene.EmbreeScene()  # pyright: ignore[reportAttributeAccessIssue]
        # the binding does not own the geometry, so it is kept here
        self._triangles = np.ascontiguousarray(scene.vertices[scene.faces])
        self._mesh = TriangleMesh(self._embree, self._triangles)

    def first_hit(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest triangles along rays (N, 3), (N, 3).

        Returns `primID` (N,) int32, -1 where nothing is hit; `tfar` (N,), the distance in lengths of the direction;
        barycentric `u`, `v` (N,), the weights of the second and third corner; `Ng` (N, 3), unnormalised normals.
        """
        return self._embree.run(_float32(origins), _float32(directions), output=1)

    def first_hit_in_view(
        self, pose: np.ndarray, camera: Pinhole, offset: tuple[float, float] = (0.5, 0.5), chosen: Any = slice(None)
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """`first_hit` along `camera.rays(pose, offset)` of the chosen pixels, with the rays' origins and directions."""
        origins, directions = (values[chosen] for values in camera.rays(pose, offset))
        if self._rasterizer is None:
            return self.first_hit(origins, directions), origins, directions
        hit = self._rasterizer.first_hit(pose, camera, offset)
        return {name: values[chosen] for name, values in hit.items()}, origins, directions

    def nearest_triangle(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """(N,) int32 number of the nearest triangle, -1 where nothing is hit."""
        return self._embree.run(_float32(origins), _float32(directions), query="INTERSECT")

    def is_blocked(self, origins: np.ndarray, directions: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """(N,) bool: whether anything lies within `reach` (N,) lengths of the direction."""
        return self._embree.run(_float32(origins), _float32(directions), dists=_float32(reach), query="OCCLUDED") >= 0


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


# What the functions run in a worker process find there.
_worker_state: dict[str, Any] = {}


def _start_worker(pickled: Path) -> None:
    scene = pickle.loads(pickled.read_bytes())  # what `ray_pool` has just written
    _worker_state.update(scene=scene, caster=RayCaster(scene))


def _call(function: Callable[..., Result], arguments: tuple) -> Result:
    return function(_worker_state["caster"], _worker_state["scene"], *arguments)


class RayPool:
    """Worker processes that each hold the scene and its acceleration structure."""

    def __init__(self, executor: ProcessPoolExecutor):
        self._executor = executor

    def map(self, function: Callable[..., Result], arguments: Iterable[tuple]) -> Iterator[Result]:
        """Yields `function(caster, scene, *arguments)` in the order of the arguments.

        The function must be importable by name, and its result must not depend on the process it runs in.
        """
        futures = [self._executor.submit(_call, function, argument) for argument in arguments]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError("a ray casting process died (out of memory?); try fewer workers") from None


class InlinePool:
    """Does in this process what `RayPool` does in others, for callers that are one of many processes themselves."""

    def __init__(self, scene: Scene, caster: RayCaster | None = None):
        self._scene, self._caster = scene, caster or RayCaster(scene)

    def map(self, function: Callable[..., Result], arguments: Iterable[tuple]) -> Iterator[Result]:
        """Yields `function(caster, scene, *arguments)` in the order of the arguments."""
        for argument in arguments:
            yield function(self._caster, self._scene, *argument)


@contextmanager
def ray_pool(scene: Scene, num_workers: int) -> Iterator[RayPool]:
    """Opens a pool; on any exception the waiting work is dropped and the processes end."""
    # Through a file: arguments travel through a pipe, and with a scene's megabytes each process would have to be up and
    # reading before the next one is started.
    with TemporaryDirectory(prefix="room-") as folder:
        pickled = Path(folder) / "scene.pickle"
        pickled.write_bytes(pickle.dumps(scene, pickle.HIGHEST_PROTOCOL))
        executor = worker_pool(num_workers, _start_worker, (pickled,))
        try:
            yield RayPool(executor)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
