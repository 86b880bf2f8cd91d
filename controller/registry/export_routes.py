"""What a release needs to be verified where no controller is, over HTTP; its files are among the blobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field

from controller.http.endpoint import Body, Call, Endpoint
from controller.http.structs import AsStruct
from shared.ids import HardwareProfileId
from shared.manifest import digest
from shared.wire import DesiredModel

if TYPE_CHECKING:
    from controller.registry.ports import SignedDocuments
    from controller.registry.releases import Releases

_ROOT = "root.json"


class ExportQuery(Body):
    """For which hardware."""

    profile: str = Field(default="", max_length=63)
    """Empty: the only one, or the one that comes first."""


class ExportView(BaseModel):
    """A release for one class of hardware, with all that vouches for it."""

    wanted: Annotated[DesiredModel, AsStruct()]
    """As a device would be told it; its files are read from /blobs by their digests."""
    root_sha256: str
    documents: dict[str, str]
    """Signed metadata by file name; the text is signed as it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routes:
    releases: Releases
    documents: SignedDocuments

    async def export(self, call: Call) -> ExportView:
        """Show what a release consists of and what vouches for it."""
        asked = call.query_as(ExportQuery).profile
        wanted = await self.releases.exported(call.path["release_id"], HardwareProfileId(asked))
        parts = wanted.components if isinstance(wanted.components, tuple) else ()
        paths = [wanted.manifest.path, wanted.artifact.path, *(part.artifact.path for part in parts)]
        documents = await self.documents.documents(paths)
        texts = {name: data.decode() for name, data in documents.items()}
        return ExportView(wanted=wanted, root_sha256=digest(documents[_ROOT]), documents=texts)


def endpoints(releases: Releases, documents: SignedDocuments) -> tuple[Endpoint, ...]:
    """Return the operations on exports."""
    routes = _Routes(releases=releases, documents=documents)
    return (
        Endpoint(
            method="GET",
            path="/releases/{release_id}/export",
            summary="Show which files a release has for one class of hardware, and the signed metadata over them",
            handler=routes.export,
            query=ExportQuery,
            returns=ExportView,
            errors=(404,),
        ),
    )
