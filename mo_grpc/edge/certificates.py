"""The edge's certificates, followed as they are renewed.

Envoy reads a file again when a new one is moved to its name, and not when it is written over, or when a link is made anew, as
some renewals do. So it is given links of ours, and they are moved whenever what they lead to has changed and can be used.
"""

import ssl
from pathlib import Path

import structlog

from mo_grpc.config import Settings
from mo_grpc.edge.configuration import EdgeError

log = structlog.get_logger()


class Certificates:
    """The certificate, its key and the clients' authority, as far as the settings have them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        paths = {"certificate": settings.mo_tls_certificate, "key": settings.mo_tls_key, "client_ca": settings.mo_tls_client_ca}
        self._paths = {name: path.absolute() for name, path in paths.items() if path}
        self.links = {name: folder / f"tls-{name}.pem" for name in self._paths}
        """Where Envoy shall look for each."""
        self._offered: object = None

    def offer(self) -> None:
        """Look at the files, before Envoy does and hangs up on everybody, and lead it there.

        Raises:
            EdgeError: they cannot be read, or do not belong together.
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
            raise EdgeError(f"The certificates cannot be used ({error.strerror or error}): {names}.") from None
        for name, link in self.links.items():
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
        except EdgeError as error:
            log.warning("certificates not renewed", error=str(error))

    def _state(self) -> object:
        """What changes with them."""
        found = [path.stat() if path.exists() else None for path in self._paths.values()]
        return [stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]
