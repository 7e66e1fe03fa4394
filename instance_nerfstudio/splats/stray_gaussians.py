"""Stray Gaussians: the small pieces of an instance that lie apart from it, where a mask leaked to something else."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from torch import Tensor

from instance_nerfstudio.splats.splat_matter import SplatMatter
from instance_nerfstudio.splats.splat_parameters import SplatParameters

# Half of the cells around a cell, the first that differs being positive: the other half sees it from there.
_HALF_OF_NEIGHBOURS = np.array(
    [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]
)
# Cells per axis that keys have room for; reaches below a part of the instance's size grow to fit.
_MOST_CELLS = 1 << 20
_KEY_STRIDES = np.array([1 << 42, 1 << 21, 1], np.int64)


@dataclass(frozen=True)
class StrayGaussiansConfig:
    """What counts as a piece of its own, and which pieces are strays."""

    reach: float = 2.0
    """Gap over which matter still hangs together, in typical Gaussians of the instance: times the median of their
    spacing (distance to the third neighbour) or of their larger standard deviations, whichever is larger. Nearer
    Gaussians are always of one piece; over 3.5 times as much they never are."""
    extent: float = 1.0
    """Standard deviations up to which a Gaussian is matter. Large ones of bare walls bridge their larger spacing."""
    longest: int = 4
    """Reaches from its centre that a Gaussian is matter at most, however large."""
    least_part: float = 0.05
    """Pieces that weigh less than this share of the heaviest one are strays; see `SplatMatter.weights`."""

    def __post_init__(self) -> None:
        for name, least in (("reach", 0.0), ("extent", 0.0), ("least_part", 0.0), ("longest", 0)):
            if not getattr(self, name) >= least or (name == "reach" and self.reach == 0):
                raise ValueError(f"{name} {getattr(self, name)}: out of range")


def stray_gaussians(
    splats: SplatParameters,
    instance_ids: Int[Tensor, " gaussians"],
    config: StrayGaussiansConfig = StrayGaussiansConfig(),
) -> Bool[Tensor, " gaussians"]:
    """Gaussians of instances that belong to none of their instance's real pieces, on the device of the ids.

    The heaviest piece always stays, and so do further ones that weigh enough: an object seen in two halves, behind
    a post, keeps both. Gaussians of an instance that aren't finite are strays; those of none never are.

    Args:
        splats: in any frame and unit.
        instance_ids: 1 or more are instances; merged already if the parts are to be cleaned as one.
        config: what is a piece.
    """
    finite = splats.finite()
    of_instances = (instance_ids > 0).to(finite.device)
    stray = (of_instances & ~finite).cpu().numpy()
    places = (of_instances & finite).nonzero()[:, 0]
    if len(places):
        matter = SplatMatter.of(splats.select(places))
        ids = instance_ids.to(places.device)[places].cpu().numpy()
        order = np.argsort(ids, kind="stable")
        starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
        rows = places.cpu().numpy()
        for own in np.split(order, starts[1:]):
            stray[rows[own]] = ~_real_pieces(matter.select(own), config)
    return torch.from_numpy(stray).to(instance_ids.device)


def _real_pieces(matter: SplatMatter, config: StrayGaussiansConfig) -> Bool[np.ndarray, " gaussians"]:
    """Which Gaussians of one instance belong to a piece that weighs enough."""
    count, centres = len(matter), matter.centres
    if count == 1:
        return np.ones(1, bool)
    distances, _ = KDTree(centres).query(centres, k=min(4, count))
    typical = max(np.median(distances[:, -1]), np.median(matter.deviations[:, 0]))
    low = centres.min(axis=0)
    reach = max(config.reach * float(typical), float((centres.max(axis=0) - low).max()) / _MOST_CELLS)
    if not reach > 0:
        return np.ones(count, bool)
    halves = np.minimum(config.extent * matter.deviations[:, :2], config.longest * reach)
    low -= halves.max()
    own = _cell_keys(centres, low, reach)
    cells = np.unique(np.concatenate([own, _disc_cells(matter, halves, low, reach)]))
    pieces = _connected_cells(cells)[np.searchsorted(cells, own)]
    weights = np.bincount(pieces, weights=matter.weights())
    return (weights >= config.least_part * weights.max())[pieces]


def _disc_cells(
    matter: SplatMatter, halves: Float[np.ndarray, "gaussians 2"], low: Float[np.ndarray, "3"], reach: float
) -> Int[np.ndarray, " cells"]:
    """Keys of the cells that the discs of large Gaussians cross, with repeats.

    Samples are at most a reach apart along both axes, so that the cells of a disc hang together.
    """
    steps = np.where(halves < reach / 2, 0, np.ceil(halves / reach)).astype(int)
    keys = [np.zeros(0, np.int64)]
    for first, second in np.unique(steps, axis=0):
        if first == 0:  # the larger one
            continue
        along = np.linspace(-1, 1, 2 * first + 1)
        across = np.linspace(-1, 1, 2 * second + 1) if second else np.zeros(1)
        offsets = np.stack(np.meshgrid(along, across), axis=-1).reshape(-1, 2)
        offsets = offsets[(offsets**2).sum(axis=1) <= 1 + 1e-9]
        which = (steps == (first, second)).all(axis=1)
        arms = halves[which][..., None] * matter.axes[which, :2]
        samples = matter.centres[which][:, None] + np.einsum("sa,gax->gsx", offsets, arms)
        keys.append(np.unique(_cell_keys(samples.reshape(-1, 3), low, reach)))
    return np.concatenate(keys)


def _cell_keys(
    points: Float[np.ndarray, "points 3"], low: Float[np.ndarray, "3"], reach: float
) -> Int[np.ndarray, " points"]:
    # One more than the place, so that a neighbour's key never runs over into another axis.
    return (((points - low) / reach).astype(np.int64) + 1) @ _KEY_STRIDES


def _connected_cells(cells: Int[np.ndarray, " cells"]) -> Int[np.ndarray, " cells"]:
    """Number of the piece that each cell belongs to, of sorted keys; cells that touch, at a corner too, are of one."""
    rows, columns = [], []
    for step in _HALF_OF_NEIGHBOURS @ _KEY_STRIDES:
        places = np.searchsorted(cells, cells + step)
        places[places == len(cells)] = 0
        touching = np.flatnonzero(cells[places] == cells + step)
        rows.append(touching)
        columns.append(places[touching])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row), bool), (row, column)), shape=(len(cells), len(cells)))
    return connected_components(graph, directed=False)[1]
