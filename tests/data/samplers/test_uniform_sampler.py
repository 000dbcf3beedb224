import pytest
from torch.utils.data import DistributedSampler

from roadwork.data.samplers.build import UniformSampler


@pytest.mark.parametrize("position", [0, 1, 49, 50])
def test_only_the_next_pass_starts_in_the_middle(position):
    reference = DistributedSampler(range(100), num_replicas=2, rank=1, seed=7)
    sampler = UniformSampler(range(100), num_replicas=2, rank=1, seed=7)
    for epoch, start in ((0, 0), (3, position), (3, 0), (4, 0)):
        for each in (reference, sampler):
            each.set_epoch(epoch)
        if start:
            sampler.start_at(start)
        assert list(sampler) == list(reference)[start:]
