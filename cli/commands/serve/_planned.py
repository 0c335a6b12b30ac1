"""The commands of `bitnet serve` that are not built yet: their options and examples."""

# ruff: noqa: UP045
from dataclasses import dataclass
from typing import Optional

from ...fields import named, number, option, whole
from ...options import (
    ModelArgs,
    count_option,
    device_option,
    force_option,
    jobs_option,
    metrics_option,
    model_option,
    output_option,
)
from ...planned import Planned


def endpoint_option():
    return option(
        metavar="URL", positional=True, needed=True, help="the server: http://localhost:8080"
    )


@dataclass
class ServeStartArgs(ModelArgs):
    """Options of `bitnet serve start`."""

    model: str = model_option()
    host: str = option(
        "-H", "--host", default="127.0.0.1", metavar="HOST", help="the address to listen on"
    )
    port: int = option(
        type=whole(0), default=8080, metavar="N", help="the port; 0 takes a free one"
    )
    workers: int = option(
        "-w",
        "--workers",
        type=whole(1),
        default=1,
        metavar="N",
        help="HTTP processes before one engine",
    )
    engines: int = option(
        type=whole(1), default=1, metavar="N", help="replicas that share one copy of the weights"
    )
    api_key: Optional[str] = option(metavar="KEY", help="what a client must send")
    device: str = device_option()


@dataclass
class ServeTestArgs:
    """Options of `bitnet serve test`."""

    endpoint: str = endpoint_option()
    test_data: Optional[str] = option(
        type=named,
        metavar="FILE",
        help="requests and what is expected (JSON Lines)",
        shown_default="built in",
    )
    count: Optional[int] = count_option("how many requests", shown_default="those of the file")
    jobs: int = jobs_option("how many requests at once")


@dataclass
class ServeBatchArgs(ModelArgs):
    """Options of `bitnet serve batch`."""

    model: str = model_option()
    input: str = option(
        "-i",
        "--input",
        type=named,
        metavar="FILE",
        needed=True,
        help="the requests: the OpenAI batch format (JSON Lines)",
    )
    output: str = output_option(help="the file to write; goes on where it stopped", needed=True)
    device: str = device_option()
    force: bool = force_option("begin anew, and replace the output")


@dataclass
class ServeMonitorArgs:
    """Options of `bitnet serve monitor`."""

    endpoint: str = endpoint_option()
    metrics: list[str] = metrics_option("latency", "throughput", "memory")
    once: bool = option(default=False, help="one look, then end")
    interval: float = option(
        type=number(0.1), default=1.0, metavar="SECONDS", help="how often it looks"
    )


PLANNED = {
    "start": Planned(
        ServeStartArgs,
        "bitnet serve start --model model.bitnet --port 8080 --workers 4",
        "bitnet serve start model.bitnet --host 0.0.0.0 --api-key SECRET",
    ),
    "test": Planned(
        ServeTestArgs,
        "bitnet serve test --endpoint http://localhost:8080 --test-data test.jsonl",
        "bitnet serve test http://localhost:8080 --count 100 --jobs 8",
    ),
    "batch": Planned(
        ServeBatchArgs,
        "bitnet serve batch --model model.bitnet --input batch_input.jsonl --output results.jsonl",
        "bitnet serve batch model.bitnet -i requests.jsonl -o replies.jsonl --force",
    ),
    "monitor": Planned(
        ServeMonitorArgs,
        "bitnet serve monitor --endpoint http://localhost:8080 --metrics latency,throughput,memory",
        "bitnet serve monitor http://localhost:8080 --once --json",
    ),
}
