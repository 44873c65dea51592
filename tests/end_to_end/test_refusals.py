"""What the command `saelab` refuses: in one paragraph, without a trace on disk."""

import re
import shutil
import socket
from pathlib import Path

import pytest
from folders import SOURCE, copied, full_disk, names

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def place(toy_run, tmp_path_factory) -> Path:
    """A folder with runs in all states of repair, and files that cannot be read as text. Refused commands leave it as it is."""
    place = tmp_path_factory.mktemp("place")
    runs = {name: copied(toy_run, place / name) for name in ("good", "torn", "broken", "untrained", "half")}
    weights = runs["torn"].source(SOURCE).path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for stage in ("evaluate", "collect"):
        (runs["torn"].source(SOURCE).path / f"{stage}.json").unlink()
    for folder in (runs["broken"], runs["broken"].source(SOURCE)):
        for manifest in folder.path.glob("*.json"):
            manifest.write_text('{"format": 1, "stage"')
    shutil.rmtree(runs["untrained"].path / "dictionaries")
    shard = runs["half"].activations(HOOK) / "00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    (place / "latin.txt").write_bytes("Un café\n".encode("latin-1"))
    (place / "torn.parquet").write_bytes(b"PAR1 and no more")
    (place / "torn.jsonl").write_text('{"text": "the ship"}\n{"text": ')
    (place / "a file").touch()
    (place / "no model").mkdir()
    return place


