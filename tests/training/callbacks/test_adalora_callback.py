"""AdaLoRA prunes singular values in a Lightning Trainer, in the weights and in the average."""

import copy
from itertools import pairwise

import lightning as L
import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from roadwork.core.errors import ConfigError, WiringError
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings
from roadwork.training.callbacks.adalora_callback import AdaLoraCallback, adalora_orthogonal_loss, prune_average
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.lora.apply import apply_adapter, merge_adapter

# peft's `from_pretrained` asks transformers 5.23, and Lightning asks torch 2.13, for names that they deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]

RANK, INIT_RANK, LAYERS = 4, 6, 12
SETTINGS = ModelSettings(
    name="vit",
    config={
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "patch_size": 14,
    },
)


def tiny():
    torch.manual_seed(0)
    return build_model(SETTINGS, img_size=28)


class Module(L.LightningModule):
    def __init__(self, model) -> None:
        super().__init__()
        self.model = model
        self.non_zero = []

    def training_step(self, batch, _):
        images, labels = batch
        loss = cross_entropy(self.model(pixel_values=images).logits, labels)
        return loss + adalora_orthogonal_loss(self.model)

    def on_train_batch_start(self, *_):
        self.non_zero.append(non_zero(self.model))

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.01)


def singular_values(model):
    return {n: p for n, p in model.named_parameters() if "lora_E" in n}


def non_zero(model):
    return sum(int(p.count_nonzero()) for p in singular_values(model).values())


def adapted():
    return apply_adapter(tiny(), "adalora", rank=RANK)


def loader(batches, batch_size=2):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(batches * batch_size) % 2
    images = torch.randn(len(labels), 3, 28, 28, generator=generator) + labels.view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size)


