"""Filter for the errors that nginx finds by itself, in the shapes that the rigs' proxy has.

error | gateway_error_body(dialect)     the JSON body, for single quotes in nginx's configuration
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[3] / "app"))

from heartcode.errors import ApiError


def body(error: Mapping[str, Any], dialect: str) -> str:
    """Return the body of an error with `status`, `code` and `message`, for "openai" or "anthropic".

    nginx puts the request's id where the body names the variable.
    """
    told = ApiError(error["status"], error["message"], code=error["code"])
    shaped = told.anthropic_body("$heartcode_request_id") if dialect == "anthropic" else told.body()
    return json.dumps(shaped).replace("\\", "\\\\").replace("'", "\\'")


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"gateway_error_body": body}
