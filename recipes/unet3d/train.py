"""Train the narrow 3D-UNet on phantoms and export it; measure its Dice in FP32 and INT8.

    python recipes/unet3d/train.py --work WORK_DIR [--steps 5000] [--out phantom.onnx]    # needs torch
    python recipes/unet3d/train.py --evaluate [phantom.onnx]                              # does not

Training goes on where it was stopped: WORK_DIR holds the drawn phantoms and a checkpoint. The protocol is that of
MLPerf's KiTS19 task: volumes of 1.6 x 1.2 x 1.2 mm, windows of 128^3 voxels that overlap by half.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from scipy import ndimage

try:
    import torch
    import torch.nn.functional as f
except ImportError:  # measuring does without
    torch = None

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "calib_data" / "phantoms"))

from draw import CALIBRATION_SEEDS, TEST_SEEDS, TRAIN_SEEDS, Phantom, draw
from topology import unet3d, weights_of

Array = np.ndarray[Any, Any]
Three = tuple[int, int, int]

FILTERS = (4, 8, 16, 32, 40, 40)
WINDOW, STRIDE = 128, 64
SPACING = np.array([1.6, 1.2, 1.2])
PAD = -2.2  # of the normalised image

PHANTOMS = 200
RATE = 3e-3
SIZES = {0.0: 64, 0.5: 96, 0.8: WINDOW}
"""Edge of the patches from each part of the training on: most is learnt from small ones, which cost an eighth, but
InstanceNorm must see whole windows in the end."""

QUANTIZED_FROM = 0.85
"""The part of the training after which convolutions see their inputs and weights rounded to 8 bits."""


@dataclass(frozen=True)
class Case:
    """A phantom as the network sees it: ``image`` float32 [d, h, w], ``label`` uint8; d, h, w multiples of 64.

    ``offset``: where this grid begins on the resampled one of ``resampled`` voxels, negative for padding.
    """

    image: Array
    label: Array
    offset: Three
    resampled: Three

    @classmethod
    def of(cls, phantom: Phantom) -> Case:
        factors = np.abs(phantom.affine[[2, 1, 0], [0, 1, 2]]) / SPACING
        source = phantom.image.astype(np.float32)
        image = ndimage.zoom(source, factors, order=1, mode="constant", cval=source.min(), grid_mode=False)
        label = ndimage.zoom(phantom.label, factors, order=0, mode="constant", cval=0, grid_mode=False)
        resampled = image.shape
        image = (np.clip(image, -79, 304) - np.float32(101)) / np.float32(76.9)
        offset = [0, 0, 0]
        for axis, size in enumerate(resampled):
            widths = [(0, 0)] * 3
            if (short := WINDOW - size) > 0:
                widths[axis] = (short // 2, short - short // 2)
                image, label = np.pad(image, widths, mode="edge"), np.pad(label, widths)
            elif (rest := size % STRIDE) >= STRIDE // 2:
                widths[axis] = ((STRIDE - rest) // 2, STRIDE - rest - (STRIDE - rest) // 2)
                image, label = np.pad(image, widths, constant_values=PAD), np.pad(label, widths)
            else:
                kept = np.arange(rest // 2, size - (rest - rest // 2))
                image, label = image.take(kept, axis), label.take(kept, axis)
                offset[axis] = rest // 2
            offset[axis] -= widths[axis][0]
        return cls(image, label, (offset[0], offset[1], offset[2]), resampled)

    def restored(self, label: Array, shape: Three) -> Array:
        """Labels of this grid on the phantom's own of ``shape`` voxels, by the nearest; background where cropped."""
        whole = np.zeros(self.resampled, np.uint8)
        ours, theirs = [], []
        for start, size, full in zip(self.offset, label.shape, self.resampled, strict=True):
            low, high = max(start, 0), min(start + size, full)
            ours.append(slice(low, high))
            theirs.append(slice(low - start, high - start))
        whole[tuple(ours)] = label[tuple(theirs)]
        return ndimage.zoom(whole, np.divide(shape, whole.shape), order=0, grid_mode=False)