def fit(model, callbacks, folder, *, steps=10, accumulate=1, ckpt_path=None, epochs=1):
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module(model)
    trainer.fit(module, loader(steps * accumulate // epochs), ckpt_path=ckpt_path, weights_only=True)
    return trainer, module


@pytest.mark.parametrize("steps", [2, 3, 10, 40])
def test_ranks_are_pruned_to_the_target(tmp_path, steps):
    model, callback = adapted(), AdaLoraCallback()
    fit(model, [callback], tmp_path, steps=steps)
    assert callback.n_updates == steps
    assert model.peft_config["default"].total_step == steps
    assert non_zero(model) == RANK * LAYERS
    pattern = model.peft_config["default"].rank_pattern
    assert sum(map(sum, pattern.values())) == RANK * LAYERS


def test_ranks_fall_step_by_step_between_the_phases(tmp_path):
    model = adapted()
    _, module = fit(model, [AdaLoraCallback()], tmp_path, steps=20)
    # Singular values start at 0; tinit = 2 and tfinal = 6 of 20 steps.
    seen = [*module.non_zero, non_zero(model)]
    assert seen[1:3] == [INIT_RANK * LAYERS] * 2
    assert all(before >= after for before, after in pairwise(seen[2:]))
    assert INIT_RANK * LAYERS > seen[5] > RANK * LAYERS
    assert seen[14:] == [RANK * LAYERS] * 7


def test_without_the_callback_nothing_is_pruned(tmp_path):
    model = adapted()
    fit(model, [], tmp_path)
    assert non_zero(model) == INIT_RANK * LAYERS


def test_accumulated_batches_count_once(tmp_path):
    model, callback = adapted(), AdaLoraCallback()
    trainer, _ = fit(model, [callback], tmp_path, steps=10, accumulate=3)
    assert trainer.global_step == 10
    assert callback.n_updates == 10
    assert non_zero(model) == RANK * LAYERS


def test_average_is_pruned_like_the_weights(tmp_path):
    model = adapted()
    ema = EMACallback(model, decay=0.9)
    fit(model, [ema, AdaLoraCallback(ema)], tmp_path)
    for name, value in singular_values(model).items():
        assert torch.equal(ema.shadow[name] == 0, value == 0), name
    assert ema.n_updates == 10


def test_prune_average_zeroes_nothing_else():
    model = adapted()
    shadow = {n: torch.ones_like(p) for n, p in model.named_parameters() if p.requires_grad}
    values = singular_values(model)
    with torch.no_grad():
        for value in values.values():
            value[::2] = 1.0
    prune_average(model, shadow)
    for name, average in shadow.items():
        expected = (values[name] != 0).float() if name in values else torch.ones_like(average)
        assert torch.equal(average, expected), name


def test_prune_average_of_another_model_is_an_error():
    with pytest.raises(WiringError, match="does not hold"):
        prune_average(adapted(), {})


def test_orthogonal_loss_equals_pefts():
    model = adapted().eval()
    images, labels = next(iter(loader(1)))
    # Without a task type the outer PeftModel bypasses AdaLoraModel.forward, which adds the term.
    output = model.base_model(pixel_values=images, labels=labels)
    own = cross_entropy(model(pixel_values=images).logits, labels)
    term = adalora_orthogonal_loss(model)
    assert term.item() > 0.1
    torch.testing.assert_close(output.loss, own + term)
    model.peft_config["default"].orth_reg_weight = 0.25
    torch.testing.assert_close(adalora_orthogonal_loss(model), term / 2)
    term.backward()
    assert all(p.grad.any() for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n)


# peft 0.21 takes AdaLoRA's pattern, which it wrote itself, for LoRA's.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")
def test_pruned_adapter_keeps_logits_through_save_and_merge(tmp_path):
    model = adapted()
    fit(model, [AdaLoraCallback()], tmp_path)
    images = next(iter(loader(1)))[0]
    with torch.no_grad():
        expected = model.eval()(pixel_values=images).logits
        model.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(tiny(), tmp_path / "adapter").eval()
        assert (loaded(pixel_values=images).logits - expected).abs().max() < 1e-5
        assert sum(p.numel() for p in singular_values(loaded).values()) == RANK * LAYERS
        assert (merge_adapter(model)(pixel_values=images).logits - expected).abs().max() < 1e-5


@pytest.mark.parametrize("first", [1, 3])
def test_resumed_run_prunes_the_same_ranks(tmp_path, first):
    """4 epochs of 5 steps: stopped while pruning (after 5), and in the last phase (after 15)."""
    uninterrupted, model = adapted(), adapted()
    model.load_state_dict(copy.deepcopy(uninterrupted.state_dict()))
    fit(uninterrupted, [AdaLoraCallback()], tmp_path / "uninterrupted", steps=20, epochs=4)

    class Stop(L.Callback):
        def on_train_epoch_end(self, trainer, _):
            if trainer.current_epoch == first - 1:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")
                trainer.should_stop = True

    fit(model, [AdaLoraCallback(), Stop()], tmp_path / "a", steps=20, epochs=4)
    resumed, callback = adapted(), AdaLoraCallback()
    fit(resumed, [callback], tmp_path / "b", steps=20, epochs=4, ckpt_path=tmp_path / "stop.ckpt")
    assert callback.n_updates == 20
    for name, value in singular_values(uninterrupted).items():
        assert torch.equal(singular_values(resumed)[name], value), name


def test_overflowed_gradient_is_ignored(tmp_path):
    class Overflow(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 3:
                for value in singular_values(module).values():
                    value.grad.fill_(float("nan"))

    model = adapted()
    fit(model, [Overflow(), AdaLoraCallback()], tmp_path)
    assert non_zero(model) == RANK * LAYERS


def test_run_of_one_step_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"\b1 optimizer step"):
        fit(adapted(), [AdaLoraCallback()], tmp_path, steps=1)


def test_model_without_adalora_is_an_error():
    with pytest.raises(WiringError, match="AdaLoRA"):
        adalora_orthogonal_loss(tiny())
