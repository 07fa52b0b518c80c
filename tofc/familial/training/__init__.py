"""Training a family: `tofc train-familial`."""
