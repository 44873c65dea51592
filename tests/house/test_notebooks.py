"""Notebooks run from top to bottom on the toy world, and are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from house.sources import ROOT, committed
from nbclient import NotebookClient

NOTEBOOKS = tuple(path for path in committed() if path.suffix == ".ipynb")


def opened(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_a_notebook_is_committed_without_outputs(path: Path):
    notebook = opened(path)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
@pytest.mark.filterwarnings("default")
def test_a_notebook_runs_offline_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'server'}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = opened(path)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    drawn = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("application/vnd.plotly.v1+json" in output.get("data", {}) for output in drawn), "no figure was drawn"


def test_there_is_a_tour():
    assert Path("notebooks/01_tour.ipynb") in NOTEBOOKS
