"""Authorities, and certificates that they sign: valid now, expired, or valid at a later time."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes
    serial: int

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Put both into a folder, in place of what was there."""
        paths = folder / "certificate.pem", folder / "key.pem"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(content)
        return paths


class Authority:
    """Signs certificates for servers on 127.0.0.1 and for their clients."""

    def __init__(self, name: str = "tests") -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key.public_key(), -2, 365)
        signed = builder.add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        self.certificate = _pem(signed)

    def server(self, first_day: float = -2, last_day: float = 1) -> Pair:
        """A certificate for 127.0.0.1 and localhost; its first and last day are counted from now."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issue("server", ExtendedKeyUsageOID.SERVER_AUTH, names, first_day, last_day)

    def client(self, name: str, expired: bool = False) -> Pair:
        """A certificate for a client; without a common name if the name is one of DNS."""
        common, names = ("", [x509.DNSName(name)]) if "." in name else (name, [])
        return self._issue(common, ExtendedKeyUsageOID.CLIENT_AUTH, names, -2, -1 if expired else 1)

    def _issue(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        names: Sequence[x509.GeneralName],
        first_day: float,
        last_day: float,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
        builder = self._builder(subject, key.public_key(), first_day, last_day)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not name)
        signed = builder.sign(self._key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Pair(_pem(signed), pem, signed.serial_number)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, first_day: float, last_day: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first_day * DAY)
            .not_valid_after(now + last_day * DAY)
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
