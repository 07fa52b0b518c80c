"""Collaborative decoding: a small model drafts, larger ones verify, and the answer is the largest one's.

Source: AI Flow (arXiv 2506.12479), section II-B2.
"""

from tofc.drafting.pace import Pace
from tofc.drafting.speculate import Decoded, TextModel, speculate
from tofc.language.sampling import Sampling

__all__ = ["Decoded", "Pace", "Sampling", "TextModel", "speculate"]
