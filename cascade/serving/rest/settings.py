"""Every setting of the service, once; its flags are built from these fields."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cascade.config import check_settings, setting
from cascade.errors import ConfigError
from cascade.models.runtimes import Runtime
from cascade.pipeline.augmented_views import TestTimeAugmentation

_ORIGIN = re.compile(r"https?://[a-zA-Z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")


@dataclass(frozen=True)
class ServiceSettings:
    """How one process serves one cascade."""

    model: str | None = setting(
        None, "file or folder of a cascade; by default the one that comes with the library"
    )
    runtime: Runtime = setting(
        "auto",
        "runtime: torch runs a .safetensors file, onnx a folder of cascade export; auto goes "
        "by the model",
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", flag="-d")
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 is every network")
    port: int = setting(8000, "port to listen on; 0 takes a free one", minimum=0, maximum=65535)
    concurrency: int | None = setting(
        None,
        "requests that are decoded and predicted at once; by default one for each core, and 1 for "
        "torch on the CPU",
        minimum=1,
        maximum=64,
    )
    queue: int = setting(
        8, "requests that may wait for their turn; more get 503", minimum=0, maximum=10_000
    )
    threads: int | None = setting(
        None,
        "threads of one prediction; by default OMP_NUM_THREADS, else one for each core",
        minimum=1,
        maximum=1024,
    )
    timeout_s: float = setting(
        30.0,
        "longest wait for a turn, and longest computation of one request, in seconds",
        minimum=0.001,
        maximum=3600,
    )
    body_timeout_s: float = setting(
        30.0, "longest time in which a body must have arrived, in seconds", minimum=0.1, maximum=600
    )
    max_body_mb: float = setting(20.0, "largest body of one request in MB", minimum=0.001)
    max_held_mb: float = setting(
        64.0, "bodies of all requests together that are held in memory, in MB", minimum=0.001
    )
    max_images: int = setting(8, "most images in one request", minimum=1, maximum=1000)
    max_megapixels: float = setting(
        25.0, "larger images are refused from their header", minimum=0.001, maximum=1e6
    )
    tta: TestTimeAugmentation = setting(
        "none", "test-time augmentation unless a request asks for another: average 1, 4 or 8 views"
    )
    operating_point: float | None = setting(
        None,
        "stored cutoff to label by, named by its sensitivity, unless a request asks for another; "
        "by default the model's own",
        minimum=0.0,
        maximum=1.0,
    )
    coverage: float = setting(
        0.9,
        "target share of the images of each class whose prediction set contains the true class, in "
        "(0, 1]",
    )
    rate_limit: float = setting(
        0.0, "requests a minute and client address, then 429; 0 is no limit", minimum=0.0
    )
    allow_origin: tuple[str, ...] = setting(
        (), "origins of web pages that may use the service, such as https://clinic.example"
    )
    trusted_proxy: tuple[str, ...] = setting(
        (), "addresses of proxies whose X-Forwarded-For names the client"
    )
    token_file: str | None = setting(
        None,
        "file with the token that requests must send; by default the environment variable "
        "CASCADE_API_TOKEN, and without that no token is required",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 < self.coverage <= 1:
            raise ConfigError(f"coverage is {self.coverage}; it must be above 0 and at most 1")
        for origin in self.allow_origin:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"allow_origin {origin!r} is no origin; give scheme and host without a path, "
                    "such as https://clinic.example or http://localhost:3000"
                )
        if self.max_held_mb < self.max_body_mb:
            raise ConfigError(
                f"max_held_mb is {self.max_held_mb:g}, below the {self.max_body_mb:g} MB of one "
                "body; raise it, or lower max_body_mb"
            )
