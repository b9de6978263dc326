from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("name", "secret", "certificate_request", "signing_key", "exchange_key")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_KEY_FIELD_NUMBER: _ClassVar[int]
    name: str
    secret: bytes
    certificate_request: bytes
    signing_key: str
    exchange_key: str
    def __init__(self, name: _Optional[str] = ..., secret: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ..., signing_key: _Optional[str] = ..., exchange_key: _Optional[str] = ...) -> None: ...

class EnrolReply(_message.Message):
    __slots__ = ("certificate_chain", "federation", "log_key", "round_address")
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    LOG_KEY_FIELD_NUMBER: _ClassVar[int]
    ROUND_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    certificate_chain: bytes
    federation: str
    log_key: str
    round_address: str
    def __init__(self, certificate_chain: _Optional[bytes] = ..., federation: _Optional[str] = ..., log_key: _Optional[str] = ..., round_address: _Optional[str] = ...) -> None: ...
