"""A federation's edge on loopback sockets: real TLS and gRPC, a fake service behind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.authority import Authority, key_pem, utc_now
from coordinator.errors import BadBlob, NoSuchBlob, NotEnrolled, RejectedMessage
from coordinator.invitation import Registrar, invite
from coordinator.server import Server
from coordinator.store import Store
from protos.codec import unpack
from protos.invitation import Invitation
from protos.messages import Signed
from protos.transport import silo_uri
from silo.client import Credentials, GrpcLink, Patience

HASTY = Patience(attempts=3, pause_s=0.01, longest_s=0.05, call_s=5.0, submit_s=5.0, transfer_s=10.0)


class FakeService:
    """Remembers what it was told; refuses what the real one refuses at the edge."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.members = {"a", "b"}
        self.messages: list[tuple[str, bytes]] = []
        self.blobs: dict[str, bytes] = {}
        self.wanted: tuple[str, ...] = ()
        self.enrolled: list[tuple[str, str, str]] = []
        self.faults: list[Exception] = []
        self.calls = 0
        self.grown = threading.Condition()

    def grow(self, record: bytes) -> None:
        with self.grown:
            self.records.append(record)
            self.grown.notify_all()

    def tail(self, peer: str, size: int) -> tuple[list[bytes], bytes]:
        self._enter(peer)
        return self.records[size:], b"head of %d" % len(self.records)

    def wait(self, size: int, seconds: float) -> None:
        with self.grown:
            self.grown.wait_for(lambda: len(self.records) > size, seconds)

    def submit(self, peer: str, message: bytes) -> tuple[str, ...]:
        self._enter(peer)
        signer = unpack(Signed, message).signer
        if signer != peer:
            raise RejectedMessage(f"{peer} cannot speak for {signer}")
        self.messages.append((peer, message))
        return self.wanted

    def upload(self, peer: str, digest: str, chunks: Iterator[bytes]) -> None:
        self._enter(peer)
        data = b"".join(chunks)
        if hashlib.sha256(data).hexdigest() != digest:
            raise BadBlob("the uploaded bytes are others")
        self.blobs[digest] = data

    def download(self, peer: str, digest: str) -> Iterator[bytes]:
        self._enter(peer)
        if digest not in self.blobs:
            raise NoSuchBlob(f"no blob {digest[:16]}")
        data = self.blobs[digest]
        return iter([data[start : start + 65536] for start in range(0, len(data), 65536)])

    def enrol(self, name: str, signing_key: str, exchange_key: str) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.enrolled.append((name, signing_key, exchange_key))

    def tick(self) -> None:
        self.calls += 1

    def _enter(self, peer: str) -> None:
        self.calls += 1
        if peer not in self.members:
            raise NotEnrolled(f"{peer} is not enrolled")
        if self.faults:
            raise self.faults.pop(0)


@dataclass
class Edge:
    """A running server and everything that made it."""

    service: FakeService
    authority: Authority
    server: Server
    store: Store
    clock_ms: int = 1_000
    log_key: str = "ab" * 32
    links: list[GrpcLink] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def enrol_address(self) -> str:
        return f"127.0.0.1:{self.server.enrol_port}"

    def link(self, credentials: Credentials, patience: Patience = HASTY) -> GrpcLink:
        link = GrpcLink(self.address, "fed", credentials, patience)
        self.links.append(link)
        return link

    def silo(self, name: str, patience: Patience = HASTY) -> GrpcLink:
        return self.link(credentials(self.authority, uris=[silo_uri("fed", name)]), patience)

    def invitation(self, name: str = "a", *, valid_s: float = 3600) -> Invitation:
        expires_ms = int((utc_now() + timedelta(seconds=valid_s)).timestamp() * 1000)
        return invite(
            self.store, self.authority, name, address=self.enrol_address, log_key=self.log_key, expires_ms=expires_ms
        )


@contextmanager
def edge() -> Iterator[Edge]:
    """A fake service of the federation `fed` behind both ports."""
    service, authority, store = FakeService(), Authority.create("fed", utc_now()), Store("sqlite://")
    registrar = Registrar(
        store,
        authority,
        service,
        log_key="ab" * 32,
        round_address=lambda: "round.example:1",
        clock=lambda: int(utc_now().timestamp() * 1000),
    )
    server = Server(service, authority, registrar.enrol, host="127.0.0.1", port=0, enrol_port=0)
    made = Edge(service, authority, server, store)
    server.start()
    try:
        yield made
    finally:
        for link in made.links:
            link.close()
        server.stop(0)
        store.close()


def credentials(
    authority: Authority,
    *,
    uris: list[str],
    common: str = "x",
    begins: datetime | None = None,
    ends: datetime | None = None,
    signer: Authority | None = None,
) -> Credentials:
    """A client's credentials with any identity, as if `signer` (else the authority) had issued them."""
    issuer = signer or authority
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or utc_now() - timedelta(minutes=1))
        .not_valid_after(ends or utc_now() + timedelta(hours=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(issuer._key, hashes.SHA256())
    chain = certificate.public_bytes(serialization.Encoding.PEM) + issuer.certificate_pem
    return Credentials(authority.certificate_pem, chain, key_pem(key))


def request(name: str, federation: str, key: ec.EllipticCurvePrivateKey, uri: str | None = None) -> bytes:
    """A certificate request in DER."""
    identity = x509.UniformResourceIdentifier(uri or silo_uri(federation, name))
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


def written(path: Path, data: bytes) -> Path:
    """`path`, holding `data`."""
    path.write_bytes(data)
    return path
