"""EMA matches a float64 replay of its formula, and a resumed run matches an uninterrupted one."""

import copy

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from roadwork.core.errors import ConfigError, WiringError
from roadwork.training.callbacks.ema_callback import EMACallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    # Lightning's own call, deprecated by torch.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def build_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@torch.no_grad()
def disturb(model):
    for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        tensor.add_(torch.randn_like(tensor).abs())
    model[1].num_batches_tracked += 1


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_average_follows_the_formula(decay, warmup):
    model = build_model()
    ema = EMACallback(model, decay=decay, warmup=warmup)
    expected = {name: tensor.double() for name, tensor in snapshot(model).items()}
    for t in range(20):
        disturb(model)
        ema.update()
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        expected = {name: d * expected[name] + (1 - d) * tensor.double() for name, tensor in model.state_dict().items()}
    assert ema.n_updates == 20
    averages = ema.shadow | ema.shadow_buffers
    assert averages.keys() == expected.keys() - {"1.num_batches_tracked"}
    for name, average in averages.items():
        torch.testing.assert_close(average.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_shadow_names_the_trainable_parameters():
    model = build_model()
    model[0].requires_grad_(requires_grad=False)
    ema = EMACallback(model)
    assert set(ema.shadow) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(ema.shadow_buffers) == {"1.running_mean", "1.running_var"}
    assert ema.decay == 0.999


def test_apply_and_restore_are_exact():
    model = build_model()
    ema = EMACallback(model, decay=0.9)
    disturb(model)
    ema.update()
    raw = snapshot(model)
    ema.apply_shadow()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (ema.shadow | ema.shadow_buffers).get(name, raw[name]))
    assert not torch.equal(model[0].weight, raw["0.weight"])
    ema.restore()
    assert_same(snapshot(model), raw)


def test_half_precision_model_is_averaged_in_float32():
    model = build_model().to(torch.bfloat16)
    ema = EMACallback(model, decay=0.999)
    start = ema.shadow["0.weight"].clone()
    with torch.no_grad():
        model[0].weight += 1.0
    moved = model[0].weight.detach().clone()
    for _ in range(10):
        ema.update()
    assert ema.shadow["0.weight"].dtype == torch.float32
    torch.testing.assert_close(ema.shadow["0.weight"], moved.float() + 0.999**10 * (start - moved.float()))
    ema.apply_shadow()
    assert model[0].weight.dtype == torch.bfloat16
    ema.restore()
    assert torch.equal(model[0].weight, moved)


def test_parameters_of_several_dtypes_are_averaged():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2).to(torch.bfloat16))
    ema = EMACallback(model, decay=0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    ema.update()
    assert all((average == 0.5).all() for average in ema.shadow.values())
    assert ema.shadow["1.weight"].dtype == torch.float64


def test_average_moves_to_the_models_device():
    model = build_model()
    ema = EMACallback(model)
    model.to("meta")
    ema.update()
    assert {average.device.type for average in (ema.shadow | ema.shadow_buffers).values()} == {"meta"}


def test_average_moved_in_inference_mode_can_be_updated():
    model = build_model()
    ema = EMACallback(model, decay=0.5)
    model.to("meta")
    with torch.inference_mode():
        ema.apply_shadow()
        ema.restore()
    assert not ema.shadow["0.weight"].is_inference()
    ema.update()


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), 5])
def test_decay_outside_its_range_is_an_error(decay):
    with pytest.raises(ConfigError, match="ema_decay"):
        EMACallback(build_model(), decay=decay)


def test_calls_in_wrong_order_are_errors():
    ema = EMACallback(build_model())
    with pytest.raises(WiringError, match="apply_shadow"):
        ema.restore()
    ema.apply_shadow()
    with pytest.raises(WiringError, match="applied already"):
        ema.apply_shadow()
    with pytest.raises(WiringError, match="average itself"):
        ema.update()