def assert_refused(ended, said: str, code: int = 1) -> None:
    """It ended in failure with one paragraph."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    paragraph = "\n".join(line for line in ended.err.splitlines() if " done in " not in line).strip()
    assert re.search(said, paragraph, flags=re.DOTALL), paragraph
    assert "\n\n" not in paragraph
    if code == 1:
        assert paragraph.startswith("saelab: ")
        assert paragraph.count("saelab: ") == 1


REFUSED = {
    "unknown run": ("capture PLACE/godd --hooks x", "Unknown run .*Did you mean .*good"),
    "unknown run, evaluate": ("evaluate PLACE/godd", "Did you mean .*good"),
    "unknown run, collect": ("collect PLACE/godd", "Did you mean .*good"),
    "unknown run, label": ("label PLACE/godd", "Did you mean .*good"),
    "unknown run, score": ("score PLACE/godd", "Did you mean .*good"),
    "unknown run, steer": ("steer PLACE/godd --prompt a --feature 1", "Did you mean .*good"),
    "a file for a run": ("evaluate PLACE/latin.txt", "Unknown run"),
    "unknown hook": ("capture PLACE/good --hooks blocks.1.hook_resid_pots", f"Unknown hook of toy .*Did you mean {HOOK}"),
    "unknown hook, train": ("train PLACE/good --hook blocks.7.hook_resid_post", f"Unknown hook of toy .*Did you mean .*{HOOK}"),
    "no hook": ("capture PLACE/good --hooks", "hooks must name one place"),
    "unknown dictionary": ("evaluate PLACE/good --source 1-res-topp", f"Unknown dictionary .*Did you mean {SOURCE}"),
    "no dictionary": ("evaluate PLACE/untrained", "no dictionary.*Run: saelab train PLACE/untrained"),
    "no dictionary, steer": ("steer PLACE/untrained --prompt a --feature 1", "no dictionary.*Run: saelab train"),
    "a name that is a path": ("train PLACE/good --source ../../elsewhere", "cannot be a dictionary's name"),
    "unreadable text": ("read PLACE/new --model toy texts:files --texts.paths PLACE/latin.txt", r"latin\.txt is not UTF-8 .*offset 6"),
    "torn parquet": ("read PLACE/new --model toy texts:files --texts.paths PLACE/torn.parquet", r"torn\.parquet is not a parquet file"),
    "torn jsonl": ("read PLACE/new --model toy texts:files --texts.paths PLACE/torn.jsonl", r"torn\.jsonl, line 2, column"),
    "missing text": ("train PLACE/new --model toy texts:files --texts.paths PLACE/none.txt", "no file or folder .*none"),
    "no text": ("read PLACE/new --model toy texts:files --texts.paths", "No files were given"),
    "empty text": ("read PLACE/new --model toy texts:files --texts.paths PLACE/good/corpus", "no column 'text'"),
    "unknown column": (
        "read PLACE/new --model toy texts:files --texts.paths PLACE/torn.jsonl --texts.text-field body",
        "no column 'body'. Columns there: text",
    ),
    "unknown model": ("read PLACE/new --model nothing-such texts:toy", "neither .*bundled model .*smollm2-135m-instruct, toy"),
    "no model": ("read PLACE/new --model PLACE/no-model texts:toy", r"without config\.json"),
    "unknown device": ("read PLACE/new --model toy --device gpu texts:toy", "device 'gpu' cannot be used"),
    "short context": ("read PLACE/new --model toy --context 3 texts:toy", "context of 3 tokens is too short"),
    "few tokens": ("read PLACE/new --model toy --max-tokens 3 texts:toy", "max_tokens is 3"),
    "no documents": ("read PLACE/new --model toy texts:toy --texts.num-documents 0", "num_documents is 0"),
    "another corpus": ("read PLACE/good --model toy --context 32 texts:toy --texts.seed 5", "texts.seed: 0, now 5"),
    "another model": ("train PLACE/good --model smollm2-135m-instruct", "already been read, with the model 'toy'"),
    "torn weights": ("evaluate PLACE/torn", r"torn/.*sae_weights\.safetensors: truncated"),
    "torn weights, collect": ("collect PLACE/torn", r"sae_weights\.safetensors: truncated"),
    "torn weights, steer": ("steer PLACE/torn --prompt a --feature 1", "sae_weights.safetensors: truncated|collect"),
    "torn activations": ("train PLACE/half --source new", r"00002\.safetensors is torn.*saelab capture"),
    "broken manifest, capture": ("capture PLACE/broken --hooks x", r"read\.json: not a valid Manifest.*Delete it"),
    "broken manifest, read": ("read PLACE/broken --model toy texts:toy", r"read\.json: not a valid Manifest.*Delete it"),
    "broken manifest, train": ("train PLACE/broken", r"read\.json: not a valid Manifest"),
    "broken manifest, evaluate": ("evaluate PLACE/broken", r"evaluate\.json: not a valid Manifest"),
    "broken manifest, collect": ("collect PLACE/broken", r"collect\.json: not a valid Manifest"),
    "broken manifest, label": ("label PLACE/broken", r"label\.json: not a valid Manifest"),
    "broken manifest, score": ("score PLACE/broken", r"label\.json: not a valid Manifest"),
    "broken manifest, steer": ("steer PLACE/broken --prompt a --feature 1", r"\.json: not a valid Manifest"),
    "broken manifest, make": ("make toy --run PLACE/broken", r"read\.json: not a valid Manifest"),
    "changed measurement": ("evaluate PLACE/good --windows 7", "windows: 96, now 7"),
    "changed collection": ("collect PLACE/good --top 7", "top: 24, now 7"),
    "changed labeller": ("label PLACE/good --labeller.price 7", r"price: 0\.02, now 7\.0"),
    "changed scorer": ("score PLACE/good --scorer.nulls 7", "nulls: 12, now 7"),
    "changed capture": (f"capture PLACE/good --hooks {HOOK} --dtype float32", "dtype: 'bfloat16', now 'float32'"),
    "unknown target hook": (
        f"train PLACE/good --hook {HOOK} --target-hook blocks.1.hook_mlp_uot sae:transcoder",
        r"Unknown hook of toy .*Did you mean .*blocks\.1\.hook_mlp_out",
    ),
    "no target hook": (f"train PLACE/good --hook {HOOK} sae:transcoder", "transcoder writes at another hook: give target_hook"),
    "one hook for a crosscoder": (f"train PLACE/good --hook {HOOK} sae:crosscoder", "crosscoder reads several hooks"),
    "no concept for scar": (f"train PLACE/good --hook {HOOK} sae:scar", "scar is taught a concept: name the domains that carry it"),
    "a concept for topk": (f"train PLACE/good --hook {HOOK} --concept law", "topk is taught no concept"),
    "unknown concept": (f"train PLACE/good --hook {HOOK} --concept laws sae:scar", "Unknown domain 'laws'. Did you mean law"),
    "no frozen dictionary": (f"train PLACE/good --hook {HOOK} sae:residual --sae.base PLACE/none", "No dictionary in .*none"),
    "two hooks for one": (f"train PLACE/good --hook {HOOK} --beside blocks.0.hook_resid_post", "topk reads one hook: .*or pool"),
    "no features at all": ("train PLACE/good --source new sae:topk --sae.d-sae 0", "k is 32; .*number of features, 0"),
    "too many at once": ("train PLACE/good --source new sae:topk --sae.k 99999", "k is 99999"),
    "no steps": ("train PLACE/good --source new --train.steps 0", "steps is 0"),
    "no batch": ("train PLACE/good --source new --epochs 1 --train.batch-size 0", "batches of 0 rows"),
    "no epoch": ("train PLACE/good --source new --epochs 0", "0.0 epochs"),
    "betas out of range": ("train PLACE/good --source new --train.betas 2 3", r"betas are \(2\.0, 3\.0\)"),
    "feature out of range": ("steer PLACE/good --prompt the --feature 9999", "no feature 9999 .*0 to 255"),
    "negative feature": ("steer PLACE/good --prompt the --feature -1", "no feature -1"),
    "long prompt": (f"steer PLACE/good --prompt {'-'.join(['the'] * 70)} --feature 1", "prompt has .* tokens; .*64 that toy can read"),
    "empty prompt": ("steer PLACE/good --prompt= --feature 1", "prompt is empty"),
    "no feature": ("steer PLACE/good --prompt the --feature", "no intervention"),
    "strengths that do not match": ("steer PLACE/good --prompt the --feature 1 2 --strength 1 2 3", "2 features and 3 strengths"),
    "no strength": ("steer PLACE/good --prompt the --feature 1 --unit raw --strength nan", "not a finite number"),
    "no tokens": ("steer PLACE/good --prompt the --feature 1 --max-tokens 0", "max_tokens is 0"),
    "below absolute zero": ("steer PLACE/good --prompt the --feature 1 --temperature -1", "temperature is -1"),
    "no dictionary to import": ("import PLACE/none PLACE/good --source new", "There is no .*none.*--repo"),
    "no postings": ("firings PLACE/good --feature 1", "no postings.*--postings"),
    "firings of nothing": ("firings PLACE/good", "--feature and --document"),
    "nothing known to import": ("import PLACE/good PLACE/good --source new", "in no known format.*Expected one of"),
    "import, unknown run": ("import PLACE/none PLACE/godd --source new", "Did you mean .*good"),
    "a hub that is not there": ("import layer_3 PLACE/good --source new --repo a/b", "hub did not give layer_3 of a/b.*copy it here"),
    "export into a run": ("export PLACE/good PLACE/torn", "holds something already"),
    "export, torn weights": ("export PLACE/torn PLACE/new", r"sae_weights\.safetensors: truncated"),
    "unknown recipe": ("make toyy", "Unknown recipe 'toyy'. Did you mean toy"),
    "folder not writable": ("make toy --run PLACE/latin.txt/run", "Cannot write .*Not a directory"),
    "folder not writable, read": ("read PLACE/latin.txt/run --model toy texts:toy", "Cannot write .*Not a directory"),
    "folder not writable, train": ("train PLACE/latin.txt/run --model toy texts:toy", "Cannot write .*Not a directory"),
    "no folder to serve": ("serve PLACE/none", "no folder .*saelab make demo"),
    "a run to serve": ("serve PLACE/good", "is a run itself.*saelab serve PLACE"),
    "no port": ("serve PLACE --port 99999", "99999 is not a port"),
}
"""What is wrong -> the command, and what is said."""

MISSPELT = {
    "read": ("read PLACE/new --contxt 32", "--contxt.*--context"),
    "capture": (f"capture PLACE/good --hooks {HOOK} --dtpye float32", "--dtpye.*--dtype"),
    "train": ("train PLACE/good --train.stesp 3", "--train.stesp.*--train.steps"),
    "evaluate": ("evaluate PLACE/good --windos 3", "--windos.*--windows"),
    "collect": ("collect PLACE/good --tpo 3", "--tpo"),
    "firings": ("firings PLACE/good --feature 1 --limti 3", "--limti.*--limit"),
    "vectors": ("vectors PLACE/good PLACE/new.safetensors --poling max", "--poling.*--pooling"),
    "label": ("label PLACE/good --labeller.prise 3", "--labeller.prise.*--labeller.price"),
    "score": ("score PLACE/good --scorer.null 3", "--scorer.null.*--scorer.nulls"),
    "steer": ("steer PLACE/good --prompt a --feature 1 --strenght 3", "--strenght.*--strength"),
    "import": ("import PLACE/good PLACE/good --source new --hok x", "--hok.*--hook"),
    "export": ("export PLACE/good PLACE/new --fromat saelens", "--fromat.*--format"),
    "a format that is only read": ("export PLACE/good PLACE/new --format gemma_scope", "gemma_scope.*saelens.*sparsify"),
    "make": ("make toy --runn PLACE/new", "--runn.*--run"),
    "serve": ("serve PLACE --prot 3", "--prot.*--port"),
    "unknown command": ("trian PLACE/good", "trian.*train"),
    "unknown architecture": ("train PLACE/good sae:topp", "sae:topp.*sae:topk"),
    "unknown text source": ("read PLACE/new texts:flies", "texts:flies.*texts:files"),
    "words for a number": ("train PLACE/good --train.steps many", "many"),
    "a value that is none of the choices": (f"capture PLACE/good --hooks {HOOK} --dtype int3", "bfloat16.*float32"),
    "no arguments": ("steer PLACE/good", "--prompt.*--feature"),
    "no command": ("", "read, capture, train"),
}
"""Which word is wrong -> the command, and what is said."""


def words_of(line: str, place: Path) -> list[str]:
    """The arguments of a command line written for a place."""
    spaced = {"PLACE": str(place), "no-model": "no model"}
    words = [word.replace("the-", "the ") if word.startswith("the-") else word for word in line.split()]
    return [re.sub("|".join(spaced), lambda found: spaced[found[0]], word) for word in words]


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_paragraph_and_leaves_no_file(saelab, place, wrong):
    line, said = REFUSED[wrong]
    before = names(place)
    ended = saelab(*words_of(line, place))
    assert_refused(ended, said.replace("PLACE", str(place)))
    assert names(place) == before


@pytest.mark.parametrize("wrong", MISSPELT)
def test_a_misspelt_word_is_refused_with_what_is_known(saelab, place, wrong):
    line, said = MISSPELT[wrong]
    before = names(place)
    ended = saelab(*words_of(line, place))
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert re.search(said, ended.err, flags=re.DOTALL), ended.err
    assert names(place) == before


def test_a_port_in_use_is_refused(saelab, place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert_refused(saelab("serve", place, "--port", taken.getsockname()[1]), "in use.*--port")


def test_a_full_disk_is_told_in_one_paragraph(saelab, tmp_path):
    with full_disk():
        ended = saelab("make", "toy", "--run", tmp_path / "run")
    assert_refused(ended, "Cannot write .*File too large. Free space")
    assert names(tmp_path) <= {"run", "run/corpus"}


def test_a_process_that_is_refused_fails_with_one_paragraph(process, place):
    before = names(place)
    assert_refused(process("evaluate", place / "godd", module="saelab_server.cli"), "Unknown run .*Did you mean .*good")
    assert names(place) == before