def windows(shape: Three) -> Iterator[tuple[slice, slice, slice]]:
    starts = [range(0, size - WINDOW + 1, STRIDE) for size in shape]
    for d, h, w in itertools.product(*starts):
        yield slice(d, d + WINDOW), slice(h, h + WINDOW), slice(w, w + WINDOW)


def importance() -> Array:
    """Weight of each voxel of a window, float32 [128, 128, 128]: the cube root of a Gaussian of 16 voxels."""
    side = np.exp(-0.5 * ((np.arange(WINDOW) - (WINDOW - 1) / 2) / 16) ** 2 / 3).astype(np.float32)
    return side[:, None, None] * side[:, None] * side


def segment(session: onnxruntime.InferenceSession, image: Array) -> Array:
    """uint8 labels of a preprocessed image, by the weighted mean of the windows' logits."""
    weight = importance()
    total = np.zeros((3, *image.shape), np.float32)
    for place in windows(image.shape):
        (logits,) = session.run(None, {"input": np.ascontiguousarray(image[place])[None, None]})
        total[(slice(None), *place)] += logits[0] * weight
    return total.argmax(0).astype(np.uint8)


def dice(label: Array, truth: Array) -> tuple[float, float]:
    """Of kidney and of tumour, smoothed by 1e-6 as MLPerf does."""
    found = []
    for value in (1, 2):
        a, b = label == value, truth == value
        found.append((2.0 * np.count_nonzero(a & b) + 1e-6) / (np.count_nonzero(a) + np.count_nonzero(b) + 1e-6))
    return found[0], found[1]


# --- measuring


def open_model(model: onnx.ModelProto, *, optimize: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def quantized(model: onnx.ModelProto, images: list[Array]) -> onnx.ModelProto:
    """The model with what INT8 convolutions see: inputs rounded per tensor, weights per output channel, symmetric.

    The ranges of the inputs are the largest magnitudes over all windows of ``images``. Transposed convolutions stay.
    """
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    inputs = sorted({node.input[0] for node in convolutions} - {"input"})
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inputs)
    session = open_model(probe)
    largest = dict.fromkeys(["input", *inputs], 0.0)
    for image in images:
        for place in windows(image.shape):
            feed = np.ascontiguousarray(image[place])[None, None]
            for name, value in zip(["input", *inputs], [feed, *session.run(inputs, {"input": feed})], strict=True):
                largest[name] = max(largest[name], float(np.abs(value).max()))

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    first = {}
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        kernel = numpy_helper.to_array(weights[node.input[1]])
        scale = np.abs(kernel).max((1, 2, 3, 4), keepdims=True) / 127
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(np.round(kernel / scale) * scale, node.input[1]))
        name = node.input[0]
        graph.initializer.append(numpy_helper.from_array(np.float32(largest[name] / 127), f"{name}.range"))
        node.input[0] = f"{name}.rounded"
        first.setdefault(name, node.name)
    graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    ordered = []
    for node in list(graph.node):
        for name in (name for name, user in first.items() if user == node.name):
            scales = [f"{name}.range", "zero"]
            ordered.append(helper.make_node("QuantizeLinear", [name, *scales], [f"{name}.int8"]))
            ordered.append(helper.make_node("DequantizeLinear", [f"{name}.int8", *scales], [f"{name}.rounded"]))
        ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)
    return made


def evaluate(path: Path, seeds: range) -> None:
    """Print Dice of each phantom, on the network's grid and on the phantom's own, and the means."""
    model = onnx.load(path)
    calibration = [Case.of(draw(seed)).image for seed in CALIBRATION_SEEDS[:4]]
    sessions = {"FP32": open_model(model), "INT8": open_model(quantized(model, calibration), optimize=False)}
    rows = []
    print("seed    grid         | FP32 kidney tumour | own grid      | INT8 kidney tumour | own grid")
    for seed in seeds:
        phantom = draw(seed)
        case = Case.of(phantom)
        row = []
        for session in sessions.values():
            label = segment(session, case.image)
            row.append(dice(label, case.label))
            row.append(dice(case.restored(label, phantom.label.shape), phantom.label))
        rows.append(row)
        cells = "     | ".join(f"{kidney:.4f} {tumour:.4f}" for kidney, tumour in row)
        print(f"{seed:<6} {'x'.join(map(str, case.image.shape)):>12}  | {cells}", flush=True)
    means = np.mean(rows, 0)  # [precision and grid, class]
    for (name, grid), (kidney, tumour) in zip(itertools.product(sessions, ("network's", "own")), means, strict=True):
        print(f"{name} on the {grid} grid: kidney {kidney:.4f}, tumour {tumour:.4f}, mean {(kidney + tumour) / 2:.5f}")


