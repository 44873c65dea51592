"""Many processes that train one dictionary, on a mesh of (rows, features): data parallel, divided by features, or both.

Every rank reads an equal part of each batch. Ranks in a row of the mesh give each other what they read, hold different features, and add up
what these write; ranks in a column hold the same features, work on different rows, and average their gradients.

Everything that a loss asks of the whole batch is answered exactly: the step of many ranks is the step of one, but for the rounding of sums.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

from saelab.checkpoint import CHECKPOINT_FILE, POINTER_FILE, SHARDS_FOLDER
from saelab.distributed.collectives import gather_in_place, gathered, summed
from saelab.distributed.gradients import Exchange, average
from saelab.distributed.job import Job
from saelab.distributed.ranks import Flat, Ranks
from saelab.distributed.rows import Portion
from saelab.distributed.selection import chosen_of_all, chosen_of_rows
from saelab.distributed.shards import is_divided, load_part, load_shards, load_weights, point_to, write_shards
from saelab.errors import Invalid
from saelab.kernels.segments import Segments

T = TypeVar("T")
DIVISIBLE = ("topk", "batchtopk", "abstopk", "matryoshka", "jumprelu")
"""Architectures whose features can be divided among ranks."""
EVEN = ("topk", "abstopk")
"""Architectures whose rows have as many codes each, chosen row by row."""
_DECIDE_EVERY = 10
"""Steps from one look at whether a checkpoint is due to the next."""
_DRAWN_ROWS = 2**14
"""Rows of a random matrix that are drawn at a time; a multiple of 16, which keeps the numbers those of one draw."""


class Group(Ranks):
    """The processes of a job, training one dictionary.

    Arguments:
    - `job`: this process among all that torchrun started.
    - `shards`: processes that divide the features among themselves; they must divide the job's.
    - `device`: where this rank trains.

    Raises `Invalid` for shards that do not fit the job.
    """

    def __init__(self, job: Job, shards: int, device: torch.device) -> None:
        if shards < 1 or job.size % shards:
            raise Invalid(f"shards is {shards}; it must divide the {job.size} processes of this job.")
        self._job, self._device, self._steps = job, device, 0
        self.size, self.rows, self.shards, self.leads = job.size, job.size // shards, shards, job.leads
        mesh = init_device_mesh(device.type, (self.rows, shards), mesh_dim_names=("rows", "features"))
        self._mesh = mesh["features"]
        assert dist.group.WORLD is not None, "a job of several processes has joined them"
        self._rows, self._features, self._all = mesh["rows"].get_group(), self._mesh.get_group(), dist.group.WORLD
        self._row, self._shard = mesh["rows"].get_local_rank(), self._mesh.get_local_rank()
        self._exchange = Exchange(self._rows)
        self._counted: tuple[Tensor | None, int] = None, 0

    def recordable(self, dictionary: Any) -> bool:  # noqa: ANN401 - as in Ranks
        """Whether its steps can be recorded; not where ranks choose codes together: how many one has is known on the host alone."""
        return super().recordable(dictionary) and self.shards == 1 and dictionary.architecture in EVEN

    def hold(self, make: Callable[[], nn.Module], device: torch.device) -> Any:  # noqa: ANN401 - as in Ranks
        """The dictionary with zeros for the features of this rank; `initialise` or a checkpoint sets them."""
        if self.shards == 1:
            dictionary = make().to(device)
        else:
            with torch.device("meta"):
                dictionary = make()
            self._divide(dictionary, device)
        for module in dictionary.modules():
            if hasattr(module, "ranks"):
                vars(module)["ranks"] = self
        return dictionary

    def _divide(self, dictionary: Any, device: torch.device) -> None:  # noqa: ANN401 - a Trainable, which is above this layer
        name, size = dictionary.architecture, dictionary.d_sae
        if name not in DIVISIBLE:
            raise Invalid(f"The features of a dictionary of the kind {name} cannot be divided; those of {', '.join(DIVISIBLE)} can.")
        if size % self.shards:
            raise Invalid(f"{size} features cannot be divided evenly among {self.shards} processes. Change d_sae or shards.")
        self.first = size // self.shards * self._shard

        def part(key: str, whole: Tensor) -> Tensor:
            return torch.zeros_like(whole.chunk(self.shards)[0] if is_divided(key, whole) else whole, device=device)

        for key, parameter in list(dictionary.named_parameters()):
            setattr(dictionary, key, nn.Parameter(part(key, parameter.detach())))
        for key, buffer in list(dictionary.named_buffers()):
            setattr(dictionary, key, part(key, buffer))

    def drawn(self, d_sae: int, width: int, generator: torch.Generator) -> Float[Tensor, "held width"]:
        """Its rows of the matrix that one process would draw; the others are drawn and thrown away."""
        if self.shards == 1:
            return super().drawn(d_sae, width, generator)
        end = self.first + d_sae // self.shards
        held = torch.empty(end - self.first, width)
        for begin in range(0, d_sae, _DRAWN_ROWS):
            rows = torch.randn(min(_DRAWN_ROWS, d_sae - begin), width, generator=generator)
            low, high = max(begin, self.first), min(begin + len(rows), end)
            if low < high:
                held[low - self.first : high - self.first] = rows[low - begin : high - begin]
        return held

    def together(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "all_rows width"]:
        """The rows that all ranks with other features have read."""
        return x if self.shards == 1 else gathered(x, self._features)

    def part(self, batches: Callable[[int], Iterator[Tensor]]) -> Callable[[int], Iterator[Tensor]]:
        """An equal part of each batch."""
        return Portion(batches, self._job.rank, self.size)

    def everyone(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "all_rows width"]:
        """The rows of all ranks."""
        return gathered(x, self._all)

    def mean(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The mean over the ranks with other rows."""
        return x if self.rows == 1 else summed(x, self._rows, self.rows)

    def total(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The sum over the ranks with other features."""
        return x if self.shards == 1 else summed(x, self._features)

    def entering(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Each rank finds a part of the gradient: times their number, the mean over them is the sum."""
        if self.shards > 1 and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient * self.shards)
        return x

    def count(self, dead: Int[Tensor, " dead"]) -> int:
        """Those of all ranks with other features. It waits for the device: once for a tensor, which all change at a time."""
        if self.shards == 1:
            return super().count(dead)
        if dead is not self._counted[0]:
            self._counted = dead, int(self.total(torch.tensor(len(dead), device=self._device)))
        return self._counted[1]

    def least(self, values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """The smallest value on any rank."""
        least = functional.pad(values, (0, 1), value=float("inf")).min()
        dist.all_reduce(least, dist.ReduceOp.MIN, group=self._all)
        return least

    def top(self, values: Float[Tensor, " n"], count: int) -> Float[Tensor, " count"]:
        """The largest values of all features, falling."""
        mine = super().top(values, count)
        return mine if self.shards == 1 else super().top(gathered(mine, self._features), count)

    def largest(self, values: Float[Tensor, "row n"], indices: Int[Tensor, "row n"], k: int) -> Flat:
        """Of a rank's codes those that are among the k largest of all features, row by row; flat, since rows have unlike numbers."""
        if self.shards == 1:
            return values, indices, None
        indices, order = indices.sort(dim=1)
        values = values.gather(1, order)
        chosen = chosen_of_rows(values.abs(), k, self._features)
        return *_kept(values, indices, chosen), _ends(chosen.sum(1))

    def batch_largest(self, values: Float[Tensor, " n"], indices: Int[Tensor, " n"], starts: Int[Tensor, " row_starts"], k: int) -> Flat:
        """Of a rank's codes those that are among the largest of all features and rows."""
        chosen = chosen_of_all(values, k * (len(starts) - 1) * self.rows, self._all)
        return *_kept(values, indices, chosen), _ends(chosen.long())[starts]

    def reduce(self, dictionary: nn.Module) -> None:
        """Averages the gradients over the ranks with other rows, and of weights that are not divided over those with other features."""
        if self.rows > 1:
            self._exchange.reduce(list(dictionary.parameters()))
        if self.shards > 1:
            average([weight.grad for weight in _not_divided(dictionary) if weight.grad is not None], self._features)

    def tell_rows(self, x: Float[Tensor, "row width"]) -> None:
        """Tells the ranks with other rows those that a gradient to come sums."""
        self._exchange.tell_rows(x)

    def tell_entries(self, segments: Segments, rows: int) -> None:
        """Tells them its entries."""
        self._exchange.tell_entries(segments, rows)

    def own(self, features: int) -> slice:
        """An equal part of the features for each of the ranks with other rows; all, where there is none."""
        if features % self.rows:
            return super().own(features)
        size = features // self.rows
        return slice(self._row * size, (self._row + 1) * size)

    def share(self, tensor: Float[Tensor, "d_sae width"]) -> None:
        """Gathers the rows that each of the ranks with other rows has for its own."""
        gather_in_place(tensor, self.own(len(tensor)), self._rows)

    def norm(self, parts: Float[Tensor, " part"], own: Float[Tensor, " own"] | None = None) -> Float[Tensor, ""]:
        """The root of the sum of their squares, over all features."""
        if own is None and self.shards == 1:
            return super().norm(parts)
        squares = parts.square().sum()
        if own is not None:
            others = own.square().sum()
            dist.all_reduce(others, group=self._rows)
            squares = squares + others
        return self.total(squares).sqrt()

    def elsewhere(self, dictionary: nn.Module) -> list[nn.Parameter]:
        """What is not divided counts on the rank with the first features."""
        return _not_divided(dictionary) if self._shard else []

    def agree(self, idle: Int[Tensor, " held"], sums: Mapping[str, Tensor]) -> None:
        """The shortest time that a feature was idle on any rank's rows, and the means of the sums over all ranks."""
        dist.all_reduce(idle, dist.ReduceOp.MIN, group=self._rows)
        if sums:
            totals = [sums[name] for name in sorted(sums)]  # no rank need have met them in the same order
            packed = torch.stack(totals)
            dist.all_reduce(packed, group=self._all)
            for total, mean in zip(totals, (packed / self.size).unbind(), strict=True):
                total.copy_(mean)

    def decide(self, due: bool) -> bool:
        """What the rank that leads thinks; it is asked after one step in so many, since to ask is to wait."""
        self._steps += 1
        if self._steps % _DECIDE_EVERY:
            return False
        word = torch.tensor(due)
        dist.broadcast(word, 0, group=self._all)
        return bool(word)

    def led(self, work: Callable[[], T]) -> T | None:
        """What the rank that leads finds, while the others wait however long it takes."""
        return self._job.led(work)

    def save(self, folder: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Writes a checkpoint: the rank that leads alone where all have the same, else each what it holds."""
        if self.shards == 1:
            self.led(lambda: Ranks.save(self, folder, state, facts, config))
            return
        write_shards(folder / SHARDS_FOLDER / str(facts["steps_done"]), state, self._mesh)
        self.led(lambda: point_to(folder, facts["steps_done"], facts, config))

    def load(self, folder: Path, config: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint, as far as this rank holds it."""
        if self.shards == 1:
            return super().load(folder, config, device)
        if (folder / POINTER_FILE).is_file():
            return load_shards(folder, config, device, self._mesh)
        file = folder / CHECKPOINT_FILE
        return load_part(file, config, device, self._mesh) if file.is_file() else None

    def whole(self, dictionary: Any, folder: Path) -> Any:  # noqa: ANN401 - as in Ranks
        """The dictionary with all its features, in the memory of the rank that leads, from a checkpoint of this step."""
        if self.shards == 1 or not self.leads:
            return dictionary
        whole = type(dictionary)(dictionary.d_in, dictionary.config)
        whole.load_state_dict(load_weights(folder, "weights."))
        whole.provenance = dictionary.provenance
        return whole


def _not_divided(dictionary: nn.Module) -> list[nn.Parameter]:
    return [weight for name, weight in dictionary.named_parameters() if not is_divided(name, weight)]


def _kept(values: Float[Tensor, "*n"], indices: Int[Tensor, "*n"], chosen: Bool[Tensor, "*n"]) -> tuple[Tensor, Tensor]:
    """The chosen ones, flat: how many they are is waited for once."""
    places = chosen.flatten().nonzero()[:, 0]
    return values.flatten()[places], indices.flatten()[places]


def _ends(counts: Int[Tensor, " n"]) -> Int[Tensor, " ends"]:
    """The sums of the first counts, from none of them to all."""
    return functional.pad(counts.cumsum(0), (1, 0))
