"""CLIP's towers: pictures and sentences in one space, frozen, and open between their layers for prompts.

Built by open_clip from its own configurations; its tokeniser comes with it. Radford et al., "Learning Transferable
Visual Models From Natural Language Supervision", ICML 2021.

Sources of weights as of adlib.features.weights, with open_clip's key names. There are no bundled ones: CLIP learns from
pictures with captions, which no formula draws.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import nn

from adlib.errors import InputError
from adlib.features.weights import fill_from_file, from_hub, in_hub_cache, weights_file

CLIP_FILE = "open_clip_model.safetensors"  # as the hub names it

NOT_BUNDLED = "weights='bundled' do not exist for CLIP: use 'pretrained', 'random' or a .safetensors file."

# A configuration for tests and smoke runs, of which no trained weights exist. Its widths differ from each other.
TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4},
}
# What a configuration may hold for its towers to be the plain transformers that are read here.
_PLAIN = {
    "vision_cfg": {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers"},
}
Before = Callable[[int, torch.Tensor], torch.Tensor]  # (layer from 0, its tokens [B, N, C]) -> the tokens it gets


class ClipTowers(nn.Module):
    """The image and the text tower of a CLIP with a plain vision transformer, in eval mode and without own gradients.

    Gradients do flow through them to prompts that `before` puts between their layers.

    name: "<open_clip name>.<tag>", e.g. "ViT-L-14-336.openai", or "tiny" (for tests; random weights only).
    weights: "pretrained", "random" or the path of a .safetensors file. seed: of random weights.
    quick_gelu: x * sigmoid(1.702 x), with which OpenAI trained all its models, instead of the exact GELU.

    Raises InputError for unknown or other than plain configurations, and for weights that are not there or do not fit.
    """

    def __init__(self, name: str, weights: str | Path, quick_gelu: bool = True, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = open_clip.CLIP(**configuration(name) | {"quick_gelu": quick_gelu})
        self.origin = fill_towers(self.net, name, weights, seed)
        self.patch = self.net.visual.conv1.kernel_size[0]  # pixels
        self.image_width = self.net.visual.conv1.out_channels
        self.text_width = self.net.token_embedding.embedding_dim
        self.joint_width = self.net.visual.output_dim
        self.register_buffer("mean", torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        return super().train(False)

    @property
    def image_layers(self) -> nn.ModuleList:
        return self.net.visual.transformer.resblocks

    @property
    def text_layers(self) -> nn.ModuleList:
        return self.net.transformer.resblocks

    def encode_images(
        self, images: torch.Tensor, taps: tuple[int, ...] = (), before: Before | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """float [B, 3, H, W] in [0, 1], sides multiples of the patch -> image features [B, D], tapped patch tokens.

        taps: layers, counted from 1, after which the patches' tokens are returned: list of [B, h * w, C].
        before: what each layer gets; tokens that it adds behind the class token and the patches are not returned.
        """
        visual = self.net.visual
        x = visual.conv1((images - self.mean) / self.std)  # [B, C, h, w]
        grid = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + self.positions(grid)
        x = visual.ln_pre(x)
        tapped = []
        for index, layer in enumerate(self.image_layers):
            x = layer(before(index, x) if before else x)
            if index + 1 in taps:
                tapped.append(x[:, 1 : 1 + grid.numel()])
        return visual.ln_post(x[:, 0]) @ visual.proj, tapped

    def positions(self, grid: torch.Size) -> torch.Tensor:
        """The position embedding [1 + h * w, C] for a grid (h, w): bicubic from the one that was trained, without
        antialiasing, as AdaCLIP's official code has it (and OpenAI's, but not open_clip's newer versions).
        """
        trained = self.net.visual.positional_embedding
        if tuple(grid) == tuple(self.net.visual.grid_size):
            return trained
        patches = trained[1:].T.unflatten(1, self.net.visual.grid_size)[None]
        patches = F.interpolate(patches, size=tuple(grid), mode="bicubic", align_corners=False)
        return torch.cat([trained[:1], patches[0].flatten(1).T])

    def encode_sentences(self, tokens: torch.Tensor, before: Before | None = None) -> torch.Tensor:
        """int [N, L] from `tokenise` (cut to any L that keeps all of a sentence) -> sentence features [N, D]."""
        net, length = self.net, tokens.shape[1]
        x = net.token_embedding(tokens) + net.positional_embedding[:length]
        for index, layer in enumerate(self.text_layers):
            x = layer(before(index, x) if before else x, attn_mask=net.attn_mask[:length, :length])
        ends = tokens.argmax(1)  # the end of text has the highest number
        return net.ln_final(x)[torch.arange(len(x), device=x.device), ends] @ net.text_projection


@cache
def tokenise(sentences: tuple[str, ...]) -> torch.Tensor:
    """int [N, L], L the length of the longest sentence with its start and end: words past an end are never seen."""
    tokens = open_clip.tokenize(list(sentences))
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def configuration(name: str) -> dict:
    """open_clip's configuration of "<open_clip name>.<tag>", or TINY. Raises InputError if it is not a plain ViT."""
    if name == "tiny":
        return TINY
    found = open_clip.get_model_config(name.partition(".")[0])
    if found is None or set(found) - {"embed_dim", "quick_gelu", *_PLAIN} or any(
        set(found[part]) - known for part, known in _PLAIN.items()
    ):  # fmt: skip
        said = "does not know it" if found is None else "builds something else than two plain transformers of it"
        raise InputError(f"towers={name!r}: open_clip {said}. Use e.g. ViT-L-14-336.openai, ViT-B-16.openai or tiny.")
    return found


