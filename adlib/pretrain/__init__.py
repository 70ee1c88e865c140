"""Networks that learn from networks: the features that `weights="bundled"` names, and a teacher for EfficientAD.

formulas     random numbers -> drawings
photographs  a folder -> pictures, whole or in cuts
collage      drawings and cuts -> pairs of training images, whole and spoilt, as a camera would take them
lesson       a teacher's feature maps of those -> losses of a pupil's
training     the losses -> a file of weights

Beside it, from whole photographs:
teacher      of EfficientAD, distilled
"""

from adlib.pretrain.teacher import distil
from adlib.pretrain.training import pretrain

__all__ = ["distil", "pretrain"]