def test_frozen_and_changed_models_are_errors():
    with pytest.raises(WiringError, match=r"gradient.*average"):
        EMACallback(build_model().requires_grad_(requires_grad=False))
    model = build_model()
    ema = EMACallback(model)
    model[0] = nn.Identity()
    with pytest.raises(WiringError, match=r"first 0\.weight"):
        ema.update()


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = build_model()
        self.seen_in_evaluation = []

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def _look(self):
        self.seen_in_evaluation.append(snapshot(self.model))

    def validation_step(self, batch, batch_idx):
        self._look()
        self.log("loss", F.cross_entropy(self.model(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx):
        self._look()

    def predict_step(self, batch, batch_idx):
        self._look()
        return self.model(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Replay(Callback):
    """Averages after each batch in `steps` by the formula itself; registered after the EMA callback."""

    def __init__(self, model, decay, every=1):
        self.decay, self.every = decay, every
        self.average = {name: tensor.double() for name, tensor in snapshot(model).items()}
        self.steps, self.at_validation = 0, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % self.every == 0:
            self.steps += 1
            for name, tensor in pl_module.model.state_dict().items():
                self.average[name] = self.decay * self.average[name] + (1 - self.decay) * tensor.double()

    def on_validation_end(self, trainer, pl_module):
        self.at_validation.append(copy.deepcopy(self.average))


def loader(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, generator=generator)
    return DataLoader(TensorDataset(images, (images[:, 0] > 0).long()), batch_size=10)


def trainer_with(*callbacks, **settings):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"accelerator": "cpu", "max_epochs": 2, "callbacks": list(callbacks)} | quiet | settings)


def assert_average(state, average):
    for name in average.keys() - {"1.num_batches_tracked"}:
        torch.testing.assert_close(state[name].double(), average[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_trainer_averages_each_step_and_validates_the_average(accumulate):
    module = Classifier()
    start = snapshot(module.model)
    ema, replay = EMACallback(module.model, decay=0.9), Replay(module.model, 0.9, every=accumulate)
    trainer = trainer_with(ema, replay, accumulate_grad_batches=accumulate)
    trainer.fit(module, loader(40, 1), loader(10, 2))
    assert ema.n_updates == replay.steps == trainer.global_step == 8 // accumulate
    sanity, first, second = module.seen_in_evaluation
    assert_same(sanity, start)
    assert_average(first, replay.at_validation[1])
    assert_average(second, replay.at_validation[2])
    raw = snapshot(module.model)
    assert not torch.equal(raw["0.weight"], second["0.weight"])

    for run in (trainer.validate, trainer.test):
        run(module, loader(10, 2), verbose=False)
    trainer.predict(module, loader(10, 2))
    for seen in module.seen_in_evaluation[3:]:
        assert_same(seen, second)
    assert len(module.seen_in_evaluation) == 6
    assert_same(snapshot(module.model), raw)


def test_evaluation_before_any_update_uses_raw_weights():
    module = Classifier()
    ema = EMACallback(module.model)
    module.model.load_state_dict(build_model(seed=7).state_dict())
    trainer_with(ema).test(module, loader(10, 2), verbose=False)
    assert_same(module.seen_in_evaluation[0], build_model(seed=7).state_dict())


def test_average_starts_at_weights_loaded_later():
    module = Classifier()
    ema = EMACallback(module.model, decay=0.999)
    module.model.load_state_dict({name: tensor + 100 for name, tensor in build_model().state_dict().items()})
    trainer_with(ema, max_epochs=1, limit_val_batches=0).fit(module, loader(10, 1), loader(10, 2))
    assert ema.shadow["0.weight"].min() > 90


def test_exception_in_validation_restores_raw_weights():
    class Failing(Classifier):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                raise ZeroDivisionError

    module = Failing()
    ema, raw = EMACallback(module.model), {}

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            raw.update(snapshot(pl_module.model))

    with pytest.raises(ZeroDivisionError):
        trainer_with(ema, Look()).fit(module, loader(10, 1), loader(10, 2))
    assert_same(snapshot(module.model), raw)
    with pytest.raises(WiringError, match="raw weights are in place"):
        ema.restore()


@pytest.mark.parametrize("forget", ["another model", "a layer"])
def test_trained_parameter_without_average_is_an_error(forget):
    module = Classifier()
    ema = EMACallback(build_model() if forget == "another model" else module.model)
    module.later = nn.Linear(1, 1)
    with pytest.raises(WiringError, match="does not average"):
        trainer_with(ema).fit(module, loader(10, 1), loader(10, 2))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # without ModelCheckpoint on purpose
def test_best_checkpoint_holds_average_and_raw_weights(tmp_path):
    module = Classifier()
    ema, best = EMACallback(module.model, decay=0.9), ModelCheckpoint(tmp_path, monitor="loss", save_top_k=1)
    trainer = trainer_with(best, ema, enable_checkpointing=True)
    trainer.fit(module, loader(40, 1), loader(10, 2))
    saved = torch.load(best.best_model_path, weights_only=True)
    epoch = saved["epoch"]
    validated = module.seen_in_evaluation[1 + epoch]
    assert_same({key.removeprefix("model."): tensor for key, tensor in saved["state_dict"].items()}, validated)
    assert saved["raw_state_dict"].keys() == saved["state_dict"].keys() - {"model.1.num_batches_tracked"}
    assert not torch.equal(saved["raw_state_dict"]["model.0.weight"], saved["state_dict"]["model.0.weight"])

    # A checkpoint path tests the average, which stays in the model.
    for callbacks in ([EMACallback(module.model)], []):
        module.seen_in_evaluation.clear()
        trainer_with(*callbacks).test(module, loader(10, 2), ckpt_path=best.best_model_path, verbose=False)
        assert_same(module.seen_in_evaluation[0], validated)
        assert_same(snapshot(module.model), validated)


def test_checkpoint_is_equal_while_the_average_is_applied(tmp_path):
    class SaveInValidation(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "during.ckpt", weights_only=False)

        def on_validation_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "after.ckpt", weights_only=False)

    module = Classifier()
    trainer_with(EMACallback(module.model, decay=0.9), SaveInValidation()).fit(module, loader(40, 1), loader(10, 2))
    during, after = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("during", "after"))
    assert_same(during["state_dict"], after["state_dict"])
    assert_same(during["raw_state_dict"], after["raw_state_dict"])


class TiedClassifier(Classifier):
    def __init__(self):
        super().__init__()
        self.alias = self.model[2]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [Classifier, TiedClassifier])
