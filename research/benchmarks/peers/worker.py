"""What PyTorch takes for the same work. Run by another Python, which has torch and torchvision.

It reads one JSON request a line from standard input, `{"do": NAME, ...arguments}`, and answers each
with one line, `{"result": ...}` or `{"error": "..."}`. Nothing of this project is imported.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

JOBS = {}


def versions():
    """Returns what is installed, and how many threads PyTorch uses."""
    import torch
    import torchvision

    found = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    try:
        import lightly

        found["lightly"] = lightly.__version__
    except ImportError:
        pass
    return {**found, "threads": torch.get_num_threads()}


def network(name, image_size):
    """Returns a feature extractor, from pixels to the globally averaged last map."""
    from torch import nn
    from torchvision import models

    def convolution(inputs, outputs, size):
        return [
            nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(True),
        ]

    layers, inputs = [], 3
    if name == "six_layer":
        for number, outputs in enumerate((16, 32, 32, 48, 48, 128)):
            layers += convolution(inputs, outputs, 3)
            layers += [nn.MaxPool2d(2)] if number in (1, 3) else []
            inputs = outputs
    elif name == "network_in_network":
        pools = {0: nn.MaxPool2d(3, 2, 1), 1: nn.AvgPool2d(3, 2, 1)}
        for number in range(4):
            channels = (192, 160, 96) if number == 0 else (192, 192, 192)
            for place, outputs in enumerate(channels):
                layers += convolution(inputs, outputs, (5 if number < 2 else 3) if not place else 1)
                inputs = outputs
            layers += [pools[number]] if number in pools else []
    elif name == "resnet18":
        whole = models.resnet18()
        if image_size <= 64:
            whole.conv1, whole.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        whole.fc = nn.Identity()
        return whole, 512
    elif name == "mobilenet_v2":
        whole = models.mobilenet_v2()
        whole.classifier = nn.Identity()
        return whole, 1280
    else:
        raise ValueError(f"no network '{name}'")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


def _sgd(parameters):
    import torch

    return torch.optim.SGD(
        parameters, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=True
    )


class _Job:
    """A network with its optimizer in one memory format and precision; `run` is one step."""

    def __init__(
        self, name, image_size, views, layout="nchw", dtype="float32", compiled=False, seed=0
    ):
        import torch

        torch.manual_seed(seed)
        self.dtype = dtype
        self.net, self.width = network(name, image_size)
        self.format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.net = self.net.to(memory_format=self.format).train()
        self.forward = torch.compile(self.net) if compiled else self.net
        self.parameters = list(self.net.parameters())
        self.images = torch.randn(views, 3, image_size, image_size)
        self.images = self.images.contiguous(memory_format=self.format)
        self.prepare()
        self.optimizer = _sgd(self.parameters)

    def prepare(self):
        pass

    def features(self, images):
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return self.forward(images).float()

    def loss(self):
        return self.features(self.images).mean()

    def run(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


class _Decoupling(_Job):
    """The published training step: rotations, three losses, noise-contrastive estimation."""

    def __init__(self, *arguments, rows=50_000, negatives=4096, **options):
        self.rows, self.negatives = rows, negatives
        super().__init__(*arguments, **options)

    def prepare(self):
        import torch
        from torch import nn

        half = self.width // 2
        self.originals = self.images[::4].contiguous(memory_format=self.format)
        self.head, self.projection = nn.Linear(half, 4), nn.Linear(half, 128)
        self.parameters += [*self.head.parameters(), *self.projection.parameters()]
        self.bank = nn.functional.normalize(torch.randn(self.rows, 128))
        self.log_constant = None
        self.index = torch.arange(len(self.originals)) * (self.rows // len(self.originals))

    def loss(self):
        import torch
        from torch.nn import functional

        x = self.originals
        turns = [x, x.rot90(1, (2, 3)), x.rot90(2, (2, 3)), x.rot90(3, (2, 3))]
        f = self.features(torch.cat(turns).contiguous(memory_format=self.format))
        f1, f2 = f.chunk(2, 1)
        labels = torch.arange(4).repeat_interleave(len(x))
        rotation = functional.cross_entropy(self.head(f1), labels)
        f2 = f2.view(4, len(x), -1)
        mean = f2.mean(0)
        distance = ((f2 - mean) ** 2).mean()
        query = functional.normalize(self.projection(mean))
        drawn = torch.randint(self.rows, (len(x), self.negatives))
        rows = torch.cat([self.index[:, None], drawn], 1)
        logits = torch.einsum("nkd,nd->nk", self.bank[rows], query) / 0.07
        if self.log_constant is None:  # estimated from the first batch, then kept
            mean_of_exp = torch.logsumexp(logits.detach().flatten(), 0) - math.log(logits.numel())
            self.log_constant = mean_of_exp + math.log(self.rows)
        # Log odds of the data against so many samples of noise, each of probability 1 / rows.
        odds = logits - self.log_constant - math.log(self.negatives / self.rows)
        instance = functional.softplus(-odds[:, 0]) + functional.softplus(odds[:, 1:]).sum(1)
        with torch.no_grad():
            moved = 0.5 * self.bank[self.index] + 0.5 * query
            self.bank[self.index] = functional.normalize(moved)
        return rotation + distance + instance.mean()


class _Images:
    """Image files as a dataset of PyTorch."""

    def __init__(self, files, view):
        self.files, self.view = files, view

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        from PIL import Image

        return self.view(Image.open(self.files[place]).convert("RGB"))


class _SimCLR(_Job):
    """SimCLR of the library lightly, images read from a folder; `run` is one step of training."""

    def __init__(self, name, image_size, views, folder, workers=2, **options):
        self.folder, self.size, self.workers = folder, image_size, workers
        self.batch = views // 2
        super().__init__(name, image_size, views, **options)

    def prepare(self):
        import torch
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        files = sorted(str(path) for path in Path(self.folder).rglob("*.jp*g"))
        files *= -(-2 * self.batch // len(files))  # two batches at least
        view = SimCLRTransform(input_size=self.size, gaussian_blur=0.0, cj_strength=0.5)
        self.loader = torch.utils.data.DataLoader(
            _Images(files, view),
            self.batch,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        self.batches = iter(self.loader)
        self.head = SimCLRProjectionHead(self.width, self.width, 64)
        self.parameters += list(self.head.parameters())
        self.criterion = NTXentLoss(temperature=0.5)

    def loss(self):
        import torch

        try:
            batch = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        images = torch.cat(batch[:2]).contiguous(memory_format=self.format)
        return self.criterion(*self.head(self.features(images)).chunk(2))


KINDS = {"step": _Job, "rfd": _Decoupling, "simclr": _SimCLR}


def build(key, kind, warmup=2, **arguments):
    """Builds a job and runs it a few times untimed."""
    job = KINDS[kind](**arguments)
    for _ in range(warmup):
        job.run()
    JOBS[key] = job


def run(key, times=1):
    """Returns the seconds that a job's steps take."""
    start = time.perf_counter()
    for _ in range(times):
        JOBS[key].run()
    return time.perf_counter() - start


