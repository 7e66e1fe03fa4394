"""From segments of single views to objects that all views agree on."""

from instance_nerfstudio.lift.view_consensus import Consensus, ConsensusConfig, find_consensus
from instance_nerfstudio.lift.voxel_votes import vote

__all__ = ["Consensus", "ConsensusConfig", "find_consensus", "vote"]
