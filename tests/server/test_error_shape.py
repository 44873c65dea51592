"""Every route answers every mistake with a problem document."""

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

