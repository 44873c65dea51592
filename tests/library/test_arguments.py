"""The words of a command line: where they may stand, and what is said of those that nothing knows."""

import re

import pytest

from saelab.analyses.concepts import Concepts
from saelab.analyses.core import Core
from saelab.arguments import flags_of, parsed
from saelab.cli import COMMANDS
from saelab.errors import Invalid, NotFound
from saelab.saes.batchtopk import BatchTopK
from saelab.saes.topk import TopK


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(
    "words",
    [
        "run --sae.k 16 --device cpu",
        "--device cpu run --sae.k=16",
        "run sae:topk --sae.k 16 --device cpu",
        "run --device cpu sae:topk --sae.k 16 texts:toy",
    ],
)
def test_options_of_the_default_architecture_need_no_sub_command_and_options_may_stand_anywhere(command, words):
    found = parsed(COMMANDS, [command, *words.split()])
    assert (found.sae, found.device) == (TopK.Config(k=16), "cpu")


def test_a_chosen_architecture_takes_its_own_options():
    assert parsed(COMMANDS, ["train", "run", "sae:batchtopk", "--sae.k", "4", "--stream"]).sae == BatchTopK.Config(k=4)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("train run --sae.kk 16", NotFound, "Unknown option '--sae.kk'. Did you mean --sae.k"),
        ("sweep run --sae.kk=16", NotFound, "Unknown option '--sae.kk'. Did you mean --sae.k"),
        ("train run --hok 16", NotFound, "Unknown option '--hok'. Did you mean --hook"),
        ("train run --sae.target-l0 16", Invalid, "--sae.target-l0 is an option of sae:gated, sae:jumprelu, sae:standard. Name one"),
        ("train run --sae.target_l0 16", Invalid, "--sae.target_l0 is an option of sae:gated"),
        ("train run --texts.num-documents 3", Invalid, "--texts.num-documents is an option of texts:toy. Name that before it"),
        ("train run sae:topp", NotFound, "Unknown sub-command 'sae:topp'. Did you mean sae:topk"),
        ("train run sea:topk", NotFound, "Unknown sub-command 'sea:topk'. Did you mean sae:topk"),
        ("trian run", NotFound, "Unknown command 'trian'. Did you mean train"),
        ("analyse run concept", NotFound, "Unknown sub-command 'concept'. Did you mean concepts"),
        ("analyse run --tasks 3", Invalid, "--tasks is an option of probing. Name that before it"),
        ("evaluate run again", Invalid, "Nothing takes the word 'again'"),
    ],
)
def test_a_word_that_nothing_knows_is_answered_in_one_short_paragraph(words, error, said):
    with pytest.raises(error, match=re.escape(said)) as refused:
        parsed(COMMANDS, words.split())
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "words",
    ["read", "train", "train x sae:jumprelu", "collect", "steer", "import", "label", "score", "controls", "analyse", "analyse x probing"],
)
def test_every_option_in_the_help_is_known(words, capsys):
    with pytest.raises(SystemExit):
        parsed(COMMANDS, [*words.split(), "--help"])
    command = words.split()[0]
    shown = {flag for flag in re.findall(r"--[a-z][a-z0-9.-]*", capsys.readouterr().out) if ".no-" not in flag and flag[:5] != "--no-"}
    assert shown - {"--help"} <= flags_of(COMMANDS[command]).keys()


def test_an_analysis_is_chosen_by_its_name_and_takes_bare_options():
    assert parsed(COMMANDS, ["analyse", "run", "--windows", "3"]).question == Core(windows=3)
    assert parsed(COMMANDS, ["analyse", "run", "concepts", "--rows", "3"]).question == Concepts(rows=3)
