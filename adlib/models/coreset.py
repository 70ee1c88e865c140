"""Coreset: thin a memory bank so that every feature stays near one that is kept (greedy k-centre).

Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018; as used by
PatchCore (Roth et al., CVPR 2022, algorithm 1).
"""

import torch
from tqdm.auto import tqdm


def k_centre_greedy(
    features: torch.Tensor, count: int, seed: int = 0, starts: int = 10, progress: bool = False
) -> torch.Tensor:
    """Choose `count` rows of `features`, each time the one farthest from all rows chosen before.

    features: float [N, D], on any device. count: 1 .. N.
    starts: before anything is chosen, a row's distance is its MEAN Euclidean distance to this many random rows,
        which are not kept themselves: PatchCore's official "approximate greedy" start. 0 starts from one random
        row, which is kept: the textbook algorithm.
    Returns int64 [count], distinct, in the order of choice. Deterministic for a seed on one machine.

    The plain loop reads all N x D values for one new centre and is bound by memory bandwidth. Here the distances to
    the 64 rows that are farthest now come from one matrix product, and the greedy choice is then followed exactly
    for as long as its next row is among those; only then is the matrix read again.
    """
    total = len(features)
    if not 1 <= count <= total:
        raise ValueError(f"count={count} must lie in 1..{total}, the number of features.")
    generator = torch.Generator().manual_seed(seed)
    norms = features.square().sum(1)

    def squared_distances(rows: torch.Tensor) -> torch.Tensor:
        """[len(rows), N]"""
        products = features[rows] @ features.T
        return (norms[rows, None] + norms - 2 * products).clamp_(min=0)

    chosen = torch.empty(count, dtype=torch.int64)
    done = 0
    if starts:
        rows = torch.randperm(total, generator=generator)[:starts].to(features.device)
        distance = squared_distances(rows).sqrt().mean(0).square()
    else:
        first = torch.randint(total, (1,), generator=generator)
        chosen[0], done = first, 1
        distance = squared_distances(first.to(features.device))[0]
        distance[first] = -1.0

    farthest = int(distance.argmax())
    with tqdm(total=count, initial=done, desc="coreset", unit="patch", disable=not progress) as bar:
        while done < count:
            candidates = distance.topk(min(64, total)).indices
            column = {row: position for position, row in enumerate(candidates.tolist())}
            column.setdefault(farthest, 0)  # among equals topk and argmax may name different rows
            candidates[column[farthest]] = farthest
            columns = squared_distances(candidates)
            before = done
            while done < count and farthest in column and candidates[column[farthest]] == farthest:
                chosen[done] = farthest
                torch.minimum(distance, columns[column[farthest]], out=distance)
                distance[farthest] = -1.0  # never twice, even among equal rows
                done += 1
                farthest = int(distance.argmax())
            bar.update(done - before)
    return chosen
