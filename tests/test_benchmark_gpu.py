import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from transformers import AutoModelForImageClassification

from benchmarks import gpu
from roadwork.models.architecture import read_config
from roadwork.settings import ModelSettings

CHECKOUT = Path(__file__).resolve().parents[1]


CPU = torch.device("cpu")
PLAN = gpu.Plan(("eager",), steps=2, repeats=2, deadline=float("inf"), matrix_rate=1e9)
# Runs the benchmark as if what a bare image with torch, lightning, transformers and peft may lack were not there.
RUN_WITHOUT_THEM = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = "omegaconf kornia datasets pyarrow pandas sklearn joblib h3 imagehash timm".split()
        return None if name.split(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from benchmarks.gpu import main
main(sys.argv[1:])
"""


def make_job(model):
    chosen = gpu.TINY_MODELS[model]
    return gpu.Job(chosen, gpu.build_network(chosen), CPU, gpu.random_batches(chosen, 4, CPU))


@pytest.fixture
def job():
    return make_job("vit-s")


def vit_flops(layers, width, mlp, side, patch=16, classes=2):
    """Two a multiplication and addition: patches, then per layer q, k, v and output, the MLP, and two products of
    attention; then the head on one token."""
    tokens = (side // patch) ** 2 + 1
    per_layer = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 2 * 2 * tokens**2 * width
    return 2 * (tokens - 1) * 3 * patch**2 * width + layers * per_layer + 2 * width * classes


@pytest.mark.parametrize(("layers", "width", "mlp", "side"), [(2, 32, 128, 32), (1, 32, 64, 160)])
def test_flops_are_those_of_the_formula_with_attention(layers, width, mlp, side):
    fields = {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers}
    chosen = gpu.Architecture("", gpu.VIT_TINY | fields, "", img_size=side)
    network = gpu.build_network(chosen)
    assert network.config._attn_implementation == "sdpa"
    assert gpu.count_flops(network, side) == pytest.approx(vit_flops(layers, width, mlp, side), rel=0.001)


def test_the_networks_are_the_ones_they_are_called():
    # ViT-B/16 at 224 is published as 17.6 billion multiplications and additions.
    assert vit_flops(12, 768, 3072, 224) == pytest.approx(2 * 17.6e9, rel=0.01)
    for key, millions in {"vit-b": 85.8, "vit-s": 21.7, "convnext-t": 27.8}.items():
        config = read_config(ModelSettings(config=dict(gpu.MODELS[key].config)))
        with torch.device("meta"):
            network = AutoModelForImageClassification.from_config(config)
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_overlapping_kernels_count_once():
    assert gpu.covered([(5, 7), (0, 2), (1, 3), (1, 2), (3, 4)]) == 6
    assert gpu.covered([(0, 10), (1, 2), (3, 4)]) == 10
    assert gpu.covered([]) == 0


def test_the_busy_share_is_of_the_gpus_kernels_alone(job):
    def event(start, end, device=DeviceType.CUDA, *, is_user_annotation=False):
        return SimpleNamespace(
            time_range=SimpleNamespace(start=start, end=end), device_type=device, is_user_annotation=is_user_annotation
        )

    batches = gpu.TimedBatches(job, 1, profiled=True)
    batches.job = SimpleNamespace(device=torch.device("cuda"))
    batches._times = [10.0, 10.001]  # a millisecond
    events = [event(0, 200), event(100, 400), event(0, 900, DeviceType.CPU), event(0, 1000, is_user_annotation=True)]
    batches._profiler = SimpleNamespace(events=lambda: events)
    assert batches.busy_share() == pytest.approx(0.4)
    batches._profiler = SimpleNamespace(events=list)
    assert batches.busy_share() is None


def test_only_the_steps_between_the_marks_are_timed(job, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock.now)

    def take_all(batches):
        for number, batch in enumerate(batches):
            assert batch["image"].shape == (4, 3, 32, 32)
            clock.now += 100 if number < 3 else 2  # the lead-in is slow, a step takes 2 s
        clock.now += 1000
        return 0.0

    assert gpu.take(take_all, gpu.TimedBatches(job, steps=5, lead_in=3)) == 4 / 2
    with pytest.raises(RuntimeError, match="not taken once: 1 marks"):
        gpu.take(lambda batches: next(iter(batches)) and 0.0, gpu.TimedBatches(job, steps=5, lead_in=0))
    with pytest.raises(RuntimeError, match="not finite"):
        gpu.take(lambda batches: take_all(batches) or float("nan"), gpu.TimedBatches(job, steps=5, lead_in=3))


def test_batches_are_normalised_like_the_data_modules(job):
    batch = next(iter(gpu.TimedBatches(job, 1)))
    images, labels = job.pool[0]
    expected = (images[2, 1, 5, 7].item() / 255 - 0.456) / 0.224
    assert batch["image"][2, 1, 5, 7].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(batch["label"], labels)


@pytest.mark.parametrize("model", gpu.TINY_MODELS)
def test_every_contender_trains_on_the_same_images(model):
    job, seen = make_job(model), {}
    for name, build in gpu.contenders(job, "training", ("eager",)).items():
        if name.startswith("timm"):
            continue
        runner = build()
        network = {gpu.RoadworkStep: lambda r: r.module.model, gpu.TrainerStep: lambda r: r.network.network}.get(
            type(runner), lambda r: r.network
        )(runner)
        images = seen.setdefault(name, [])
        network.register_forward_pre_hook(
            lambda _, args, kwargs, images=images: images.append(args[0] if args else kwargs["pixel_values"]),
            with_kwargs=True,
        )
        before = {key: value.clone() for key, value in network.state_dict().items()}
        for key, value in job.network.state_dict().items():
            assert torch.equal(before[key], value), f"{name} starts from other weights"
        assert gpu.take(runner, gpu.TimedBatches(job, steps=2, lead_in=1)) > 0
        still = [key for key, p in network.named_parameters() if p.requires_grad and torch.equal(before[key], p)]
        assert not still, f"{name} does not train {still}"
    ours = torch.stack(seen.pop("roadwork, eager"))
    assert ours.shape == (4, 4, 3, 32, 32)  # lead-in, two steps, one more
    augmented = torch.stack(seen.pop("roadwork, eager, latest_2025"))
    assert augmented.shape == ours.shape
    assert not torch.equal(augmented, ours)
    assert set(seen) == {"plain loop, eager", "Trainer, eager"}
    for name, images in seen.items():
        assert torch.equal(torch.stack(images), ours), name


def test_compiled_contenders_compile_and_eager_ones_do_not(job, monkeypatch):
    compiled = []

    def fake_compile(function, *_, **__):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", fake_compile)
    for phase in gpu.PASSES:
        for name, build in gpu.contenders(job, phase, ("compiled", "eager")).items():
            if not name.startswith("timm"):
                compiled.clear()
                runner = build()
                assert bool(compiled) == ("compiled" in name), name
                gpu.take(runner, gpu.TimedBatches(job, steps=1, lead_in=1))
    assert "roadwork, compiled, latest_2025" in gpu.contenders(job, "training", ("compiled", "eager"))


def test_timms_network_has_two_classes_and_takes_part(job, monkeypatch):
    class Flat(nn.Sequential):
        pass

    def create_model(name, *, num_classes, **fields):
        assert (name, fields["depth"]) == ("vit_small_patch16_224", 2)
        return Flat(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))

    fake = ModuleType("timm")
    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    for phase in gpu.PASSES:
        builds = gpu.contenders(job, phase, ("eager",))
        name = next(name for name in builds if name.startswith("timm"))
        assert gpu.take(builds[name](), gpu.TimedBatches(job, steps=1, lead_in=1)) > 0


def take_all(batches):
    time.sleep(0.001 * sum(1 for _ in batches))
    return 0.0


def test_failed_contender_shows_its_error_and_others_run(monkeypatch):
    calls = []

    def fail_later(batches):
        calls.append(batches)
        if len(calls) > 2:  # it was built, and fails in its first turn
            raise RuntimeError("CUDA error: unspecified\nand much more")
        return take_all(batches)

    def absent():
        raise ModuleNotFoundError("No module named 'timm'")

    def builds(*_):
        return {"ours": lambda: take_all, "late": lambda: fail_later, "absent": absent, "other": lambda: take_all}

    monkeypatch.setattr(gpu, "contenders", builds)
    ours, late, absent_line, other = gpu.measure_what_fits(gpu.TINY_MODELS["vit-s"], 4, CPU, "training", plan=PLAN)
    assert late["error"] == "left out, RuntimeError: CUDA error: unspecified"
    assert absent_line["error"] == "left out, ModuleNotFoundError: No module named 'timm'"
    assert "images_per_s" not in late
    assert ours["ours_ratio"] is None
    assert other["ours_ratio_low"] <= other["ours_ratio"] <= other["ours_ratio_high"]
    flops = 3 * vit_flops(2, 32, 128, 32)
    assert ours["gflop_per_image"] == pytest.approx(flops / 1e9, rel=0.001)
    assert ours["matrix_share"] == pytest.approx(ours["images_per_s"] * flops / PLAN.matrix_rate, rel=0.001)


def test_without_ours_there_is_no_ratio(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'peft'")

    monkeypatch.setattr(gpu, "contenders", lambda *_: {"ours": absent, "a": lambda: take_all, "b": lambda: take_all})
    _, *others = gpu.measure_what_fits(gpu.TINY_MODELS["vit-s"], 4, CPU, "inference", plan=PLAN)
    assert [line["ours_ratio"] for line in others] == [None, None]
    assert all(line["images_per_s"] > 0 for line in others)


@pytest.mark.parametrize(("fits", "batch"), [(2, 2), (0, 1)])
def test_the_batch_is_halved_for_all_where_memory_runs_out(monkeypatch, fits, batch):
    def hungry(batches):
        if batches.job.batch > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return take_all(batches)

    monkeypatch.setattr(gpu, "contenders", lambda *_: {"ours": lambda: take_all, "hungry": lambda: hungry})
    ours, other = gpu.measure_what_fits(gpu.TINY_MODELS["vit-s"], 8, CPU, "training", plan=PLAN)
    assert (ours["batch"], other["batch"]) == (batch, batch)
    assert ours["images_per_s"] > 0
    assert ("error" in other) == (fits == 0)


def test_what_there_is_no_time_for_is_left_out(monkeypatch):
    monkeypatch.setattr(gpu, "contenders", lambda *_: {"ours": lambda: take_all})
    plan = gpu.Plan(("eager",), steps=2, repeats=2, deadline=time.monotonic() - 1, matrix_rate=1e9)
    (line,) = gpu.measure_what_fits(gpu.TINY_MODELS["vit-s"], 4, CPU, "training", plan=plan)
    assert line["error"] == "left out, TimeoutError: no time is left; --minutes gives more"


def test_matmul_rate_counts_multiplications_and_additions(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock.now)
    real = torch.mm

    def two_seconds(*args, **kwargs):
        clock.now += 2
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", two_seconds)
    assert gpu.measure_product(CPU, (4, 8, 16), seconds=5) == 2 * 4 * 8 * 16 / 2


def bar_line(name, share=0.2, ratio=None):
    return {
        "task": "ViT-B/16 training", "name": name, "images_per_s": 1.0, "matrix_share": share, "ours_ratio": ratio,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "ratios", "verdicts"),
    [(0.36, (1.3, 1.2), ["met", "met"]), (0.34, (1.3, 1.05), ["MISSED", "MISSED"]), (0.35, (), ["met"])],
)
def test_the_bar_is_held_against_the_faster_of_the_plain_loops(share, ratios, verdicts):
    loops = ("plain loop, eager", "timm, plain loop, eager")
    others = [bar_line(name, ratio=ratio) for name, ratio in zip(loops, ratios, strict=False)]
    lines = [bar_line("roadwork, compiled", share), bar_line("roadwork, eager", ratio=0.5), *others]
    assert [said.rsplit(": ")[-1] for said in gpu.judge_bar(lines)] == verdicts


def test_missing_reference_is_reported():
    failed = {"task": "ViT-B/16 training", "name": "roadwork, compiled", "error": "left out"}
    assert gpu.judge_bar([failed]) == ["Bar: roadwork, compiled, was not measured in ViT-B/16 training."]


def test_invalid_options_are_refused(capsys):
    for arguments, message in [
        (["--tiny", "--models", "vit-b"], "--tiny has vit-s, convnext-t"),
        (["--tiny", "--steps", "0"], "must be at least 1"),
        (["--tiny", "--batch", "0"], "must be at least 1"),
    ]:
        with pytest.raises(SystemExit):
            gpu.main(arguments)
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main([])
        assert "--tiny runs a small form" in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_benchmark_runs_without_optional_packages(tmp_path):
    written = tmp_path / "gpu.json"
    arguments = ["--tiny", "--models", "vit-s", "--steps", "1", "--repeat", "1", "--json", str(written)]
    command = [sys.executable, "-c", RUN_WITHOUT_THEM, *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(written.read_text())
    errors = {line["name"]: line["error"] for line in content["lines"] if "error" in line}
    assert set(errors) == {"timm, plain loop, eager", "timm, eager"}
    assert set(errors.values()) == {"left out, ModuleNotFoundError: No module named 'timm'"}
    rate = max(content["matrix_flop_per_s"].values())
    for line in content["lines"]:
        if "error" not in line:
            assert line["batch"] == 4
            assert 0 < line["busy_share"] <= 1.01
            share = line["images_per_s"] * line["gflop_per_image"] * 1e9 / rate
            assert line["matrix_share"] == pytest.approx(share)
    per_image = {line["task"]: line["gflop_per_image"] for line in content["lines"]}
    assert per_image["tiny ViT training"] == pytest.approx(3 * per_image["tiny ViT inference"])
    assert "left out" in done.stdout
    assert "GFLOP an image" in done.stdout
    assert content["bar"] == ["Bar: roadwork, compiled, was not measured in ViT-B/16 training."]
