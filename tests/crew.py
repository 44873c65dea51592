"""Processes on this machine that are a job together, as torchrun would start them; they serve many tests, for each takes long to start."""

import os
import socket
import traceback
from contextlib import closing

import torch
import torch.multiprocessing as mp

from saelab.distributed.job import joined


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Crew:
    """So many processes; `run` lets each call a function of a module, and gives what they return, by rank."""

    def __init__(self, size):
        context, port = mp.get_context("forkserver"), free_port()
        context.set_forkserver_preload(["crew", "together"])  # imported once, for all processes of all crews
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(rank, size, port, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, function, *args):
        for pipe in self.pipes:
            pipe.send((function, args))
        answers = [pipe.recv() for pipe in self.pipes]
        for rank, (_, trouble) in enumerate(answers):
            assert trouble is None, f"rank {rank}: {trouble}"
        return [found for found, _ in answers]

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)


def work(rank, size, port, pipe):
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(item) for name, item in place.items()} | {"TRITON_INTERPRET": "1"})  # kernels run on a CPU
    with joined() as job:
        while (task := pipe.recv()) is not None:
            function, args = task
            try:
                pipe.send((function(job, *args), None))
            except Exception:
                pipe.send((None, traceback.format_exc()))
