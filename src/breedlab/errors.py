"""What users see when something cannot continue: one message, no traceback."""

from __future__ import annotations

import copy
import copyreg
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

CODES = {
    "BL100": "The config has several kinds of problems, or one without a code of its own.",
    "BL101": "A name is not in the config; the message suggests the closest one.",
    "BL102": "The config is missing a value.",
    "BL103": "A value has the wrong type, is out of range, or is not one of the choices.",
    "BL104": "Settings of the config contradict each other.",
    "BL105": "A search cannot vary a setting over these values.",
    "BL106": "An override cannot be read.",
    "BL107": "A command's arguments are invalid, or contradict each other.",
    "BL108": "A plugin cannot be imported, or it registers something unusable.",
    "BL109": "An environment variable that the config reads is not set.",
    "BL110": "A run cannot be resumed, or not with these settings.",
    "BL111": "A newer breedlab wrote this, or its schema version is invalid.",
    "BL112": "A file is empty, truncated, or contains something else.",
    "BL113": "The images have changed since the run was started.",
    "BL114": "Another process is working on the run.",
    "BL115": "This is not a run directory, or its files are damaged.",
    "BL116": "A secret would be stored or shown.",
    "BL117": "A search cannot vary this setting.",
    "BL120": "The backbone or its weights cannot be used.",
    "BL121": "A setting does not suit the network, the images, or this machine.",
    "BL122": "The logger cannot be reached, or you are not logged in.",
    "BL200": "The images or their labels are missing, broken, or inconsistent.",
    "BL201": "A file is not a usable image.",
    "BL202": "An image that was checked can no longer be read.",
    "BL203": "A run has no recorded tensors.",
    "BL204": "A label file is multi-label; expected one label per image.",
    "BL205": "An image is empty, truncated, or corrupt.",
    "BL206": "An image is too large, or takes too much work to decode.",
    "BL207": "A file contains several images: it is animated, or has pages.",
    "BL208": "A file is not an image, or its format is not supported here.",
    "BL209": "An image is also a file of another kind, such as a ZIP or a web page.",
    "BL210": "A label file cannot be read, or names no images or no classes.",
    "BL211": "The folders are not classes of images, or not in splits that are understood.",
    "BL212": "The images cannot be downloaded now; a later run resumes.",
    "BL213": "The archive of images is not the expected one, is damaged, or may do harm.",
    "BL300": "Training or the search could not produce a model.",
    "BL301": "A disk is full.",
    "BL302": "A search has used up its minutes.",
    "BL303": "Another process of the same run failed; its message says why.",
    "BL304": "Training diverged: a loss or a metric is not a finite number.",
    "BL305": "Shared memory is full.",
    "BL306": "A data loader process was killed.",
    "BL307": "Memory is full.",
    "BL400": "The backend refused or failed.",
    "BL401": "Packages of an extra are not installed.",
    "BL402": "A job may have started, but the response was lost.",
    "BL403": "The job keeps running; only following it ended.",
    "BL404": "A job failed.",
    "BL405": "The port is taken.",
    "BL406": "A rollout was interrupted.",
    "BL407": "The job or endpoint does not exist.",
    "BL408": "breedlab did not create this, so it leaves it alone.",
    "BL409": "A rollout failed and was undone; the message says what is left.",
    "BL410": "The endpoint is in service, but your credentials may not test it.",
    "BL411": "The account does not permit the launch; nothing was sent.",
    "BL412": "The price is unknown, or the bill exceeds its limit; nothing was sent.",
    "BL500": "A model or its archive cannot be used.",
    "BL501": "A request cannot be answered.",
    "BL502": "An image of a request cannot be used.",
    "BL503": "An image's URL may not be fetched.",
    "BL504": "Grad-CAM cannot explain this network.",
    "BL505": "A model archive is damaged: it cannot be unpacked.",
    "BL506": "A model archive contains what breedlab never writes; do not trust it.",
    "BL507": "A model's model.json is missing or invalid.",
    "BL508": "A model's weights are missing or damaged, or belong to another network.",
    "BL509": "A model's inference engine cannot run here.",
    "BL510": "A model's inference engine computes other scores than when it was exported.",
    "BL511": "A request's body is too large.",
    "BL512": "A request's content type is not supported, or is not the image's.",
    "BL513": "None of the types that a request accepts can be produced.",
    "BL514": "A request's body cannot be read as JSON, a form, or gzip, or holds no images.",
    "BL515": "The host of an image's URL does not answer, or not with an image.",
    "BL516": "A request lacks the API key, or its page or host may not ask this server.",
    "BL517": "The server has too much to do; ask again in a second.",
    "BL600": "A file or folder cannot be read or written.",
}
"""The code of each kind of error, independent of its wording. A code is never reused."""


