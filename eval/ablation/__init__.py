"""What each part of the codec brings: the same training with one part left out, at the same seed."""
