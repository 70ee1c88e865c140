"""The memory bank: nearest neighbours among stored features, and a random projection to search them cheaply."""

import torch


def nearest(queries: torch.Tensor, bank: torch.Tensor, neighbours: int = 1, chunk: int = 1024) -> torch.Tensor:
    """Squared Euclidean distances to the nearest rows of the bank.

    queries: float [Q, D]; bank: float [M, D] on the same device. neighbours: k, at most M.
    chunk: queries per step; bounds the memory to chunk x M values.
    Returns float [Q, k], ascending. From |q|² + |b|² - 2 q·b, so a distance is exact to about 1e-6 |q|².
    """
    bank_norms = bank.square().sum(1)
    parts = []
    for part in queries.split(chunk):
        squared = torch.addmm(bank_norms, part, bank.T, alpha=-2)  # [chunk, M], lacks |q|²
        smallest = (
            squared.min(1, keepdim=True).values
            if neighbours == 1
            else squared.topk(neighbours, 1, largest=False).values
        )
        parts.append((smallest + part.square().sum(1, keepdim=True)).clamp_(min=0))
    return torch.cat(parts)


def random_projection(dimensions: int, target: int, seed: int = 0) -> torch.Tensor:
    """float [dimensions, target]: uniform in ±1/sqrt(dimensions), as a bias-free torch.nn.Linear starts."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(dimensions, target, generator=generator) - 1) / dimensions**0.5
