"""Other libraries' training steps and loaders, each in a process of its own, to be timed in turn with ours.

A process of its own, because two thread pools in one would disturb each other: PyTorch's threads spin for a while
after each step. The peer is told when to step and does nothing in between.
"""

import importlib.util
import json
import os
import subprocess
import sys

from vitmed.errors import InputError, MachineError

PEERS = {"transformers": ("torch", "transformers")}
LOADERS = {"torch": ("torch",), "monai": ("torch", "monai")}


class Peer:
    """A running peer; a context that ends its process.

    Args:
        name: one of ``known``.
        what: of a training step ``ViTMAEConfig``'s fields, the numbers of our own model; of a loader the ``folder`` of
            scans and the batches a ``turn``.
        batch: images a step or batch.
        threads: what it may use; ours is given the same.
        known: the peers that do this, and the modules each needs.

    Raises:
        InputError: no such peer, or it is not installed.
        MachineError: its process ended.
    """

    def __init__(self, name: str, what: dict, batch: int, threads: int, known: dict = PEERS):
        self.check(name, known)
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vitmed.scale.peers", json.dumps([name, what, batch, threads])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        self._answer()  # built, and one step done

    @staticmethod
    def check(name: str, known: dict = PEERS) -> None:
        """Refuses a peer that is not known or not installed, with InputError."""
        if name not in known:
            raise InputError(f"peer {name!r} is not known; choose one of {', '.join(known)}")
        missing = [module for module in known[name] if importlib.util.find_spec(module) is None]
        if missing:
            raise InputError(
                f"peer {name!r} needs {' and '.join(missing)}, not installed here; install the extra: pip install 'vitmed[bench]'"
            )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self) -> float:
        """Does one step, or takes one turn of batches, and returns how long it took."""
        try:
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says so
        return self._answer()

    def _answer(self) -> float:
        line = self._process.stdout.readline()
        if not line:
            raise MachineError(
                f"the peer {self._name!r} ended with code {self._process.wait()}; its own message is above"
            )
        return float(line)


def _transformers(shape: dict, batch: int, threads: int):
    """One eager step of ViTMAEForPreTraining: forward, backward, AdamW. Gradients are freed, not zeroed, as it is faster."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(**shape)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05)
    image = torch.randn(batch, shape["num_channels"], shape["image_size"], shape["image_size"])

    def step():
        loss = model(image).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _serve(name: str, what: dict, batch: int, threads: int) -> None:
    import time

    from vitmed.scale import loaders

    made_by = {"transformers": _transformers, "torch": loaders.pytorch, "monai": loaders.monai}
    step = made_by[name](what, batch, threads)
    step()
    print(0.0, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    _serve(*json.loads(sys.argv[1]))
