"""Collaborative decoding: a small model drafts, larger ones verify, and the answer is the largest one's.

Source: AI Flow (arXiv 2506.12479), section II-B2.
"""

from tofc.decoding.choice import Choice
from tofc.decoding.pace import Pace
from tofc.decoding.together import Decoded, speculate

__all__ = ["Choice", "Decoded", "Pace", "speculate"]
