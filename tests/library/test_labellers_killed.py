"""A labelling that is killed loses at most the feature in work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import planted

from saelab.features.store import FeatureStore
from saelab.labellers.base import LABELLERS, label_features

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys, time
from saelab.features.store import FeatureStore
from saelab.labellers.base import label_features
from saelab.labellers.rules import Rules

made = FeatureStore.put_label
def slowly(self, index, label):
    made(self, index, label)
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
    time.sleep(0.05)
FeatureStore.put_label = slowly
label_features(FeatureStore(sys.argv[1]), Rules())
"""


def test_a_killed_labelling_keeps_every_label_that_was_made(tmp_path):
    whole, cut = planted.store(tmp_path / "whole.db"), tmp_path / "cut.db"
    planted.store(cut).close()
    label_features(whole, LABELLERS["rules"]())
    paths = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    work = subprocess.Popen([sys.executable, "-c", CODE, str(cut)], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE)
    assert work.stdout is not None
    told = [int(work.stdout.readline()) for _ in range(7)]
    time.sleep(0.02)
    work.send_signal(signal.SIGKILL)
    work.wait()
    told += [int(line) for line in work.stdout.read().split()]
    work.stdout.close()
    store = FeatureStore(cut)
    kept = store.labels("rules")
    assert set(told) <= set(kept)
    assert len(kept) <= len(told) + 1
    assert label_features(store, LABELLERS["rules"]()) == planted.D_SAE - len(kept)
    assert store.labels("rules") == whole.labels("rules")
    store.close()
    whole.close()
