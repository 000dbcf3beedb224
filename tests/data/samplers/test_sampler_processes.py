"""Two real processes that share an epoch over gloo."""

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.settings import DRAW_MODES

N_ROWS = 1001
EPOCHS = 2
START = 123


class Rows:
    gps = np.random.default_rng(0).uniform((36, -9), (56, 20), (N_ROWS, 2))

    def __len__(self):
        return N_ROWS


def sampler_of(rank, world_size, draw):
    return GPSWeightedSampler(
        Rows(), np.array([[52.5, 13.4], [40.4, -3.7]]), 2, draw=draw, rank=rank, world_size=world_size
    )


def draw_and_gather(rank, folder):
    """Each process draws its rows; gloo gathers the rows of all."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for draw in DRAW_MODES:
            sampler = sampler_of(dist.get_rank(), dist.get_world_size(), draw)
            passes = [list(sampler) for _ in range(EPOCHS)]
            sampler.start_at(START)
            passes.append(list(sampler))
            for number, rows in enumerate(passes):
                mine = torch.tensor(rows)
                everyones = [torch.empty_like(mine) for _ in range(2)]
                dist.all_gather(everyones, mine)
                if rank == 0:
                    np.save(f"{folder}/{draw} {number}.npy", torch.stack(everyones, dim=1).flatten().numpy())
    finally:
        dist.destroy_process_group()


def test_two_gloo_processes_partition_one_order(tmp_path):
    mp.spawn(draw_and_gather, (str(tmp_path),), nprocs=2)
    for draw in DRAW_MODES:
        alone = sampler_of(0, 1, draw)
        for number in range(EPOCHS):
            together = np.load(tmp_path / f"{draw} {number}.npy")
            assert together.tolist() == list(alone)[:-1]  # the last of 1001 rows is omitted
        resumed = np.load(tmp_path / f"{draw} {EPOCHS}.npy")
        assert resumed.tolist() == list(alone)[2 * START : -1]
