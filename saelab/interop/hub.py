"""Dictionaries in repositories of the Hugging Face hub."""

from pathlib import Path

from saelab.errors import NotFound
from saelab.hub import hub


def download(repo: str, path: str, revision: str | None = None) -> Path:
    """The local copy of a folder or file in a repository; what is in the hub's cache already is not fetched again.

    Arguments:
    - `repo`: such as `google/gemma-scope-2b-pt-res`.
    - `path`: where the dictionary lies in it, such as `layer_20/width_16k/average_l0_71`; empty for the whole repository.
    - `revision`: branch, tag or commit; none for the newest.

    Raises `NotFound` naming what to download where the hub cannot be reached or does not have it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = path.strip("/")
    beside = [f"{parent}/config.json".removeprefix("./") for parent in Path(wanted).parents] if wanted else []
    try:
        with hub():
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[wanted, f"{wanted}/*", *beside] if wanted else None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise NotFound(
            f"The hub did not give {wanted or 'the files'} of {repo}: {reason} Where there is no network, download "
            f"https://huggingface.co/{repo}/tree/{revision or 'main'}/{wanted} elsewhere, copy it here, and give the folder."
        ) from None
    if not (folder / wanted).exists():
        raise NotFound(f"The repository {repo} has no {wanted}. Look at https://huggingface.co/{repo}/tree/{revision or 'main'}.")
    return folder / wanted