# --- training


def _prepare(task: tuple[int, Path]) -> None:
    """Draw one phantom of the training set into ``<seed>.image.npy`` (float16) and ``<seed>.label.npy``."""
    seed, folder = task
    case = Case.of(draw(seed))
    for name, value in (("image", case.image.astype(np.float16)), ("label", case.label)):
        partial = folder / f"{seed}.{name}.part"
        with partial.open("wb") as stream:
            np.save(stream, value)
        partial.rename(folder / f"{seed}.{name}.npy")


def prepare(folder: Path) -> list[tuple[Array, Array, Array]]:
    """Image, label and the tumour's voxels [n, 3] of the training phantoms; the first two stay on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = TRAIN_SEEDS[:PHANTOMS]
    missing = [(seed, folder) for seed in seeds if not (folder / f"{seed}.label.npy").exists()]
    with multiprocessing.get_context("spawn").Pool(max(1, len(os.sched_getaffinity(0)))) as pool:
        for number, _ in enumerate(pool.imap_unordered(_prepare, missing), 1):
            print(f"\rphantoms drawn: {number} of {len(missing)}", end="", flush=True)
    print()
    cases = []
    for seed in seeds:
        image, label = (np.load(folder / f"{seed}.{name}.npy", mmap_mode="r") for name in ("image", "label"))
        cases.append((image, label, np.argwhere(label == 2).astype(np.int16)))
    return cases


def patch(rng: np.random.Generator, cases: list[tuple[Array, Array, Array]], size: int) -> tuple[Array, Array]:
    """A cube of ``size`` voxels, as float32 image and int64 label: three of four times with tumour in it.

    Mirrored left to right half of the time, contrast +-10 %, brightness +-0.1 (about 8 HU).
    """
    image, label, tumour = cases[rng.integers(len(cases))]
    last = np.array(image.shape) - size
    around_tumour = rng.random() < 0.75
    while True:
        start = rng.integers(0, last + 1)
        if around_tumour:
            voxel = tumour[rng.integers(len(tumour))].astype(int)
            start = np.clip(rng.integers(voxel - size + 16, voxel - 15), 0, last)
        place = tuple(slice(a, a + size) for a in start)
        x, y = image[place].astype(np.float32), label[place].astype(np.int64)
        if x.std() > 0.3:  # in nothing but air InstanceNorm divides by zero
            break
    if rng.random() < 0.5:
        x, y = x[:, :, ::-1], y[:, :, ::-1]
    x = x * np.float32(rng.uniform(0.9, 1.1)) + np.float32(rng.uniform(-0.1, 0.1))
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def forward(p: Mapping[str, Any], x: Any, *, rounded: bool) -> Any:
    """The topology's arithmetic in torch on [1, 1, d, h, w]; ``rounded``: convolutions see 8 bits of everything."""

    def eight_bits(value: Any, axes: tuple[int, ...]) -> Any:
        """Rounded for the forward pass, as it is for the gradient."""
        if not rounded:
            return value
        fixed = value.detach()
        scale = fixed.abs().amax(axes, keepdim=True) / 127 + 1e-12
        return value + ((fixed / scale).round() * scale - fixed)

    def convolve(name: str, x: Any, **how: Any) -> Any:
        weight = eight_bits(p[f"{name}.weight"], (1, 2, 3, 4))
        return f.conv3d(eight_bits(x, (0, 1, 2, 3, 4)), weight, p.get(f"{name}.bias"), **how)

    def block(name: str, x: Any, stride: int) -> Any:
        for number in range(2):
            x = convolve(f"{name}.conv.{number}", x, stride=stride, padding=1)
            x = f.instance_norm(x, None, None, p[f"{name}.norm.{number}.scale"], p[f"{name}.norm.{number}.bias"])
            x, stride = f.relu(x, inplace=True), 1
        return x

    skips = []
    for level in range(len(FILTERS)):
        x = block(f"encoder.{level}", x, 2 if level else 1)
        skips.append(x)
    for level in range(len(FILTERS) - 2, -1, -1):
        up = f.conv_transpose3d(x, p[f"decoder.{level}.up.weight"], p[f"decoder.{level}.up.bias"], stride=2)
        x = block(f"decoder.{level}", torch.cat([up, skips[level]], 1), 1)
    return convolve("output", x)