def test_resumed_run_equals_an_uninterrupted_run(tmp_path, kind, accumulate):
    class SaveAfterEpoch(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt", weights_only=False)

    def run(ckpt_path=None):
        torch.manual_seed(1)
        module = kind()
        ema = EMACallback(module.model, decay=0.9, warmup=True)
        trainer = trainer_with(ema, SaveAfterEpoch(), max_epochs=4, accumulate_grad_batches=accumulate)
        trainer.fit(module, loader(40, 1), loader(10, 2), ckpt_path=ckpt_path)
        return module, ema

    straight_module, straight = run()
    resumed_module, resumed = run(ckpt_path=tmp_path / "1.ckpt")
    assert len(resumed_module.seen_in_evaluation) < len(straight_module.seen_in_evaluation)
    assert_same(snapshot(resumed_module), snapshot(straight_module))
    assert_same(resumed.shadow | resumed.shadow_buffers, straight.shadow | straight.shadow_buffers)
    assert resumed.n_updates == straight.n_updates == 16 // accumulate


def test_checkpoint_without_average_starts_a_new_one(tmp_path):
    module = Classifier()
    first = trainer_with(max_epochs=1)
    first.fit(module, loader(40, 1), loader(10, 2))
    first.save_checkpoint(tmp_path / "plain.ckpt", weights_only=False)
    other = Classifier()
    ema, replay = EMACallback(other.model, decay=0.9), Replay(module.model, 0.9)
    trainer_with(ema, replay).fit(other, loader(40, 1), loader(10, 2), ckpt_path=tmp_path / "plain.ckpt")
    assert ema.n_updates == 4
    assert_average(ema.shadow, {name: replay.average[name] for name in ema.shadow})
