"""How networks are taught: the loop, its checkpoints, and the training images that several methods share."""
