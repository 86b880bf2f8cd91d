"""The registry over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web
from pydantic import Field

from controller.http.endpoint import LARGEST, Body, Call, Endpoint, Page, PageQuery, Reply, page_of
from controller.registry.bodies import (
    ConversionView,
    DatasetView,
    Described,
    ModelView,
    NewConversion,
    NewDataset,
    NewRelease,
    NewVersion,
    ReleaseView,
    VersionView,
)
from shared.errors import InvalidIdError
from shared.ids import Sha256, model_name, sha256_hex

if TYPE_CHECKING:
    from controller.blobs import Blobs
    from controller.registry.conversions import Conversions
    from controller.registry.measurements import Measurements
    from controller.registry.releases import Releases
    from controller.registry.service import Registry

_JSON = "application/json"
_HTML = "text/html; charset=utf-8"
_PAGE_HEADERS = {
    "Content-Type": _HTML,
    # A conversion program wrote the page from what a stranger's model holds: it may be looked at, and do nothing.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; sandbox"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class VersionsQuery(Body):
    """Which part of a list of versions: those with a number above `after`."""

    limit: int = Field(default=100, ge=1, le=500)
    after: int = Field(default=0, ge=0, le=LARGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRoutes:
    """The services behind the routes."""

    registry: Registry
    conversions: Conversions
    measurements: Measurements
    releases: Releases
    blobs: Blobs

    async def add_version(self, call: Call) -> Reply:
        """Make an uploaded file a version."""
        body = call.body_as(NewVersion)
        version, created = await self.registry.add_version(
            actor=call.actor,
            model=model_name(call.path["model"]),
            sha256=Sha256(body.sha256),
            filename=body.filename,
            source_format=body.source_format,
        )
        return Reply(value=VersionView.of(version), status=_created(created))

    async def list_models(self, call: Call) -> Page[ModelView]:
        """Show models."""
        query = call.query_as(PageQuery)
        found = await self.registry.models(after=query.after or "", limit=query.limit + 1)
        return page_of(found, query.limit, ModelView.of, lambda last: last.model)

    async def show_model(self, call: Call) -> ModelView:
        """Show a model."""
        return ModelView.of(await self.registry.model(model_name(call.path["model"])))

    async def list_versions(self, call: Call) -> Page[VersionView]:
        """Show versions of a model."""
        query = call.query_as(VersionsQuery)
        name = model_name(call.path["model"])
        found = await self.registry.versions(name, after=query.after, limit=query.limit + 1)
        return page_of(found, query.limit, VersionView.of, lambda last: str(last.number))

    async def show_version(self, call: Call) -> VersionView:
        """Show a version."""
        number = call.path["number"]
        if not (number.isascii() and number.isdecimal()) or len(number) > len(str(2**31)) - 1:
            raise InvalidIdError(field="number", value=number, rule="a whole number")
        return VersionView.of(await self.registry.version(model_name(call.path["model"]), int(number)))

    async def add_dataset(self, call: Call) -> Reply:
        """Make uploaded shards a dataset."""
        document = call.body_as(NewDataset).document
        dataset, created = await self.registry.add_dataset(actor=call.actor, spec=document)
        return Reply(value=DatasetView.of(dataset), status=_created(created))

    async def list_datasets(self, call: Call) -> Page[DatasetView]:
        """Show datasets."""
        query = call.query_as(PageQuery)
        found = await self.registry.datasets(after=query.after or "", limit=query.limit + 1)
        return page_of(found, query.limit, DatasetView.of, lambda last: last.sha256)

    async def show_dataset(self, call: Call) -> DatasetView:
        """Show a dataset."""
        return DatasetView.of(await self.registry.dataset(sha256_hex(call.path["sha256"])))

    async def show_document(self, call: Call) -> Described:
        """Show the document of a dataset."""
        return Described(document=await self.registry.dataset_spec(sha256_hex(call.path["sha256"])))

    async def order_conversion(self, call: Call) -> ConversionView:
        """Queue a conversion."""
        body = call.body_as(NewConversion)
        return ConversionView.whole(await self.conversions.order(body.order(), actor=call.actor))

    async def list_conversions(self, call: Call) -> Page[ConversionView]:
        """Show conversions, newest first."""
        query = call.query_as(PageQuery)
        found = await self.conversions.conversions(after=query.after, limit=query.limit + 1)
        return page_of(found, query.limit, ConversionView.of, lambda last: last.conversion_id)

    async def show_conversion(self, call: Call) -> ConversionView:
        """Show a conversion."""
        conversion_id = call.path["conversion_id"]
        measured = await self.measurements.of_conversion(conversion_id)
        return ConversionView.whole(await self.conversions.conversion(conversion_id), measured)

    async def cancel_conversion(self, call: Call) -> ConversionView:
        """End a conversion."""
        return ConversionView.whole(await self.conversions.cancel(call.path["conversion_id"], actor=call.actor))

    async def show_card(self, call: Call) -> web.StreamResponse:
        """Send the model card as JSON."""
        card = await self.conversions.card(call.path["conversion_id"])
        return web.FileResponse(self.blobs.path(card.json_sha256), headers={"Content-Type": _JSON})

    async def show_card_page(self, call: Call) -> web.StreamResponse:
        """Send the model card as a page."""
        card = await self.conversions.card(call.path["conversion_id"])
        return web.FileResponse(self.blobs.path(card.page_sha256), headers=_PAGE_HEADERS)

    async def create_release(self, call: Call) -> Reply:
        """Make a conversion a release."""
        body = call.body_as(NewRelease)
        release, created = await self.releases.create_release(
            body.conversion_id, actor=call.actor, options=body.options()
        )
        return Reply(value=ReleaseView.of(release), status=_created(created))

    async def list_releases(self, call: Call) -> Page[ReleaseView]:
        """Show releases, newest first."""
        query = call.query_as(PageQuery)
        found = await self.releases.releases(after=query.after, limit=query.limit + 1)
        return page_of(found, query.limit, ReleaseView.of, lambda last: last.release_id)

    async def show_release(self, call: Call) -> ReleaseView:
        """Show a release."""
        return ReleaseView.of(await self.releases.release(call.path["release_id"]))

    async def delete_release(self, call: Call) -> None:
        """Take a release away."""
        await self.releases.delete_release(call.path["release_id"], actor=call.actor)


def endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    """Return the registry's part of the API."""
    return (
        *_model_endpoints(routes),
        *_dataset_endpoints(routes),
        *_conversion_endpoints(routes),
        *_card_endpoints(routes),
        *_release_endpoints(routes),
    )


