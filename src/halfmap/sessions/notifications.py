"""Telling people who do not look at the page: a webhook, an e-mail, and when there is something to tell."""

import json
import queue
import smtplib
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import urlsplit

from halfmap.errors import InputError

SECONDS = 10.0
_MOST_WAITING = 100


@dataclass(frozen=True, kw_only=True)
class NotificationSettings:
    """Whom to tell, and of what.

    Parameters
    ----------
    webhook_url : takes ``{"kind", "text", "session"}`` by POST, as chat programs and ntfy do; empty: none.
    email_to, email_from, smtp_host, smtp_port : of the mails; without a receiver or a host none is sent.
    no_image_minutes : without a new image after which people are told, while jobs run or are listened for; 0: never.
    target_particles : that people want; they are told when it is reached; 0: none.

    Raises
    ------
    InputError
        The address of the webhook is none of the web.
    """

    webhook_url: str = ""
    email_to: str = ""
    email_from: str = "halfmap@localhost"
    smtp_host: str = ""
    smtp_port: int = 25
    no_image_minutes: float = 10.0
    target_particles: int = 0

    def __post_init__(self) -> None:
        if self.webhook_url and urlsplit(self.webhook_url).scheme not in ("http", "https"):
            raise InputError(
                f"The webhook must be an address that begins with http:// or https://; got {self.webhook_url!r}."
            )


class Alarms:
    """When there is something to tell: each thing once, until it has ended.

    Parameters
    ----------
    settings : when.

    Notes
    -----
    The clock of the microscope is compared with itself alone: what counts is for how long its newest image has been the
    newest.
    """

    def __init__(self, settings: NotificationSettings) -> None:
        self._settings = settings
        self._newest: float | None = None
        self._since: float | None = None
        self._told_idle = False
        self._told_target = False

    def due(
        self, *, last_image_s: float | None, n_particles: int, is_active: bool, now_s: float
    ) -> list[tuple[str, str]]:
        """Return kinds and sentences that are to be told now.

        Parameters
        ----------
        last_image_s : time of the newest image, by the clock of its machine.
        is_active : whether jobs run or are listened for.
        now_s : of a clock that never goes back.
        """
        found = []
        if last_image_s != self._newest or self._since is None or not is_active:
            self._newest, self._since, self._told_idle = last_image_s, now_s, False
        minutes = self._settings.no_image_minutes
        if minutes > 0 and not self._told_idle and now_s - self._since >= 60 * minutes:
            self._told_idle = True
            found.append(("no image", f"No new image has come for {minutes:g} minutes."))
        target = self._settings.target_particles
        if 0 < target <= n_particles and not self._told_target:
            self._told_target = True
            found.append(("target", f"The target of {target:,} particles is reached: there are {n_particles:,}."))
        return found


class Sender:
    """Sends what is told, one after the other in a thread of its own; what fails is told to ``failed`` and dropped.

    Parameters
    ----------
    settings : whom to tell.
    session : name of the session.
    failed : hears why something could not be sent.
    """

    def __init__(self, settings: NotificationSettings, session: str, failed: Callable[[str], None]) -> None:
        self._settings, self._session, self._failed = settings, session, failed
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def send(self, kind: str, text: str) -> None:
        """Send a sentence; where too many wait, it is dropped."""
        try:
            self._waiting.put_nowait((kind, text))
        except queue.Full:
            self._failed(f"Too many messages wait to be sent; dropped: {text}")

    def close(self) -> None:
        """Send what waits, and end."""
        self._waiting.put(None)
        self._thread.join(2 * SECONDS)

    def _send_all(self) -> None:
        while (one := self._waiting.get()) is not None:
            for send in (self._post, self._mail):
                try:
                    send(*one)
                except (OSError, smtplib.SMTPException) as error:
                    self._failed(f"A message could not be sent ({error}): {one[1]}")

    def _post(self, kind: str, text: str) -> None:
        if not self._settings.webhook_url:
            return
        body = json.dumps({"kind": kind, "text": text, "session": self._session}).encode()
        headers = {"Content-Type": "application/json", "Title": f"halfmap: {kind}"}
        request = urllib.request.Request(self._settings.webhook_url, data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass

    def _mail(self, kind: str, text: str) -> None:
        settings = self._settings
        if not settings.email_to or not settings.smtp_host:
            return
        message = EmailMessage()
        message["From"], message["To"] = settings.email_from, settings.email_to
        message["Subject"] = f"halfmap, {self._session}: {kind}".replace("\n", " ")
        message.set_content(text)
        with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=SECONDS) as server:
            server.send_message(message)
