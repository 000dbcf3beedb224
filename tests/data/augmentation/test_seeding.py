import torch

from roadwork.core.rng import repeatable_draws

CPU = torch.device("cpu")


def draws(*key):
    with repeatable_draws(CPU, *key):
        return torch.rand(8)


def test_augmentation_depends_only_on_the_key():
    first = draws(0, 1, 64, 0)
    torch.rand(1000)
    assert torch.equal(draws(0, 1, 64, 0), first)
    others = [draws(*key) for key in ((1, 1, 64, 0), (0, 2, 64, 0), (0, 1, 65, 0), (0, 1, 64, 1))]
    assert len(torch.unique(torch.stack([first, *others]), dim=0)) == 5


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    undisturbed = torch.rand(8)
    torch.manual_seed(3)
    draws(9)
    assert torch.equal(torch.rand(8), undisturbed)
