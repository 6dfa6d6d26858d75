"""`LiveParams`: what `halfmap live` takes, from flags and from a settings file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from halfmap.errors import FormatError, InputError

DEFAULT_FILE = Path("~/.halfmap/live.toml")


@dataclass(frozen=True, kw_only=True)
class LiveParams:
    """What `halfmap live` takes."""

    root: tuple[Path, ...] = ()
    """Folder under which acquisition folders may be opened; more by giving the flag again."""

    port: Annotated[int, Ge(0), Le(65535)] = 8181
    """Port to listen on; 0 takes a free one."""

    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own demands authentication."""

    work: Path | None = None
    """Folder for the state of sessions; Live/ in the project where left out."""

    settings: Path | None = None
    """Settings file, TOML with these names; ~/.halfmap/live.toml where left out and there is one. Flags override it."""

    microscope_name: str = ""
    """Shown in the title."""

    read_only_link: bool = False
    """Print a second address, for people who look and change nothing."""

    auth: bool = True
    """Ask for a token. Without, everybody on this machine may do everything."""

    force: bool = False
    """Run as root, or without authentication where other machines can reach it, all the same."""

    allowed_host: tuple[str, ...] = ()
    """Further name under which browsers know this server, as that of a proxy; more by giving the flag again."""

    trusted_proxy: tuple[str, ...] = ()
    """Address of a proxy whose X-Forwarded headers are believed; more by giving the flag again."""

    root_path: str = ""
    """Path under which a proxy shows the server."""

    remote_user_header: str = ""
    """Header in which a trusted proxy names the user, who then needs no token."""

    admins: tuple[str, ...] = ()
    """User of that header who may do everything; more by giving the flag again."""

    operators: tuple[str, ...] = ()
    """User of that header who may start, stop and select; more by giving the flag again. Others may look."""

    tls_certificate: Path | None = None
    """Certificate, PEM; with it the server speaks HTTPS."""

    tls_key: Path | None = None
    """Key of the certificate, PEM."""

    devices: str = "auto"
    """Where sessions compute: auto, cpu, all, or numbers of GPUs as 0,1."""

    workers: Annotated[int, Ge(1)] | None = None
    """Processes of each session; one on each device or half the cores where left out."""

    cluster: Path | None = None
    """YAML file that describes the cluster on which sessions compute, as for jobs."""

    poll_seconds: Annotated[float, Gt(0)] = 10.0
    """Between two looks at an acquisition folder."""

    webhook_url: str = ""
    """Address that is told of failures, targets and missing images, by POST."""

    email_to: str = ""
    """Receiver of mails about the same."""

    email_from: str = "halfmap@localhost"
    """Sender of the mails."""

    smtp_host: str = ""
    """Machine that takes the mails."""

    smtp_port: Annotated[int, Ge(1), Le(65535)] = 25
    """Its port."""

    no_image_minutes: Annotated[float, Ge(0)] = 10.0
    """Without a new image after which people are told; 0: never."""

    target_particles: Annotated[int, Ge(0)] = 0
    """Particles after which people are told; 0: never."""

    def __post_init__(self) -> None:
        if (self.tls_key is None) != (self.tls_certificate is None):
            raise InputError(
                "TLS must have a certificate and a key; got one of them; give --tls-certificate and --tls-key."
            )
        if self.remote_user_header and not self.trusted_proxy:
            raise InputError(
                "A header that names users must come from a trusted proxy; got none; name it with --trusted-proxy."
            )


def with_settings_file(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return given values and, below them, those of the settings file.

    Raises
    ------
    InputError
        A file was named that is not there.
    FormatError
        It is no TOML.
    """
    named = given.get("settings")
    path = Path(named if named is not None else DEFAULT_FILE).expanduser()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is not None:
            raise InputError(f"The settings file must exist; got {path}; write it, or leave --settings out.") from None
        values = {}
    except (ValueError, OSError) as error:
        raise FormatError(path, expected="TOML", found=str(error), remedy="mend the settings file") from error
    return {**values, **given}
