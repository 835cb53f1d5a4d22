"""Conditional writes on S3 and on servers that speak its language, through s3fs; see `schemas.conditional`.

s3fs sends `If-None-Match` itself (`pipe_file(mode="create")`), but takes a 409, and a refusal that does not name its
condition, for failures; it cannot send `If-Match`, and does not know of an answer that was lost.
"""

import uuid
from typing import Any

import tenacity
from fsspec.asyn import sync

from schemas.conditional import Tagged, versions
from schemas.errors import InputError

WRITER = "fastslow-writer"
"""Metadata of an object: which attempt wrote it. A request that got through, but whose answer was lost, is sent again
and refused by its own success; this tells the two apart."""

CONFLICTS = 10
"""A write at the same moment as another is answered with 409: neither yes nor no, to be sent again."""


class S3:
    """Objects of one s3fs file system."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def read(self, path: str) -> Tagged | None:
        """See `Conditional`; one request."""
        from s3fs.core import S3_RETRYABLE_ERRORS

        bucket, key, _ = self._fs.split_path(path)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(S3_RETRYABLE_ERRORS),  # of the body; s3fs repeats the request itself
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=tenacity.stop_after_attempt(self._fs.retries),
            reraise=True,
        )
        try:
            found: Tagged = again(sync, self._fs.loop, self._get, bucket, key)
        except FileNotFoundError as error:
            _refuse_no_bucket(bucket, error)
            return None
        return found

    async def _get(self, bucket: str, key: str) -> Tagged:
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, **self._fs.req_kw)
        try:
            return Tagged(await answer["Body"].read(), answer["ETag"])
        finally:
            answer["Body"].close()

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        """See `Conditional`; one PUT, and a HEAD where it was refused."""
        bucket, key, _ = self._fs.split_path(path)
        writer = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: _status(error) == 409),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
            stop=tenacity.stop_after_attempt(CONFLICTS),
            reraise=True,
        )
        put = {"Bucket": bucket, "Key": key, "Body": data, "Metadata": {WRITER: writer}}
        try:
            answer = again(self._fs.call_s3, "put_object", **put, **condition, **self._fs.req_kw)
        except OSError as error:
            _refuse_no_bucket(bucket, error)
            gone = tag is not None and isinstance(error, FileNotFoundError)
            if not gone and _status(error) != 412:
                raise
            return self._own(bucket, key, writer)
        return str(answer["ETag"])

    def _own(self, bucket: str, key: str, writer: str) -> str | None:
        """The tag of what is there if this attempt wrote it after all."""
        try:
            found = self._fs.call_s3("head_object", Bucket=bucket, Key=key, **self._fs.req_kw)
        except FileNotFoundError:
            return None
        return str(found["ETag"]) if found.get("Metadata", {}).get(WRITER) == writer else None

    def remove(self, path: str, tag: str) -> bool:
        """See `Conditional`; servers that know no condition of a DELETE are asked just before."""
        held = self.read(path)
        if held is None or held.tag != tag:
            return False
        bucket, key, _ = self._fs.split_path(path)
        try:
            self._fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=tag, **self._fs.req_kw)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and _status(error) != 412:
                raise
            return False
        return True

    def identity(self) -> list[str]:
        """See `Conditional`: an old botocore drops a condition it does not know."""
        return [str(self._fs.s3.meta.endpoint_url), *versions("s3fs", "botocore")]


def _answer(error: BaseException) -> dict[str, Any]:
    """What the server said, from the error s3fs made of it."""
    found = getattr(error.__cause__, "response", None)
    return found if isinstance(found, dict) else {}


def _status(error: BaseException) -> int | None:
    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _refuse_no_bucket(bucket: str, error: BaseException) -> None:
    if _answer(error).get("Error", {}).get("Code") == "NoSuchBucket":
        raise InputError(f"s3://{bucket}: no such bucket; make it first, or correct the URL") from error
