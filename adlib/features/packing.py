"""Weights packed into a folder, for a machine without a network."""

import shutil
from pathlib import Path

import open_clip
from safetensors.torch import save_file

from adlib.features import backbones, clip_towers
from adlib.features.installed import installed_file, installed_state
from adlib.files import replacing


def pack(name: str, folder: str | Path) -> Path:
    """Put the weights of a timm or open_clip name into a folder, under the name that ADLIB_WEIGHTS is searched for."""
    target = Path(folder).expanduser() / f"{name}.safetensors"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            if installed := installed_file(name):
                save_file(installed_state(name, installed), partial)
            else:
                is_clip = open_clip.get_model_config(name.partition(".")[0])
                shutil.copyfile((clip_towers.download if is_clip else backbones.download)(name), partial)
    return target