def simclr(name, image_size, folder, epochs, seed, output, batch=128):
    """Trains SimCLR on `folder/train`, and writes the features of `train/` and `test/`.

    The settings are those of lightly's benchmark on CIFAR-10, scaled to the batch: SGD with a rate
    of 0.06 * batch / 256 on a cosine, temperature 0.5, colour strength 0.5, no blur.

    Args:
        name, image_size: the network, and pixels a side.
        folder: with `train/` and `test/`, each with a folder a class.
        epochs: of two views an image.
        seed: of everything that is drawn.
        output: the .npz file to write.
        batch: images in a step.

    Returns:
        Seconds of the training.
    """
    import numpy as np
    import torch
    from torchvision import transforms

    start = time.perf_counter()
    torch.manual_seed(seed)
    job = _SimCLR(name, image_size, 2 * batch, f"{folder}/train", layout="channels_last", seed=seed)
    rate = 0.06 * batch / 256
    job.optimizer = torch.optim.SGD(job.parameters, lr=rate, momentum=0.9, weight_decay=5e-4)
    steps = epochs * len(job.loader)
    for step in range(steps):
        job.optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        job.run()
    seconds = time.perf_counter() - start

    job.net.eval()
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = transforms.Compose(
        [
            transforms.Resize(image_size),
            transforms.CenterCrop(image_size),
            transforms.ToTensor(),
            transforms.Normalize(means, deviations),
        ]
    )
    classes = sorted(path.name for path in Path(folder, "train").iterdir() if path.is_dir())
    found = {"classes": len(classes)}
    for part in ("train", "test"):
        files = [
            (f, k) for k, c in enumerate(classes) for f in sorted(Path(folder, part, c).iterdir())
        ]
        images = torch.utils.data.DataLoader(_Images([file for file, _ in files], plain), 256)
        with torch.no_grad():
            found[part] = np.concatenate([job.net(batch).numpy() for batch in images])
        found[f"{part}_labels"] = np.array([label for _, label in files])
    np.savez(output, **found)
    return seconds


def drop():
    """Forgets all jobs."""
    JOBS.clear()


def growth(steps, **arguments):
    """Returns the bytes by which this process grows, at its peak, in some training steps."""
    import torch

    torch.ones(64, 64) @ torch.ones(64, 64)
    before = _status("VmRSS")
    build("memory", "step", warmup=steps, **arguments)
    return _status("VmHWM") - before


def _status(field):
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines if ":" in line)[field].split()[0])


COMMANDS = {f.__name__: f for f in (versions, build, run, simclr, drop, growth)}


def main():
    # Libraries print to standard output; the answers keep it for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": COMMANDS[request.pop("do")](**request)}
        except Exception as error:  # whatever a peer cannot do is reported, not fatal
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