def _model_endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/models/{model}/versions",
            summary="Make an uploaded file a version of a model; the same bytes again are the same version (200)",
            handler=routes.add_version,
            body=NewVersion,
            returns=VersionView,
            status=HTTPStatus.CREATED,
            also=(HTTPStatus.OK,),
        ),
        Endpoint(
            method="GET",
            path="/models",
            summary="List models by name",
            handler=routes.list_models,
            query=PageQuery,
            returns=Page[ModelView],
        ),
        Endpoint(
            method="GET",
            path="/models/{model}",
            summary="Show a model",
            handler=routes.show_model,
            returns=ModelView,
            errors=(404, 422),
        ),
        Endpoint(
            method="GET",
            path="/models/{model}/versions",
            summary="List the versions of a model, oldest first",
            handler=routes.list_versions,
            query=VersionsQuery,
            returns=Page[VersionView],
            errors=(404,),
        ),
        Endpoint(
            method="GET",
            path="/models/{model}/versions/{number}",
            summary="Show a version",
            handler=routes.show_version,
            returns=VersionView,
            errors=(404, 422),
        ),
    )


def _dataset_endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/datasets",
            summary="Make uploaded shards a dataset, by the document that names them; again, it is the same (200)",
            handler=routes.add_dataset,
            body=NewDataset,
            returns=DatasetView,
            status=HTTPStatus.CREATED,
            also=(HTTPStatus.OK,),
            errors=(409, 507),
        ),
        Endpoint(
            method="GET",
            path="/datasets",
            summary="List datasets",
            handler=routes.list_datasets,
            query=PageQuery,
            returns=Page[DatasetView],
        ),
        Endpoint(
            method="GET",
            path="/datasets/{sha256}",
            summary="Show a dataset",
            handler=routes.show_dataset,
            returns=DatasetView,
            errors=(404, 422),
        ),
        Endpoint(
            method="GET",
            path="/datasets/{sha256}/document",
            summary="Show a dataset's document: its splits, labels, slices and shards",
            handler=routes.show_document,
            returns=Described,
            errors=(404, 422),
        ),
    )


def _conversion_endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/conversions",
            summary="Queue a conversion of a model version into TFLite artifacts",
            handler=routes.order_conversion,
            body=NewConversion,
            returns=ConversionView,
            status=HTTPStatus.ACCEPTED,
        ),
        Endpoint(
            method="GET",
            path="/conversions",
            summary="List conversions, newest first",
            handler=routes.list_conversions,
            query=PageQuery,
            returns=Page[ConversionView],
        ),
        Endpoint(
            method="GET",
            path="/conversions/{conversion_id}",
            summary="Show how a conversion stands",
            handler=routes.show_conversion,
            returns=ConversionView,
            errors=(404,),
        ),
        Endpoint(
            method="POST",
            path="/conversions/{conversion_id}/cancel",
            summary="End a conversion that waits or runs; one that is canceled stays so",
            handler=routes.cancel_conversion,
            returns=ConversionView,
            errors=(404, 409),
        ),
    )


def _card_endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="GET",
            path="/conversions/{conversion_id}/card",
            summary="Read the model card as JSON",
            handler=routes.show_card,
            media=_JSON,
            errors=(404,),
        ),
        Endpoint(
            method="GET",
            path="/conversions/{conversion_id}/card.html",
            summary="Read the model card as a page that needs nothing else",
            handler=routes.show_card_page,
            media=_HTML,
            errors=(404,),
        ),
    )


def _release_endpoints(routes: RegistryRoutes) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            method="POST",
            path="/releases",
            summary="Sign the smallest passing artifacts of a conversion as a release; again, it is the same (200)",
            handler=routes.create_release,
            body=NewRelease,
            returns=ReleaseView,
            status=HTTPStatus.CREATED,
            also=(HTTPStatus.OK,),
            errors=(403, 409, 507),
        ),
        Endpoint(
            method="GET",
            path="/releases",
            summary="List releases, newest first",
            handler=routes.list_releases,
            query=PageQuery,
            returns=Page[ReleaseView],
        ),
        Endpoint(
            method="GET",
            path="/releases/{release_id}",
            summary="Show a release",
            handler=routes.show_release,
            returns=ReleaseView,
            errors=(404,),
        ),
        Endpoint(
            method="DELETE",
            path="/releases/{release_id}",
            summary="Take a release away that nothing uses",
            handler=routes.delete_release,
            status=HTTPStatus.NO_CONTENT,
            errors=(404, 409),
        ),
    )


def _created(created: bool) -> HTTPStatus:  # noqa: FBT001 - the answer to the question in the name
    return HTTPStatus.CREATED if created else HTTPStatus.OK
