"""From segments of single views to objects that all views agree on."""

from instance_nerfstudio.lift.assign_segments import AssignmentConfig
from instance_nerfstudio.lift.instance_grid import InstanceGrid
from instance_nerfstudio.lift.match_consensus import ConsensusMatchConfig, match_consensus
from instance_nerfstudio.lift.match_hungarian import match_hungarian
from instance_nerfstudio.lift.match_seed import SeedConfig, match_seed
from instance_nerfstudio.lift.matching import MatchedInstance, Matching, settle
from instance_nerfstudio.lift.view_projection import ViewProjection, read_projections, write_projections

__all__ = [
    "AssignmentConfig",
    "ConsensusMatchConfig",
    "InstanceGrid",
    "MatchedInstance",
    "Matching",
    "SeedConfig",
    "ViewProjection",
    "match_consensus",
    "match_hungarian",
    "match_seed",
    "read_projections",
    "settle",
    "write_projections",
]
