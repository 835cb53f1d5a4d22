"""Conditional writes on Google Cloud Storage, through gcsfs; see `schemas.conditional`.

gcsfs can create (`ifGenerationMatch=0`) but not replace, and does not know of an answer that was lost.
"""

import json
import uuid
from typing import Any

from schemas.conditional import Tagged, versions
from schemas.errors import InputError

WRITER = "fastslow-writer"
"""Metadata of an object: which attempt wrote it; see `schemas.conditional_s3`."""


class Gcs:
    """Objects of one gcsfs file system; gcsfs itself repeats requests that fail in passing."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def read(self, path: str) -> Tagged | None:
        """See `Conditional`; one request."""
        bucket, key, _ = self._fs.split_path(path)
        try:
            headers, data = self._call("GET", "b/{}/o/{}", bucket, key, alt="media")
        except FileNotFoundError:
            self._refuse_no_bucket(bucket)
            return None
        return Tagged(data, headers["X-Goog-Generation"])

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        """See `Conditional`; one upload, and a look where it was refused."""
        bucket, key, _ = self._fs.split_path(path)
        writer = uuid.uuid4().hex
        described = json.dumps({"name": key, "metadata": {WRITER: writer}}).encode()
        parts = b"--%(mark)s\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n%(described)s\r\n" \
            b"--%(mark)s\r\nContent-Type: application/json\r\n\r\n%(data)s\r\n--%(mark)s--"  # fmt: skip
        try:
            made = self._call(
                "POST",
                f"{self._fs.base.removesuffix('storage/v1/')}upload/storage/v1/b/{{}}/o",
                bucket,
                uploadType="multipart",
                ifGenerationMatch=tag or "0",
                headers={"Content-Type": f'multipart/related; boundary="{writer}"'},
                data=parts % {b"mark": writer.encode(), b"described": described, b"data": data},
                json_out=True,
            )
        except FileExistsError:  # gcsfs's word for 412, whatever the condition
            return self._own(bucket, key, writer)
        except FileNotFoundError as error:
            raise InputError(f"gs://{bucket}: no such bucket; make it first, or correct the URL") from error
        return str(made["generation"])

    def _own(self, bucket: str, key: str, writer: str) -> str | None:
        """The tag of what is there if this attempt wrote it after all."""
        try:
            found = self._call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        except FileNotFoundError:
            return None
        return str(found["generation"]) if found.get("metadata", {}).get(WRITER) == writer else None

    def remove(self, path: str, tag: str) -> bool:
        """See `Conditional`."""
        held = self.read(path)
        if held is None or held.tag != tag:
            return False
        bucket, key, _ = self._fs.split_path(path)
        try:
            self._call("DELETE", "b/{}/o/{}", bucket, key, ifGenerationMatch=tag)
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def identity(self) -> list[str]:
        """See `Conditional`: emulators differ."""
        return [str(self._fs.base), *versions("gcsfs")]

    def _refuse_no_bucket(self, bucket: str) -> None:
        try:
            self._call("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError as error:
            raise InputError(f"gs://{bucket}: no such bucket; make it first, or correct the URL") from error

    def _call(self, *arguments: Any, **options: Any) -> Any:
        """One request; what gcsfs raises for a refusal is made an OSError, as elsewhere."""
        from gcsfs.retry import HttpError

        try:
            return self._fs.call(*arguments, **options)
        except HttpError as error:
            raise OSError(f"{error}") from error
