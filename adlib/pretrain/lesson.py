"""The lesson: what a small network learns of one that was trained on photographs, and the losses that say how well.

The teacher (EfficientNet-Lite2 by default, which pip brings: adlib.features.installed) sees drawn collages, and so does
the pupil: part of a timm network, up to `stages`. Each of the pupil's stages learns from the teacher's stage of the
same grid. The first sees the collages magnified, as EfficientAD's teacher does: of two of its maps with the same grid
the deeper one, of the larger image, finds more small defects. Three losses per stage:

- the teacher's maps, normalised per channel, are read off the pupil's by a small head that is thrown away: smooth L1,
  as the teacher of EfficientAD is made;
- the distances between places in the pupil's map are those between places in the teacher's, up to one factor (Park et
  al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068): a head can unravel what a memory bank cannot;
- so are the distances from places of a collage with defects to the nearest places of the same collage without: what a
  memory bank says of an image. Their logarithms, as a small distance counts as much as a large one.

None of them knows how large the pupil's values are, but methods that join stages do: what varies more counts more. A
fourth, small loss makes every stage vary half as much as the one before it, for defects are seen best in fine maps.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNetFeatures
from torch import nn

from adlib.errors import InputError
from adlib.features.backbones import Backbone, build_network, hold_statistics, normalised

DEVIATION = 0.4  # of the first stage's channels, root of the mean square; half of it of the second's, and so on


class Lesson(nn.Module):
    """Teacher, pupil, and a head per stage of the pupil.

    teacher, weights: a timm name, and where its weights come from (adlib.features.weights).
    pupil: a features_only network of timm's. seed: of the heads, and of a teacher's random weights.
    magnifications: of the images that the teacher sees, one per stage of the pupil; the last for all after it.
    teachers: the teacher as far as each magnification needs it, so that nothing is computed in vain.
    means, deviations: of the teacher's channels per stage, as `measure` finds them.
    Raises InputError for a magnification below 1, and where the teacher has no map of a stage's grid.
    """

    def __init__(
        self,
        teacher: str,
        weights: str | Path,
        pupil: nn.Module,
        seed: int,
        magnifications: tuple[int, ...] = (2, 1),
    ):
        super().__init__()
        self.pupil = pupil
        strides, widths = pupil.feature_info.reduction(), pupil.feature_info.channels()
        if not magnifications or min(magnifications) < 1 or len(magnifications) > len(strides):
            raise InputError(
                f"magnifications={magnifications} must be whole numbers from 1, at most one per stage of the pupil."
            )
        each = [*magnifications, *[magnifications[-1]] * (len(strides) - len(magnifications))]
        with torch.device("meta"):
            has = build_network(teacher, (1, 2, 3, 4), seed).feature_info.reduction()
        seen = [stride * times for stride, times in zip(strides, each, strict=True)]  # by the teacher, for one value
        if missing := [stride for stride in seen if stride not in has]:
            raise InputError(
                f"magnifications={magnifications}: {teacher} has no map with one value for {missing[0]} pixels, which a"
                f" stage of the pupil would learn from; it has them for {', '.join(map(str, has))}. Take smaller ones,"
                " or fewer stages."
            )
        self.magnifications = sorted(set(each))
        stages = {times: [] for times in self.magnifications}
        for times, stride in zip(each, seen, strict=True):
            stages[times].append(1 + has.index(stride))
        self.teachers = nn.ModuleList(_cut(Backbone(teacher, tuple(own), weights, seed)) for own in stages.values())
        # Per stage of the pupil: which teacher, and which of its maps.
        self.targets = [
            (self.magnifications.index(times), stages[times].index(1 + has.index(stride)))
            for times, stride in zip(each, seen, strict=True)
        ]
        wanted = [self.teachers[teacher].channels[place] for teacher, place in self.targets]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(map(_head, widths, wanted))
        hold_statistics(self, pupil)
        for number, channels in enumerate(wanted):
            self.register_buffer(f"mean_{number}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"deviation_{number}", torch.ones(1, channels, 1, 1))

    def taught(self) -> list[nn.Parameter]:
        return [*self.pupil.parameters(), *self.heads.parameters()]

    def taught_state(self) -> dict[str, torch.Tensor]:
        """Everything but the teacher."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("teachers.")}

    @torch.no_grad()
    def measure(self, batches: list[torch.Tensor]) -> None:
        """Mean and deviation of the teacher's channels on some batches of images."""
        maps = [self.taught_maps(images) for images in batches]
        for number, of_batches in enumerate(zip(*maps, strict=True)):
            values = torch.cat([each.float().transpose(0, 1).flatten(1) for each in of_batches], 1)
            getattr(self, f"mean_{number}").copy_(values.mean(1).view(1, -1, 1, 1))
            getattr(self, f"deviation_{number}").copy_(values.std(1).view(1, -1, 1, 1) + 1e-3)

    def taught_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the teacher says of images float [B, 3, H, W] in [0, 1]: a map per stage of the pupil."""
        maps = []
        for times, teacher in zip(self.magnifications, self.teachers, strict=True):
            seen = F.interpolate(images, scale_factor=times, mode="bicubic").clamp(0, 1) if times > 1 else images
            maps.append(teacher(seen))
        return [maps[teacher][place] for teacher, place in self.targets]

    def forward(self, whole: torch.Tensor, spoilt: torch.Tensor, where: torch.Tensor) -> list[list[torch.Tensor]]:
        """Of pairs float [B, 3, H, W] in [0, 1] and bool [B, H, W]: losses of maps, distances, neighbours, scale."""
        count, images = len(whole), torch.cat([whole, spoilt])
        wanted = [maps.float() for maps in self.taught_maps(images)]
        seen = self.pupil(normalised(self, images))
        of_maps, of_distances, of_neighbours, of_scale = [], [], [], []
        pooled = bool(torch.rand(()) < 0.5)  # half the time as PatchCore sees them
        for number, (own, target) in enumerate(zip(seen, wanted, strict=True)):
            normal = (target - getattr(self, f"mean_{number}")) / getattr(self, f"deviation_{number}")
            of_maps.append(F.smooth_l1_loss(self.heads[number](own).float(), normal.clamp(-5, 5)))
            own = own.float()
            of_distances.append(distance_loss(own[count:], target[count:]))
            deviation = own.var((0, 2, 3)).mean().add(1e-12).sqrt()
            of_scale.append((deviation * 2**number / DEVIATION).log().square())
            if pooled:
                own, target = (F.avg_pool2d(maps, 3, 1, 1) for maps in (own, target))
            of_neighbours.append(neighbour_loss(own.split(count), target.split(count), where))
        return [of_maps, of_distances, of_neighbours, of_scale]


def _cut(backbone: Backbone) -> Backbone:
    """Without the blocks after the last stage asked for, which timm's EfficientNets compute all the same."""
    if isinstance(backbone.net, EfficientNetFeatures):
        backbone.net.blocks = backbone.net.blocks[
            : max(info["stage"] for info in backbone.net.feature_info.get_dicts())
        ]
    return backbone