class BreedlabError(Exception):
    """A problem that the user can fix.

    Args:
        message: The whole message.
        code: Of `CODES`, where the class's own says too little.
    """

    code = ""
    """A key of `CODES`; empty for what is not an error, such as SIGTERM."""
    exit_code = 2
    reported = False
    """Whether another process of the same run has already printed it."""

    def __init__(self, message: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are copied by a call with their message; a subclass may take other arguments.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def reworded(self, message: str) -> Self:
        """Return the same error, of the same class and code, with another message."""
        same = copy.copy(self)
        same.args = (message,)
        return same

    def shown(self) -> str:
        """Return the message as commands print it, after its code."""
        return f"[{self.code}] {self}" if self.code else str(self)


class ConfigError(BreedlabError):
    """The config cannot mean anything sensible; nothing was started."""

    code = "BL100"


class UsageError(ConfigError):
    """A command's arguments are invalid, or contradict each other."""

    code = "BL107"


class PluginError(ConfigError):
    """A plugin cannot be imported, or it registers something unusable."""

    code = "BL108"


class BackboneError(ConfigError):
    """The backbone or its weights cannot be used."""

    code = "BL120"


class Unsuitable(ConfigError):
    """A setting does not suit the network, the images, or this machine."""

    code = "BL121"


class LoggerError(ConfigError):
    """The logger cannot be reached, or you are not logged in."""

    code = "BL122"


class FileError(ConfigError):
    """A file or folder cannot be read or written."""

    code = "BL600"


class NotARun(ConfigError):
    """This is not a run directory, or its files are damaged."""

    code = "BL115"


class ResumeError(ConfigError):
    """A run cannot be resumed, or not with these settings."""

    code = "BL110"


class OtherImages(ResumeError):
    """The images have changed since the run was started."""

    code = "BL113"


class RunInUse(ResumeError):
    """Another process is working on the run."""

    code = "BL114"


class NewerVersion(ConfigError):
    """A newer breedlab wrote this file."""

    code = "BL111"


class DataError(BreedlabError):
    """The images are missing, broken, or inconsistent."""

    code = "BL200"


class LabelFileError(DataError):
    """A label file cannot be read, or names no images or no classes."""

    code = "BL210"


class LayoutError(DataError):
    """The folders are not classes of images, or not in splits that are understood."""

    code = "BL211"


class TrainingError(BreedlabError):
    """Training or the search could not produce a model."""

    code = "BL300"
    exit_code = 1


class Diverged(TrainingError):
    """Training diverged: a loss or a metric is not a finite number."""

    code = "BL304"


class DiskFull(TrainingError):
    """A disk is full. Anything else would fail, too, so a search stops here and can be resumed."""

    code = "BL301"


class OutOfTime(TrainingError):
    """A search has used up its minutes: running trials end, and the results so far count."""

    code = "BL302"


class BackendError(BreedlabError):
    """The backend refused or failed."""

    code = "BL400"
    exit_code = 1


class NotFound(BackendError):
    """The job or endpoint does not exist."""

    code = "BL407"


class NotOurs(BackendError):
    """breedlab did not create this, so it leaves it alone."""

    code = "BL408"


class LostAnswer(BackendError):
    """A job may have started: no answer came, and the backend could not be asked."""

    code = "BL402"


class Detached(BackendError):
    """The user stopped following; the job continues."""

    code = "BL403"
    exit_code = 130


class JobFailed(BackendError):
    """A job ended without a result."""

    code = "BL404"


class MissingExtra(BackendError):
    """The backend needs packages that are not installed; nothing was started."""

    code = "BL401"
    exit_code = 2


class ServingError(BreedlabError):
    """A model archive or an image cannot be used."""

    code = "BL500"


class Terminated(BreedlabError):
    """SIGTERM ended a run, as when a spot instance is reclaimed; the message says how to resume."""

    exit_code = 143


def named(error: BaseException) -> str:
    """Return an error's type and message in one line, for a message that quotes it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def remember_run(error: BaseException, run: Path) -> None:
    """Attach the directory of the run that an error ended."""
    error.breedlab_run = run  # type: ignore[attr-defined]


def ended_run(error: BaseException) -> Path | None:
    """Return the directory of the run that an error ended; None if it ended none."""
    runs = (getattr(each, "breedlab_run", None) for each in causes(error))
    return next((run for run in runs if run is not None), None)
