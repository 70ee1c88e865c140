"""Pretraining without natural images: the features that `weights="bundled"` names, and how to train them anew.

formulas    a class number -> a recipe -> drawings
collage     drawings -> training images with a label per pixel
training    training images -> a file of weights
own_images  the user's own normal images as a second task

Beside it, from photographs and a network that was trained on natural images:
teacher     of EfficientAD, distilled
"""

from adlib.pretrain.teacher import distil
from adlib.pretrain.training import pretrain

__all__ = ["distil", "pretrain"]
