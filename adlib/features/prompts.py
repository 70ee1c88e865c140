"""Prompts for CLIP's towers as AdaCLIP trains them, the sentences they go into, and the authors' checkpoint files.

Cao et al., ECCV 2024, arXiv 2407.15795; the rest of the method is adaclip.py.
"""

from pathlib import Path

import torch
from torch import nn

from adlib.errors import InputError
from adlib.features.clip_towers import Before, ClipTowers

# Sentences: every state in every template.

NORMAL = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
)


def sentences(class_name: str) -> tuple[str, ...]:
    """28 sentences about a normal and then 20 about an anomalous object; "-" in its name becomes a space."""
    states = [state.format(class_name.replace("-", " ")) for state in NORMAL + ANOMALOUS]
    return tuple(template.format(state) for state in states for template in TEMPLATES)


class HybridPrompts(nn.Module):
    """What is trained: prompts of both towers, and projections of patches and image to where the sentences are.

    A prompt is `length` tokens; the first `depth` layers of a tower get one each, the sum of a static one, its own, and
    of a dynamic one, which linear layers compute from CLIP's image feature and which is the same for all layers.
    taps: how many layers' patches are projected.
    """

    def __init__(self, towers: ClipTowers, length: int, depth: int, taps: int):
        super().__init__()
        image, text, joint = towers.image_width, towers.text_width, towers.joint_width
        self.length, self.depth = length, depth
        self.image_static = nn.ParameterList(0.02 * torch.randn(length, image) for _ in range(depth))
        self.text_static = nn.ParameterList(0.02 * torch.randn(length, text) for _ in range(depth))  # the first: unused
        self.image_dynamic = nn.ModuleList(nn.Linear(joint, image) for _ in range(length))
        self.text_dynamic = nn.ModuleList(nn.Linear(joint, text) for _ in range(length))
        self.project_patches = nn.ModuleList(nn.Linear(image, joint) for _ in range(taps))
        self.project_image = nn.Linear(joint, joint)

    def in_image(self, features: torch.Tensor) -> Before:
        """Image features [B, D] -> what puts prompts behind the patches, and replaces them layer by layer."""
        dynamic = torch.stack([linear(features) for linear in self.image_dynamic], 1)  # [B, length, C]

        def before(layer: int, tokens: torch.Tensor) -> torch.Tensor:
            if layer >= self.depth:
                return tokens
            others = tokens if layer == 0 else tokens[:, : -self.length]
            return torch.cat([others, dynamic + self.image_static[layer]], 1)

        return before

    def in_text(self, features: torch.Tensor, count: int) -> Before:
        """Image features [B, D] -> what overwrites the first words of B * count sentences, from the second layer on."""
        dynamic = torch.stack([linear(features) for linear in self.text_dynamic], 1).repeat_interleave(count, 0)

        def before(layer: int, tokens: torch.Tensor) -> torch.Tensor:
            if not 1 <= layer < self.depth:
                return tokens
            prompt = dynamic + self.text_static[layer]
            return torch.cat([tokens[:, :1], prompt, tokens[:, 1 + self.length :]], 1)

        return before


# The official checkpoint's names, behind "clip_model.", and ours.
OFFICIAL_NAMES = {
    "visual_prompter.static_prompts.": "image_static.",
    "text_prompter.static_prompts.": "text_static.",
    "dynamic_visual_prompt_generator.head.": "image_dynamic.",
    "dynamic_text_prompt_generator.head.": "text_dynamic.",
    "patch_token_layer.head.": "project_patches.",
    "cls_token_layer.head.0.": "project_image.",
}


def fill_from_official(network: HybridPrompts, file: Path) -> None:
    """Load a file of the official code (.pth). Raises InputError if it is missing, unreadable, or of other sizes."""
    if not file.is_file():
        raise InputError(
            f"prompts={str(file)!r} does not exist: give the path of a checkpoint of the official AdaCLIP."
        )
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        saved = {key.removeprefix("clip_model."): value for key, value in saved.items()}
    except Exception as error:  # torch raises half a dozen types for a file that is not its own
        raise InputError(f"{file} is not a checkpoint of the official AdaCLIP ({error}).") from error
    state = {
        ours + key.removeprefix(theirs): value.float()
        for key, value in saved.items()
        for theirs, ours in OFFICIAL_NAMES.items()
        if key.startswith(theirs)
    }
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if differ := sorted(key for key in wanted | found if wanted.get(key) != found.get(key)):
        one = differ[0]
        raise InputError(
            f"{file} does not fit: {len(differ)} tensors differ, {one} is {found.get(one, 'missing')} there and "
            f"{wanted.get(one, 'missing')} here. Do towers, prompt_length and prompt_depth agree with its training?"
        )
    network.load_state_dict(state)
