"""Device-server collaboration: agents with models of their own, and a server that aggregates.

Source: AI Flow (arXiv 2506.12479), section IV-A.
"""

from tofc.agents.aggregation import confidence_vote, majority_vote
from tofc.agents.cards import AgentCard, AgentsConfig, LearnedSelector, TfidfSelector
from tofc.agents.collaboration import Agents, Collaboration
from tofc.agents.endpoints import AgentReply

__all__ = [
    "AgentCard",
    "AgentReply",
    "Agents",
    "AgentsConfig",
    "Collaboration",
    "LearnedSelector",
    "TfidfSelector",
    "confidence_vote",
    "majority_vote",
]
