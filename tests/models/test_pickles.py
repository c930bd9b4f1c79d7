"""Pickles are looked through before torch reads them: what would fill the memory or end the process is refused."""
from __future__ import annotations

import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from m3snet.models.pickles import check_pickles

HARM = {
    "bytes": (b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR", "it holds a bytearray"),
    # As keys: the hash of the first overflows the stack, that of the second has 2^100 steps.
    "deep": (b"})" + b"\x85" * 200_000 + b"Ns", "it nests tuples without an end"),
    "doubled": (b"})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(100)) + b"Ns", "it nests tuples without an end"),
    "no such object": (b"h\1", "it is damaged"),
    "marks": (b"(" * 1_000_001, "it has more than 1,000,000 instructions"),
    "endless": (b"N0" * 500_001, "it has more than 1,000,000 instructions"),
    "empty stack": (b"a", "it is damaged"),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_does_harm_is_refused(harm: str, tmp_path: Path) -> None:
    opcodes, reason = HARM[harm]
    content = b"\x80\2" + opcodes + b"."
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    (tmp_path / "old.pth").write_bytes(pickle.dumps(1, 2) * 3 + content)
    for path in tmp_path.iterdir():
        with pytest.raises(pickle.UnpicklingError, match=reason):
            check_pickles(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_trainings_save_is_not(zipped: bool, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameters": OrderedDict(model.named_parameters()),
        "random": (random.getstate(), torch.get_rng_state()),
        "losses": [(step, 0.1) for step in range(20_000)],
    }
    torch.save(state, tmp_path / "state.pth", _use_new_zipfile_serialization=zipped)
    check_pickles(tmp_path / "state.pth")
