"""What is decoded at all: limits checked before decoding, and the reasons a picture or clip is refused for."""

from dataclasses import dataclass
from typing import Self

from schemas.configs import Embed
from schemas.errors import SampleError
from schemas.samples import Modality


class NotAnImage(SampleError):
    """The bytes are no picture of a kind we read."""


class BrokenImage(SampleError):
    """The bytes begin as a picture and go on as something else."""


class TruncatedImage(BrokenImage):
    """The picture ends early."""


class NotAVideo(SampleError):
    """The bytes are no clip of a kind we read."""


class BrokenVideo(SampleError):
    """The bytes begin as a clip and cannot be read on."""


class NoFrames(SampleError):
    """The clip holds no picture: sound only, or nothing that decodes."""


class TooManyBytes(SampleError):
    """The file is larger than the configured limit."""


class TooManyPixels(SampleError):
    """The picture is larger than the configured limit (a decompression bomb, or a gigapixel scan)."""


class DecodeTimeout(SampleError):
    """The clip takes longer to decode than the configured limit."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """How large a thing is decoded.

    Attributes:
      max_image_bytes, max_video_bytes: of the file.
      max_pixels: width times height, of a picture or of one frame.
      max_decode_s: wall time for one clip, in seconds.
    """

    max_image_bytes: int = 64 << 20
    max_video_bytes: int = 512 << 20
    max_pixels: int = 100_000_000
    max_decode_s: float = 60.0

    @classmethod
    def of(cls, embed: Embed) -> Self:
        """The limits of a dataset's config."""
        return cls(embed.max_image_bytes, embed.max_video_bytes, embed.max_pixels, embed.max_decode_s)

    def check_pixels(self, width: int, height: int) -> None:
        """Checks a size before anything is allocated for it.

        Raises:
          TooManyPixels: above `max_pixels`.
        """
        if width * height > self.max_pixels:
            raise TooManyPixels(f"{width}x{height} pixels; the limit is {self.max_pixels:,} (embed.max_pixels)")

    def admit(self, modality: Modality, *, size_bytes: int, width: int, height: int) -> bool:
        """Whether something that was decoded before is within the limits of today, all but the seconds it takes.

        Args:
          modality: what the content turned out to be, whatever its name says.
          size_bytes: of the file.
          width, height: in pixels.
        """
        most = self.max_video_bytes if modality == "video" else self.max_image_bytes
        return size_bytes <= most and width * height <= self.max_pixels
