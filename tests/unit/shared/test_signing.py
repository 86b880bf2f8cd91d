from __future__ import annotations

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import signing
from shared.errors import UnsealError
from shared.ids import BootId

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
TRUSTED = {signing.key_id(KEY.public_key()): KEY.public_key()}
KIND = "application/vnd.example+json"


def test_pre_authentication_encoding_matches_the_specification() -> None:
    # The example of DSSE v1.0, protocol.md.
    encoded = signing.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(payload=st.binary(max_size=1000))
@settings(max_examples=30)
def test_sealed_payload_comes_back_with_the_key_that_sealed_it(payload: bytes) -> None:
    sealed = signing.seal(KIND, payload, KEY)
    assert signing.unseal(sealed, payload_type=KIND, keys=TRUSTED) == (payload, signing.key_id(KEY.public_key()))


@pytest.mark.parametrize(
    "sealed",
    [b"", b"\xff", b'{"payloadType":"\xff","payload":"","signatures":[]}', b'{"x":' + b"[" * 60_000],
    ids=["empty", "binary", "not utf-8", "nested"],
)
def test_attack_bytes_that_are_no_envelope_are_refused(sealed: bytes) -> None:
    with pytest.raises(UnsealError, match="not a sealed document"):
        signing.unseal(sealed, payload_type=KIND, keys=TRUSTED)


def test_seal_by_an_unknown_key_is_refused() -> None:
    with pytest.raises(UnsealError, match="no signature by a trusted key"):
        signing.unseal(signing.seal(KIND, b"{}", OTHER), payload_type=KIND, keys=TRUSTED)


def test_seal_that_claims_a_trusted_key_id_is_refused() -> None:
    envelope = msgspec.json.decode(signing.seal(KIND, b"{}", OTHER))
    envelope["signatures"][0]["keyid"] = next(iter(TRUSTED))
    with pytest.raises(UnsealError, match="no signature by a trusted key"):
        signing.unseal(msgspec.json.encode(envelope), payload_type=KIND, keys=TRUSTED)


def test_seal_of_another_type_is_refused() -> None:
    with pytest.raises(UnsealError, match="sealed as"):
        signing.unseal(signing.seal("other/type", b"{}", KEY), payload_type=KIND, keys=TRUSTED)


def test_seal_relabelled_to_the_expected_type_is_refused() -> None:
    envelope = msgspec.json.decode(signing.seal("other/type", b"{}", KEY))
    envelope["payloadType"] = KIND
    with pytest.raises(UnsealError, match="no signature by a trusted key"):
        signing.unseal(msgspec.json.encode(envelope), payload_type=KIND, keys=TRUSTED)


@given(index=st.integers(0, 63), bit=st.integers(0, 7))
@settings(max_examples=60)
def test_any_flipped_bit_of_the_payload_is_refused(index: int, bit: int) -> None:
    envelope = msgspec.json.decode(signing.seal(KIND, bytes(64), KEY))
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[index] ^= 1 << bit
    envelope["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(UnsealError):
        signing.unseal(msgspec.json.encode(envelope), payload_type=KIND, keys=TRUSTED)


@given(junk=st.binary(max_size=200))
def test_junk_is_refused_as_unsealed(junk: bytes) -> None:
    with pytest.raises(UnsealError):
        signing.unseal(junk, payload_type=KIND, keys=TRUSTED)


def test_oversized_document_is_refused_before_parsing() -> None:
    with pytest.raises(UnsealError, match="exceeds"):
        signing.unseal(b" " * (signing.MAX_SEALED_BYTES + 1), payload_type=KIND, keys=TRUSTED)


def test_oversized_payload_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        signing.seal(KIND, bytes(signing.MAX_SEALED_BYTES), KEY)


def test_uplink_mac_moves_with_every_part() -> None:
    def mac(key: bytes = b"k", topic: str = "t", boot: str = "1", seq: int = 1, body: bytes = b"{}") -> str:
        return signing.uplink_mac(key, topic=topic, boot_id=BootId(boot), seq=seq, body=body)

    macs = [mac(), mac(key=b"l"), mac(topic="u"), mac(boot="2"), mac(seq=2), mac(body=b"[]"), mac(topic="t1", boot="")]
    assert len(set(macs)) == len(macs)
    assert signing.same_mac(mac(), mac())
    assert not signing.same_mac(mac(), mac(seq=2))


def with_signatures(*signatures: object) -> bytes:
    envelope = msgspec.json.decode(signing.seal(KIND, b"{}", KEY))
    envelope["signatures"] = list(signatures)
    return msgspec.json.encode(envelope)


def signature(key: Ed25519PrivateKey) -> dict[str, str]:
    (made,) = msgspec.json.decode(signing.seal(KIND, b"{}", key))["signatures"]
    return {"keyid": made["keyid"], "sig": made["sig"]}


@pytest.mark.parametrize("order", [1, -1])
def test_seal_of_a_trusted_key_beside_a_strangers_is_believed(order: int) -> None:
    sealed = with_signatures(*[signature(OTHER), signature(KEY)][::order])
    assert signing.unseal(sealed, payload_type=KIND, keys=TRUSTED) == (b"{}", signing.key_id(KEY.public_key()))


def test_seal_of_a_trusted_key_behind_a_broken_one_of_its_name_is_believed() -> None:
    broken = {**signature(KEY), "sig": signature(OTHER)["sig"]}
    assert signing.unseal(with_signatures(broken, signature(KEY)), payload_type=KIND, keys=TRUSTED)[0] == b"{}"


@pytest.mark.parametrize("signatures", [[], [{"keyid": "", "sig": ""}], [{"keyid": "x" * 64, "sig": "AAAA"}]])
def test_seal_without_a_usable_signature_is_refused(signatures: list[object]) -> None:
    with pytest.raises(UnsealError, match="no signature by a trusted key"):
        signing.unseal(with_signatures(*signatures), payload_type=KIND, keys=TRUSTED)


def test_seal_names_the_key_that_verified_when_two_are_trusted() -> None:
    both = {**TRUSTED, signing.key_id(OTHER.public_key()): OTHER.public_key()}
    sealed = with_signatures(signature(OTHER), signature(KEY))
    assert signing.unseal(sealed, payload_type=KIND, keys=both)[1] == signing.key_id(OTHER.public_key())


def test_seal_with_no_key_trusted_is_refused() -> None:
    with pytest.raises(UnsealError, match="no signature"):
        signing.unseal(signing.seal(KIND, b"{}", KEY), payload_type=KIND, keys={})


@pytest.mark.parametrize("text", ["", "ä", "f" * 63, "\N{FULLWIDTH LATIN SMALL LETTER A}" * 64])
def test_mac_that_is_none_is_not_the_same(text: str) -> None:
    assert not signing.same_mac(signing.uplink_mac(b"k", topic="t", boot_id=BootId("1"), seq=1, body=b""), text)
