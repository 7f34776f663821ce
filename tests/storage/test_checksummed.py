import json

import pytest

from ctrbench.storage.checksummed import digest_of, with_checksum, without_checksum


def test_the_digest_does_not_depend_on_order_or_white_space() -> None:
    content = {"b": [1, 2.5], "a": None}
    again = json.loads(json.dumps(with_checksum({"a": None, "b": [1, 2.5]}), indent=3))
    assert without_checksum(again) == content
    # sha256 of {"a":null,"b":[1,2.5]}, computed by another program.
    assert digest_of(content) == "e57f5d37865437a82e1108bafb4e5213dfe7e9085f5c253341ebbab30cac5faf"


@pytest.mark.parametrize("changed", [{"a": 2}, {"a": 1, "b": 0}, {}, {"a": True}, {"a": "1"}])
def test_other_content_does_not_fit(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not match its sha256"):
        without_checksum({**changed, "sha256": with_checksum({"a": 1})["sha256"]})


def test_content_without_a_digest_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not match"):
        without_checksum({"a": 1})
