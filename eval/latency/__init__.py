"""Time from a picture to an answer, stage by stage, over links of many rates (paper, figure 5)."""
