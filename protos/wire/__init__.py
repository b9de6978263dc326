"""Code generated from `protos/concordat` by `python -m tools.wire`, and grpc itself. For adapters only.

Take grpc from here: it reads its list of TLS 1.2 ciphers once, when it is imported. All certificates of a federation
are ECDSA and this list has RSA only, so that no TLS 1.2 handshake can succeed; TLS 1.3 ciphers are not affected.

protoc's plugin writes a base class for each service, whose calls raise NotImplementedError where nobody overrides them.
`coordinator.servicers` overrides every one; a test holds it to that (`tests/coordinator/test_servicers.py`).
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
# Certificate and handshake faults are reported by our errors, not by lines of grpc's own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc as grpc
