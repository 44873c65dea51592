"""Activations of features on a text of the user."""

from fastapi import APIRouter

from saelab.records import ActivationRequest, TokenActivations
from saelab_server.deps import SessionDep

router = APIRouter(tags=["activations"])


@router.post("/models/{model}/sources/{source}/activations")
def compute_activations(session: SessionDep, request: ActivationRequest) -> TokenActivations:
    """Activations of the named features on a text, or of those that are strongest on it."""
    return session.activations(request)
