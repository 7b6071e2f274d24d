"""Names of main keys: what is one, what is not, and what the error says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import MalformedMainKeyUri
from schemas.keys import MAX_URI_LENGTH, AwsKeyArn, KeyKind, MainKeyUri, TopState, VersionState

KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{KEY}"

GOOD = [
    "managed:",
    f"aws-kms:{ARN}",
    f"aws-kms:arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/{KEY}",
    f"aws-kms:arn:aws-cn:kms:cn-northwest-1:111122223333:key/{KEY}",
    "aws-kms:arn:aws:kms:ap-southeast-2:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab",
    f"uploaded:{KEY}",
    "openbao:transit/customer-7",
    "openbao:team/transit/customer.7",
    "memory:a",
]

BAD = {
    "": "managed: or aws-kms:",
    "managed": "managed: or aws-kms:",
    "Managed:": "managed: or aws-kms:",
    "managed:x": "managed:",
    " managed:": "managed: or aws-kms:",
    "managed:\n": "managed:",
    "gcp-kms:projects/x": "or openbao:",
    "aws-kms:": "aws-kms:arn:aws:kms:",
    f"aws-kms:{KEY}": "aws-kms:arn:aws:kms:",
    f"aws-kms:arn:aws:kms:eu-west-1:111122223333:alias/{KEY}": "aws-kms:arn:aws:kms:",
    f"aws-kms:arn:aws:s3:eu-west-1:111122223333:key/{KEY}": "aws-kms:arn:aws:kms:",
    f"aws-kms:arn:aws:kms:eu-west-1:11112222333:key/{KEY}": "aws-kms:arn:aws:kms:",
    f"aws-kms:arn:aws:kms::111122223333:key/{KEY}": "aws-kms:arn:aws:kms:",
    f"aws-kms:{ARN.upper()}": "aws-kms:arn:aws:kms:",
    f"aws-kms:{ARN} ": "aws-kms:arn:aws:kms:",
    f"aws-kms:{ARN}\n": "aws-kms:arn:aws:kms:",
    "uploaded:1": "uploaded:<id>",
    "openbao:transit": "openbao:<mount>/<key>",
    "openbao:transit/": "openbao:<mount>/<key>",
    "openbao:transit/a b": "openbao:<mount>/<key>",
    "memory:": "memory:<name>",
    "memory:" + "a" * 65: "memory:<name>",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_main_keys_name_reads_and_writes_the_same(text: str) -> None:
    """What is parsed prints as it was written."""
    assert str(MainKeyUri.parse(text)) == text


@pytest.mark.parametrize(("text", "expected"), BAD.items(), ids=repr)
def test_anything_else_is_refused_with_the_form_expected(text: str, expected: str) -> None:
    """What is no main key's name is refused; the error shows it and says the form that its scheme has."""
    with pytest.raises(MalformedMainKeyUri) as caught:
        MainKeyUri.parse(text)
    assert repr(text) in caught.value.what
    assert expected in caught.value.why
    assert caught.value.code == "malformed_main_key"


@given(
    st.text(max_size=40) | st.sampled_from(GOOD).flatmap(lambda good: st.text(max_size=3).map(lambda end: good + end))
)
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """Whatever is given either round-trips or is refused as malformed: nothing else is raised."""
    try:
        uri = MainKeyUri.parse(text)
    except MalformedMainKeyUri:
        return
    assert str(uri) == text
    assert text.isascii()
    assert text.isprintable()


def test_an_endless_name_is_cut_in_the_message() -> None:
    """A name over 512 characters is refused, and its error is not longer for it."""
    with pytest.raises(MalformedMainKeyUri) as caught:
        MainKeyUri.parse("openbao:" + "/".join(["a" * 60] * 1000))
    assert len(str(caught.value)) < MAX_URI_LENGTH + 500


def test_names_compare_by_value() -> None:
    """Two names of one key are equal, hash alike and sort; those of two are not."""
    left, right = MainKeyUri.parse("memory:a"), MainKeyUri.parse("memory:b")
    assert left == MainKeyUri("memory", "a")
    assert len({left, right, MainKeyUri.parse("memory:a")}) == 2
    assert sorted([right, left]) == [left, right]
    with pytest.raises(AttributeError):
        left.name = "c"  # type: ignore[misc]


def test_an_arn_has_parts() -> None:
    """An AWS key's name tells partition, region, account and key, and prints as the ARN it came from."""
    arn = AwsKeyArn.of(MainKeyUri.parse(f"aws-kms:{ARN}"))
    assert (arn.partition, arn.region, arn.account, arn.key) == ("aws", "eu-west-1", "111122223333", KEY)
    assert str(arn) == ARN


@pytest.mark.parametrize("uri", [MainKeyUri.parse("managed:"), MainKeyUri("aws-kms", "not an arn")])
def test_only_an_aws_key_has_an_arn(uri: MainKeyUri) -> None:
    """The ARN of any other name is refused with the form expected."""
    with pytest.raises(MalformedMainKeyUri, match="aws-kms:arn:aws:kms:"):
        AwsKeyArn.of(uri)


def test_the_words_in_the_database_are_frozen() -> None:
    """These words are stored in rows: a change of one needs a migration."""
    assert [kind.value for kind in KeyKind] == ["wrapping", "data"]
    assert [state.value for state in VersionState] == ["active", "draining", "shredded"]
    assert [state.value for state in TopState] == ["active", "draining", "retired", "withdrawn"]
