"""What several processes pay for one gradient, and what sending it during backward would save: in turns, on gloo.

    python -m benchmarks.reduction                        # resnet50, 224 px, batch 2 of each of 2 processes
    python -m benchmarks.reduction --model ppyoloe_s --size 320 --bucket_mib 4 --sync_batchnorm
    sudo unshare -n sh -c "ip link set lo up; tc qdisc add dev lo root tbf rate 2gbit burst 4mb latency 400ms;
        python -m benchmarks.reduction --rounds 10"       # as over a network of about 1 Gbit/s each way

A step is forward, loss, backward, reduction and SGD, one thread a process, in three ways:
- after backward: `public.parallel.reduce.GradientReducer`, which is how training does it;
- overlapped: the same buckets, the last first; each is sent by a hook as soon as its gradients are there and those behind
  it in the model are sent, so all processes send in one order, whatever their graphs hold; in a group of its own, since
  synchronised BatchNorm talks inside backward;
- alone: no reduction, each process by itself.
The program ends with an error where the first two give other bits.

The overlapped way stands here and not in training because it gains nothing on one machine (docs/measured.md): sending is
work of the cores that compute.  It does where a slow network is waited for.  Training would need more of it than is here:
only the last micro-batch may send; what is sent has to be waited for or given up where a backward fails, and hooks must be
silent while smaller batches are tried after it; and NCCL, where two groups in flight at once may deadlock, has to go on
reducing after backward until it has been tried on two GPUs.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from benchmarks import train_step
from benchmarks.figures import figure
from public.models import create_model
from public.models.backbones import NETWORKS
from public.parallel import reduce
from public.parallel.reduce import GradientReducer
from public.parallel.sync_batchnorm import convert_sync_batchnorm

NUM_CLASSES = 1000  # of a classifier
AFTER, OVERLAPPED, ALONE = WAYS = ("after backward", "overlapped", "alone")


class OverlappedReducer(GradientReducer):
    """A `GradientReducer` that sends during a backward pass that `begin` announces: the same buckets, the same bits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.group = dist.new_group(backend="gloo")
        self.missing: list[int] | None = None  # of each bucket the gradients to come; None: nothing is sent
        self.sent: list[tuple[torch.Tensor, dist.Work]] = []  # of the last bucket, the last but one, ...
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda _, number=number: self.arrived(number))

    def begin(self) -> None:
        self.missing, self.sent = [len(bucket) for bucket in self.buckets], []

    def arrived(self, number: int) -> None:
        """Takes note of a gradient of bucket `number`, and sends what may be sent."""
        if self.missing is None:
            return
        self.missing[number] -= 1
        while len(self.sent) < len(self.buckets) and self.missing[-1 - len(self.sent)] == 0:
            self.send_next()

    @torch.no_grad()
    def send_next(self) -> None:
        bucket = self.buckets[-1 - len(self.sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        work = dist.all_reduce(flat, group=self.group, async_op=True)
        assert work is not None
        self.sent.append((flat, work))

    @torch.no_grad()
    def reduce(self) -> None:
        self.missing = None
        while len(self.sent) < len(self.buckets):
            self.send_next()
        for bucket, (flat, work) in zip(reversed(self.buckets), self.sent):
            work.wait()
            flat /= dist.get_world_size()
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket])):
                if parameter.grad is None:
                    parameter.grad = part.view_as(parameter).clone()
                else:
                    parameter.grad.copy_(part.view_as(parameter))


class Step:
    """A step of one process, on its own random images.  No step changes a weight, so all have the same gradient."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.model, self.loss = model_and_loss(arguments)
        if arguments.sync_batchnorm:
            convert_sync_batchnorm(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)
        if arguments.bucket_mib is not None:
            reduce.BUCKET_VALUES = int(arguments.bucket_mib * 2**20) // 4
        self.reducers = {AFTER: GradientReducer(self.model), OVERLAPPED: OverlappedReducer(self.model)}

    def seconds(self, way: str) -> tuple[float, float]:
        """Of a whole step, and of it what comes between the end of backward and the whole gradient."""
        torch.manual_seed(0)
        self.optimizer.zero_grad(set_to_none=True)
        dist.barrier()
        start = time.perf_counter()
        loss = self.loss()
        if way == OVERLAPPED:
            self.reducers[OVERLAPPED].begin()
        loss.backward()
        backward = time.perf_counter()
        if way != ALONE:
            self.reducers[way].reduce()
        reduced = time.perf_counter()
        self.optimizer.step()
        return time.perf_counter() - start, reduced - backward

    def gradient(self) -> torch.Tensor:
        return torch.cat([p.grad.reshape(-1) for p in self.model.parameters() if p.grad is not None])


def model_and_loss(arguments: argparse.Namespace) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """The network, and what gives its loss on this process's images."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size, generator=generator)
    if arguments.model in NETWORKS:
        torch.manual_seed(0)
        model = create_model(arguments.model, num_classes=NUM_CLASSES).train()
        labels = torch.randint(NUM_CLASSES, (arguments.batch,), generator=generator)
        return model, lambda: nn.functional.cross_entropy(model(images), labels)
    step = train_step.Step(argparse.Namespace(**vars(arguments), device="cpu", objects=5), "float32")

    def loss() -> torch.Tensor:
        terms = step.loss(step.model(images), step.targets, train_step.LATE)
        return torch.stack(list(terms.values())).sum()

    return step.model, loss


def run_rank(rank: int, arguments: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=arguments.processes
    )
    step = Step(arguments)
    gradients = {}
    for way in WAYS:  # to warm up, and to compare
        step.seconds(way)
        gradients[way] = step.gradient()
    if not torch.equal(gradients[AFTER], gradients[OVERLAPPED]):
        raise RuntimeError("the overlapped reduction gives other bits")
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way in WAYS if number % 2 else WAYS[::-1]:  # in turns: A B C C B A ...
            times[way].append(step.seconds(way))
    if rank == 0:
        report(arguments, step, times)
    dist.destroy_process_group()


def report(arguments: argparse.Namespace, step: Step, times: dict[str, list[tuple[float, float]]]) -> None:
    values, buckets = step.gradient().numel(), len(step.reducers[AFTER].buckets)
    print(
        f"{arguments.model}, {arguments.size} px, batch {arguments.batch} of each of {arguments.processes} gloo "
        f"processes of one thread{', BatchNorm over all' if arguments.sync_batchnorm else ''}; "
        f"a gradient of {4 * values / 2**20:.1f} MiB in {buckets} buckets; medians of {arguments.rounds} rounds in turns"
    )
    for way in WAYS:
        whole, reduction = (statistics.median(column) for column in zip(*times[way]))
        print(f"{way:<16} {1e3 * whole:8.1f} ms a step, {1e3 * reduction:7.1f} ms from backward to the gradient")
    for way, what in ((OVERLAPPED, "that overlaps"), (ALONE, "without reduction")):
        ratios = [one / other for (one, _), (other, _) in zip(times[way], times[AFTER])]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        figure(f"a step of {arguments.model} {what}", middle, "times", peer=f"that of its round {AFTER}")
        print(f"    half of the rounds lie between {low:.3f} and {high:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a classifier or a detector (%(default)s)")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2, help="of each process (%(default)s)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sync_batchnorm", action="store_true")
    parser.add_argument("--bucket_mib", type=float, help="in place of the reducer's own size")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run_rank, args=(arguments, folder), nprocs=arguments.processes)


if __name__ == "__main__":
    main()