def fill_towers(net: nn.Module, name: str, weights: str | Path, seed: int) -> dict:
    """Load weights into net; return their origin: kind, and the file with its hash where there is one."""
    if weights == "random":
        return {"kind": "random", "seed": seed}
    if weights == "bundled":
        raise InputError(NOT_BUNDLED)
    if weights == "pretrained":
        return {"kind": "pretrained", **fill_from_file(net, weights_file(name) or download(name))}
    return {"kind": "file", **fill_from_file(net, Path(weights).expanduser())}


def find_towers(name: str, weights: str | Path, fetch: bool = False) -> Path | None:
    """The file that `fill_towers` would read, as far as it is on this machine; None without one.

    fetch: ask the hub for it; where that fails, it stays None.
    """
    if weights != "pretrained":
        return None if weights in ("random", "bundled") else Path(weights).expanduser()
    repository = _repository(name)
    try:
        found = weights_file(name) or (in_hub_cache(repository, CLIP_FILE) if repository else None)
        return download(name) if fetch and found is None else found
    except InputError:
        return None


def check_towers(name: str, weights: str | Path, fetch: bool = True) -> None:
    """Raise the InputError that the towers would, where it is seen in the name or the place of the weights.

    fetch: as of adlib.features.backbones.check_backbone.
    """
    configuration(name)
    if weights == "bundled":
        raise InputError(NOT_BUNDLED)
    if weights == "pretrained" and find_towers(name, weights) is None:
        if not fetch and _repository(name):
            raise InputError(f"the weights of {name} are not on this machine; the hub is asked for them.")
        download(name)
    elif weights not in ("pretrained", "random") and not Path(weights).expanduser().is_file():
        raise InputError(f"weights={str(weights)!r} is neither pretrained, random nor a file that exists.")


def _repository(name: str) -> str:
    """Where the hub has the weights of "<open_clip name>.<tag>"; "" if open_clip knows of none."""
    model, _, tag = name.partition(".")
    return open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").strip("/")


def download(name: str) -> Path:
    """The weights of "<open_clip name>.<tag>" from the hub, or from the hub's cache on this machine.

    Returns the path of a .safetensors file. Raises InputError when there is no such tag or no network.
    """
    repository, model = _repository(name), name.partition(".")[0]
    if not repository:
        tags = ", ".join(f"{model}.{tag}" for tag in open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise InputError(f"open_clip names no weights for towers={name!r}; there are {tags}. Or weights='random'.")
    advice = (
        f"On a machine with a network fetch {CLIP_FILE} of the hub's repository {repository}, bring it "
        f"here as DIR/{name}.safetensors and set ADLIB_WEIGHTS=DIR"
    )
    return from_hub(name, repository, CLIP_FILE, advice)
