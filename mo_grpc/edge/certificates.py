"""The edge's certificates, followed as they are renewed.

Envoy reads a file again when a new one is moved to its name, and not when it is written over, or when a link is made anew, as
some renewals do. So it is given links of ours, and they are moved whenever what they lead to has changed and can be used.
"""

import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mo_grpc.process.supervisor import SupervisorError

if TYPE_CHECKING:
    from mo_grpc.config import Settings

log = structlog.get_logger()


def paths(settings: "Settings") -> dict[str, Path]:
    """The certificate, its key and the clients' authority, by kind, as far as the settings have them."""
    found = {"certificate": settings.mo_tls_certificate, "key": settings.mo_tls_key, "client_ca": settings.mo_tls_client_ca}
    return {kind: path.absolute() for kind, path in found.items() if path}


def links(kinds: Iterable[str], folder: Path) -> dict[str, Path]:
    """Where Envoy looks for each kind."""
    return {kind: folder / f"tls-{kind}.pem" for kind in kinds}


class Certificates:
    """The files of the settings, and the links to them in a folder."""

    def __init__(self, files: dict[str, Path], folder: Path) -> None:
        self._paths = files
        self._links = links(files, folder)
        self._offered: object = None

    def offer(self) -> None:
        """Check the files, because Envoy would close every connection over bad ones, and let the links lead to them.

        Raises:
            SupervisorError: they cannot be read, or do not belong together.
        """
        self._offered = self._state()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if "certificate" in self._paths:
                context.load_cert_chain(self._paths["certificate"], self._paths["key"], password="")
            if "client_ca" in self._paths:
                context.load_verify_locations(self._paths["client_ca"])
        except OSError as error:
            names = ", ".join(map(str, self._paths.values()))
            raise SupervisorError(f"The certificates cannot be used ({error.strerror or error}): {names}.") from None
        for name, link in self._links.items():
            new = link.with_suffix(".new")
            new.unlink(missing_ok=True)
            new.symlink_to(self._paths[name])
            new.replace(link)

    def follow(self) -> None:
        """Offer them anew if they have changed; until the new ones can be used, the old ones stay."""
        if self._state() == self._offered:
            return
        try:
            self.offer()
            log.info("certificates renewed")
        except SupervisorError as error:
            log.warning("certificates not renewed", error=str(error))

    def _state(self) -> object:
        """What changes with them."""
        found = [path.stat() if path.exists() else None for path in self._paths.values()]
        return [stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]
