"""The CA signs for the invited silo's own P-256 key and for nothing else."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.authority import CERTIFICATE_FILE, KEY_FILE, Authority, utc_now
from coordinator.errors import BadDirectory, CertificateRefused, StoreError
from protos.transport import silo_uri
from tests.loopback import request

NOW = utc_now()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("fed", NOW)


def _uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _csr(
    key: object, names: list[x509.GeneralName] | None, common: str = "a", algorithm: object = hashes.SHA256()
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.DER)  # type: ignore[arg-type]


def test_silo_gets_a_client_certificate_for_its_key_and_uri_only(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = x509.load_pem_x509_certificates(authority.issue_silo("a", request("a", "fed", key), NOW))
    leaf, root = chain
    leaf.verify_directly_issued_by(root)
    assert root == authority.certificate
    assert leaf.public_key() == key.public_key()
    assert _uris(leaf) == [silo_uri("fed", "a")]
    assert len(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == 1
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc <= NOW + timedelta(days=397)


def test_server_certificate_names_federation_and_hosts(authority: Authority) -> None:
    _, pem = authority.issue_server(["silo.example", "192.0.2.1"], NOW)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert _uris(certificate) == ["concordat://fed/coordinator"]
    assert names.get_values_for_type(x509.DNSName) == ["coordinator.fed.concordat.internal", "silo.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


P256 = ec.generate_private_key(ec.SECP256R1())
A = x509.UniformResourceIdentifier(silo_uri("fed", "a"))


@pytest.mark.parametrize(
    "der",
    [
        request("b", "fed", P256),
        request("a", "other", P256),
        _csr(P256, [A], common="b"),
        _csr(P256, None),
        _csr(P256, [A, x509.UniformResourceIdentifier(silo_uri("fed", "b"))]),
        _csr(P256, [A, x509.DNSName("coordinator.fed.concordat.internal")]),
        _csr(P256, [x509.UniformResourceIdentifier("concordat://fed/coordinator")]),
    ],
    ids=["silo", "federation", "cn", "no SAN", "two silos", "host name", "coordinator"],
)
def test_request_for_another_identity_is_refused(authority: Authority, der: bytes) -> None:
    with pytest.raises(CertificateRefused, match="certificate request"):
        authority.issue_silo("a", der, NOW)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
        (rsa.generate_private_key(65537, 2048), hashes.SHA256()),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
    ids=["P-384", "secp256k1", "RSA", "Ed25519"],
)
def test_request_with_a_key_other_than_p_256_is_refused(authority: Authority, key: object, algorithm: object) -> None:
    with pytest.raises(CertificateRefused, match="P-256"):
        authority.issue_silo("a", _csr(key, [A], algorithm=algorithm), NOW)


def test_request_for_somebody_elses_key_is_refused(authority: Authority) -> None:
    mine, theirs = request("a", "fed", P256), ec.generate_private_key(ec.SECP256R1())
    old, new = (
        key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (P256, theirs)
    )
    forged = mine.replace(old, new)
    assert forged != mine
    with pytest.raises(CertificateRefused, match="not signed by the key"):
        authority.issue_silo("a", forged, NOW)


@pytest.mark.parametrize("der", [b"", b"nonsense", request("a", "fed", P256)[:-3]])
def test_request_that_cannot_be_read_is_refused(authority: Authority, der: bytes) -> None:
    with pytest.raises(CertificateRefused):
        authority.issue_silo("a", der, NOW)


def test_authority_survives_saving_and_its_key_is_private(authority: Authority, tmp_path: Path) -> None:
    authority.save(tmp_path)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    again = Authority.load(tmp_path, "fed")
    assert again.digest == authority.digest
    chain = x509.load_pem_x509_certificates(again.issue_silo("a", request("a", "fed", P256), NOW))
    chain[0].verify_directly_issued_by(authority.certificate)
    with pytest.raises(StoreError, match="File exists"):
        authority.save(tmp_path)


def test_damaged_or_missing_authority_is_one_clear_error(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(BadDirectory, match="cannot be read"):
        Authority.load(tmp_path, "fed")
    authority.save(tmp_path)
    (tmp_path / CERTIFICATE_FILE).write_bytes(b"nonsense")
    with pytest.raises(BadDirectory, match="damaged"):
        Authority.load(tmp_path, "fed")
