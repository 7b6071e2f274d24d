"""Uploaded key material that is refused."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from workers.errors.kinds import Permanent


class UploadFault(StrEnum):
    """What is wrong with uploaded key material."""

    UNKNOWN_ALGORITHM = "unknown_algorithm"
    WRONG_WRAPPING = "wrong_wrapping"  # wrapped for another public key, by another algorithm, or damaged
    WRONG_LENGTH = "wrong_length"
    ALL_BYTES_EQUAL = "all_bytes_equal"


_UPLOAD_REMEDIES: dict[UploadFault, str] = {
    UploadFault.UNKNOWN_ALGORITHM: "Name one of the algorithms that came with the public key.",
    UploadFault.WRONG_WRAPPING: "Wrap the raw key for the public key of these parameters, by the algorithm named.",
    UploadFault.WRONG_LENGTH: "Upload a key of 256 bits, as raw bytes: no text, no line end.",
    UploadFault.ALL_BYTES_EQUAL: "Make the key with a cryptographic random generator.",
}


class UploadRefused(Permanent):
    """Uploaded key material was refused; nothing of it is kept."""

    def __init__(self, *, params: UUID, fault: UploadFault, why: str) -> None:
        super().__init__("The uploaded key was refused.", why, _UPLOAD_REMEDIES[fault])
        self.params, self.fault = params, fault
        self.code = f"upload_{fault.value}"


class UploadParamsSpent(Permanent):
    """Upload parameters that take no key any more; their private key is destroyed."""

    code = "upload_params_spent"

    def __init__(self, *, params: UUID, why: str) -> None:
        super().__init__(f"Upload parameters {params} take no key.", why, "Ask for new ones and wrap the key again.")
        self.params = params