def _head(channels: int, wanted: int) -> nn.Sequential:
    hidden = [nn.Conv2d(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Conv2d(2 * channels, wanted, 1))


def distance_loss(own: torch.Tensor, wanted: torch.Tensor, places: int = 64) -> torch.Tensor:
    """How far the distances between places differ, both divided by their mean: smooth L1, a scalar.

    own, wanted: float [B, C, h, w] and [B, D, h, w]. Distances are those among `places` random places of one image and
    as many of another.
    """
    count = own.shape[0] // 2 * 2
    chosen = torch.randint(own.shape[2] * own.shape[3], (count, 1, places), device=own.device)
    pairs = torch.triu_indices(2 * places, 2 * places, 1, device=own.device)
    tables = []
    # In full precision: distances of like places are small differences of large products.
    with torch.autocast(own.device.type, enabled=False):
        for maps in (own[:count].float(), wanted[:count].float()):
            cells = maps.flatten(2).gather(2, chosen.expand(-1, maps.shape[1], -1)).transpose(1, 2)
            cells = cells.reshape(count // 2, 2 * places, -1)
            cells = cells - cells.mean(1, keepdim=True)
            products = cells @ cells.transpose(1, 2)
            squares = products.diagonal(dim1=1, dim2=2)
            distances = (squares[:, :, None] + squares[:, None] - 2 * products)[:, *pairs].clamp(min=0)
            # The root of nothing has an infinite slope: a little is added, of the distances' own size.
            distances = (distances + 1e-3 * distances.mean().detach() + 1e-12).sqrt()
            tables.append(distances / distances.mean())
        return F.smooth_l1_loss(*tables, beta=0.1)


def neighbour_loss(
    own: tuple[torch.Tensor, torch.Tensor],
    wanted: tuple[torch.Tensor, torch.Tensor],
    where: torch.Tensor,
    places: int = 64,
) -> torch.Tensor:
    """How far logarithms of distances to the nearest places differ, both as shares of the mean distance: smooth L1.

    own, wanted: maps float [B, C, h, w] and [B, D, h, w] of whole images and of spoilt ones. where: bool [B, H, W].
    From `places` of each spoilt image where it is spoilt, and twice as many anywhere, to the place of the whole one
    that is nearest in the teacher's map, to the one that is nearest in the pupil's, and to a random one.
    """
    cover = F.adaptive_avg_pool2d(where[:, None].float(), own[0].shape[2:]).flatten(1)
    # Where nothing is spoilt, anywhere.
    spoilt = torch.multinomial(torch.where(cover > 0.05, 1.0, 1e-6), places, replacement=True)
    anywhere = torch.randint(cover.shape[1], (len(cover), 2 * places), device=cover.device)
    chosen = torch.cat([spoilt, anywhere], 1)[:, None]
    # In full precision, as distance_loss.
    with torch.autocast(cover.device.type, enabled=False):
        banks, asked = [], []
        for whole, spoilt in (own, wanted):
            bank = whole.float().flatten(2).transpose(1, 2)
            cells = spoilt.float().flatten(2).gather(2, chosen.expand(-1, whole.shape[1], -1)).transpose(1, 2)
            centre = bank.mean(1, keepdim=True).detach()
            banks.append(bank - centre)
            asked.append(cells - centre)
        with torch.no_grad():
            near = [
                (bank.square().sum(2)[:, None] - 2 * cells @ bank.transpose(1, 2)).argmin(2)
                for bank, cells in zip(banks, asked, strict=True)
            ]
        near.append(torch.randint(cover.shape[1], near[0].shape, device=cover.device))
        logarithms = []
        for bank, cells in zip(banks, asked, strict=True):
            others = bank.gather(1, torch.cat(near, 1)[..., None].expand(-1, -1, bank.shape[2]))
            squares = (cells.repeat(1, 3, 1) - others).square().sum(2)
            mean = squares[:, -near[-1].shape[1] :].mean(1, keepdim=True)
            logarithms.append(0.5 * (squares / (mean + 1e-12) + 1e-3).log())
        return F.smooth_l1_loss(*logarithms, beta=0.2)
