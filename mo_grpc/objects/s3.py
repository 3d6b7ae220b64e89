"""Files in S3, or in another service with its API."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mo_grpc.config import Settings
from mo_grpc.objects.base import BLOCK, LISTED, NAME, ObjectNotFound, ObjectsUnavailable

PART = 8 * 1024 * 1024
"""Bytes sent at a time; S3 needs 5 MiB at least, and accepts 10,000 parts."""

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "InvalidRange", "416"}


class S3Store:
    """Files in a bucket; `s3://bucket/key` names them too, in this bucket and in `others`."""

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.aws_storage_bucket_name or ""
        self._buckets: Collection[str] = {self._bucket, *settings.mo_s3_source_buckets}
        secret = settings.aws_secret_access_key
        self._client: Any = boto3.client(
            "s3",
            aws_access_key_id=settings.aws_access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=settings.aws_s3_region_name,
            endpoint_url=settings.aws_s3_endpoint_url,
            config=Config(
                signature_version=settings.aws_s3_signature_version,
                s3={"addressing_style": settings.aws_s3_addressing_style},
                connect_timeout=2,
                read_timeout=10,
                retries={"total_max_attempts": 3, "mode": "standard"},
            ),
        )

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """See `ObjectStore.put`: a small file at once, a large one in parts, which are aborted if `chunks` raises."""
        bucket, key = self._place(name)
        size, buffer, upload = 0, bytearray(), None
        parts: list[dict[str, object]] = []
        try:
            async for chunk in chunks:
                buffer += chunk
                if len(buffer) >= PART:
                    upload = upload or (await self._call("create_multipart_upload", bucket, key))["UploadId"]
                    parts.append(await self._part(bucket, key, upload, len(parts) + 1, bytes(buffer)))
                    size += len(buffer)
                    buffer.clear()
            size += len(buffer)
            if upload is None:
                await self._call("put_object", bucket, key, Body=bytes(buffer))
            else:
                if buffer:
                    parts.append(await self._part(bucket, key, upload, len(parts) + 1, bytes(buffer)))
                whole = {"Parts": parts}
                await self._call("complete_multipart_upload", bucket, key, UploadId=upload, MultipartUpload=whole)
        except BaseException:
            if upload:
                # Not cancelled with the call, because the parts would stay stored, and be paid for.
                await asyncio.shield(self._call("abort_multipart_upload", bucket, key, UploadId=upload))
            raise
        return size

    async def size(self, source: str) -> int:
        """See `ObjectStore.size`."""
        bucket, key = self._place(source)
        return int((await self._call("head_object", bucket, key))["ContentLength"])

    async def read(self, source: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See `ObjectStore.read`."""
        bucket, key = self._place(source)
        if offset and offset == await self.size(source):
            return  # no range begins there
        body = (
            await self._call("get_object", bucket, key, Range=f"bytes={offset}-")
            if offset
            else await self._call("get_object", bucket, key)
        )["Body"]
        try:
            while True:
                with _failures(source):
                    block = await asyncio.to_thread(body.read, BLOCK)
                if not block:
                    return
                yield block
        finally:
            body.close()

    async def names(self, folder: str) -> AsyncIterator[list[str]]:
        """See `ObjectStore.names`."""
        bucket, prefix = self._bucket, f"{folder}/"
        unfinished = await self._of_bucket("list_multipart_uploads", bucket, Prefix=prefix)
        for upload in unfinished.get("Uploads", ()):
            await self._of_bucket("abort_multipart_upload", bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        more: dict[str, str] = {}
        while True:
            page = await self._of_bucket("list_objects_v2", bucket, Prefix=prefix, MaxKeys=LISTED, **more)
            yield [found["Key"] for found in page.get("Contents", ())]
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, name: str) -> None:
        """See `ObjectStore.delete`."""
        await self._call("delete_object", *self._place(name))

    def _place(self, source: str) -> tuple[str, str]:
        """The bucket and key that a source names."""
        if source.startswith("s3://"):
            url = urlsplit(source)
            bucket, key = url.netloc, url.path.removeprefix("/")
        else:
            bucket, key = self._bucket, source if NAME.fullmatch(source) else ""
        if not key or bucket not in self._buckets:
            raise ObjectNotFound(source)
        return bucket, key

    async def _part(self, bucket: str, key: str, upload: str, number: int, content: bytes) -> dict[str, object]:
        sent = await self._call("upload_part", bucket, key, UploadId=upload, PartNumber=number, Body=content)
        return {"ETag": sent["ETag"], "PartNumber": number}

    async def _call(self, operation: str, bucket: str, key: str, **arguments: object) -> Any:
        return await self._of_bucket(operation, bucket, Key=key, **arguments)

    async def _of_bucket(self, operation: str, bucket: str, **arguments: object) -> Any:
        with _failures(f"s3://{bucket}/{arguments.get('Key', '')}"):
            return await asyncio.to_thread(getattr(self._client, operation), Bucket=bucket, **arguments)


@contextmanager
def _failures(source: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _MISSING:
            raise ObjectNotFound(source) from None
        raise ObjectsUnavailable from error
    except (BotoCoreError, OSError) as error:
        raise ObjectsUnavailable from error