def loss_of(logits: Any, truth: Any) -> tuple[Any, Any]:
    """Cross-entropy + 1 - mean soft Dice of kidney and tumour, and the two soft Dice."""
    shares = logits.softmax(1)[0, 1:]
    wanted = f.one_hot(truth[0], 3).movedim(-1, 0)[1:]
    overlap = (shares * wanted).sum((1, 2, 3))
    soft = (2 * overlap + 1) / (shares.sum((1, 2, 3)) + wanted.sum((1, 2, 3)) + 1)
    return f.cross_entropy(logits, truth) + 1 - soft.mean(), soft.detach()


def train(work: Path, steps: int, out: Path) -> None:
    """AdamW with a cosine of the rate; what is exported is a moving average of the weights."""
    cases = prepare(work / "phantoms")
    fast = {"memory_format": torch.channels_last_3d}

    def tensor(value: Array) -> Any:
        made = torch.from_numpy(np.array(value))
        return made.contiguous(**fast) if made.dim() == 5 else made

    p = {name: tensor(value).requires_grad_() for name, value in weights_of(unet3d(FILTERS)).items()}
    average = {name: value.detach().clone() for name, value in p.items()}
    optimizer = torch.optim.AdamW(p.values(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * min(1, step / steps)))
    )
    checkpoint, begun, seconds = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        begun, seconds = state["step"], state["seconds"]
        for name, value in p.items():
            value.data.copy_(state["weights"][name])
            average[name].copy_(state["average"][name])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])

    def export() -> None:
        weights = {name: value.contiguous().numpy() for name, value in average.items()}
        onnx.save(unet3d(FILTERS, weights=weights), out)

    recent = []
    started = time.monotonic() - seconds
    for step in range(begun, steps):
        size = next(edge for begin, edge in reversed(SIZES.items()) if step >= begin * steps)
        x, y = patch(np.random.default_rng([7, step]), cases, size)
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(p, tensor(x[None, None]), rounded=step >= QUANTIZED_FROM * steps)
        loss, soft = loss_of(logits.float(), torch.from_numpy(y[None]))
        optimizer.zero_grad()
        loss.backward()
        if torch.nn.utils.clip_grad_norm_(p.values(), 1.0).isfinite():
            optimizer.step()
        schedule.step()
        keep = min(0.995, (1 + step) / (10 + step))
        for name, value in p.items():
            average[name].lerp_(value.detach(), 1 - keep)
        recent.append([loss.item(), *soft.tolist(), float((y == 2).any())])
        if (step + 1) % 50 == 0:
            mean = np.mean(recent, 0)
            tumour = np.mean([row[2] for row in recent if row[3]])
            recent.clear()
            seconds = time.monotonic() - started
            print(
                f"{step + 1:6} {seconds:7.0f} s  loss {mean[0]:.4f}  kidney {mean[1]:.3f}  tumour {tumour:.3f}",
                flush=True,
            )
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"step": step + 1, "seconds": time.monotonic() - started, "weights": p, "average": average}
            torch.save(
                {**state, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()},
                checkpoint.with_suffix(".part"),
            )
            checkpoint.with_suffix(".part").replace(checkpoint)
            export()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).with_name("phantom.onnx")
    parser.add_argument("--work", type=Path, help="train: phantoms and checkpoint are kept in this folder")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=here)
    parser.add_argument("--evaluate", type=Path, nargs="?", const=here, help="measure this model on the test phantoms")
    options = parser.parse_args()
    if options.work and torch is None:
        parser.error("training needs torch: pip install torch")
    if options.work:
        train(options.work, options.steps, options.out)
    if options.evaluate:
        evaluate(options.evaluate, TEST_SEEDS)


if __name__ == "__main__":
    main()
