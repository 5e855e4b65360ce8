"""A backend's failure that is the request's fault, told as such.

llama-server reads some fields without looking at their types. What its libraries throw then it
answers with a 500, which says that the server failed: clients would ask again, and so would the
proxy at another backend.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from http import HTTPStatus

from heartcode.relay.buffered import WholeAnswer

# What its own parser (common/chat.cpp), nlohmann::json and libstdc++ (vector, string, map,
# optional, variant, stoi) say when a value is not of the type or in the range that is expected.
_BLAMES_THE_REQUEST = re.compile(
    r"Failed to parse (?:tools|messages)\b|\[json\.exception\.|vector::_M_|basic_string::"
    r"|map::at|_Map_base::at|sto(?:i|l|ul|ll|ull|f|d|ld)$|bad optional access|std::get: "
)


def blamed(answer: WholeAnswer) -> WholeAnswer:
    """Return `answer`; if it is a 500 that says what was wrong with the request, as a 400."""
    if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and answer.is_json:
        with suppress(ValueError, LookupError, TypeError):
            message = json.loads(answer.body)["error"]["message"]
            if _BLAMES_THE_REQUEST.match(message):
                answer.status = int(HTTPStatus.BAD_REQUEST)
                told = {"code": answer.status, "message": message, "type": "invalid_request_error"}
                answer.body = json.dumps({"error": told}).encode()
    return answer
