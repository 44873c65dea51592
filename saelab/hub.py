"""The Hugging Face hub: whether it answers is found out once and quickly, where its own libraries would try for half a minute."""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPException
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from huggingface_hub import constants

_PATIENCE = 2.0
"""Seconds to wait for an answer."""


@contextmanager
def hub() -> Generator[None]:
    """While open, the hub's libraries ask the hub if it answers, and otherwise look at once at what they have on this disk.

    `HF_HUB_OFFLINE`, `HF_ENDPOINT` and the proxies of the environment hold as ever.
    """
    told = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = told or not answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = told


def answers(endpoint: str, patience: float = _PATIENCE) -> bool:
    """Whether anything answers at a URL within some seconds. An error of the server's, or a certificate of its own, is an answer too."""
    found: list[bool] = []
    asking = Thread(target=lambda: found.append(_asked(endpoint, patience)), daemon=True)  # looking up a name knows no limit
    asking.start()
    asking.join(patience)
    return found == [True]


def _asked(endpoint: str, patience: float) -> bool:
    try:
        build_opener().open(Request(endpoint, method="HEAD"), timeout=patience).close()
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):
        return False
    return True
