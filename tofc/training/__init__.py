"""Training: the small base model (`pretrain`), and the codec of merged features (`codec`)."""
